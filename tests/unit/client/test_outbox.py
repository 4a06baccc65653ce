"""One reply a task, for ever: also once its study is over."""

from pathlib import Path

import pytest

from hansa_client.outbox import Outbox
from hansa_common.messages import Envelope
from hansa_common.wire.codec import Kind, Parcel
from hansa_common.wire.protocol import TaskId


@pytest.mark.parametrize("sent", [True, False])
def test_a_study_that_is_said_to_be_over_gets_no_second_reply_to_a_task(tmp_path: Path, sent: bool) -> None:
    outbox, task = Outbox(tmp_path), TaskId(study="sepsis", step="train-1", attempt=1, site="a")
    other = task.model_copy(update={"study": "other"})
    for one in (task, other):
        outbox.put(one, Parcel(kind=Kind.HANSA, envelope=Envelope(header=b"{}")), lambda _entry: None)
    if sent:
        outbox.acknowledge(task)
    outbox.end_study("sepsis")
    assert not outbox.path(task).exists()
    assert [entry.task for entry in outbox.waiting()] == [other]
    for again in (outbox, Outbox(tmp_path)):
        entry = again.find(task)
        assert entry is not None
        assert entry.acknowledged  # the agent refuses to do it again
