"""What of an explanation leaves a site: sums over enough examples, alone or under masks, and nothing else."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hansa_client.release import Release
from hansa_client.session import SiteState, handle
from hansa_common.errors import ReleaseRefused
from hansa_common.messages import (
    Explained,
    ExplainTask,
    Message,
    Opened,
    OpenTask,
    Refusal,
    Sums,
    decode,
    encode,
)
from hansa_common.metrics import Importance
from hansa_common.plan import StudyPlan

Make = Callable[..., StudyPlan]
EXPLAIN: dict[str, Any] = {"explain": {"method": "integrated_gradients", "examples": 30, "minimum_examples": 5}}


def importance(*examples: int) -> Importance:
    labels = np.repeat(np.arange(10), [*examples, *[0] * (10 - len(examples))])
    return Importance.of(np.ones((labels.size, 64)), np.zeros((labels.size, 64)), labels, 10)


def released(plan: StudyPlan, sums: Sums) -> Message:
    digest = plan.digest()
    task = Message(header=ExplainTask(plan_digest=digest), vector=np.zeros(650, np.float32))
    reply = Message(header=Explained(plan_digest=digest, site="a", seconds=1.0), sums=sums)
    return decode(Release(plan=plan, parameters=650, max_bytes=1 << 20).reply(task, reply))


def test_classes_with_too_few_examples_stay_at_the_site(make_plan: Make) -> None:
    message = released(make_plan(evaluation=EXPLAIN), importance(4, 5, 20).to_sums())
    assert message.sums is not None
    assert message.sums[:10].tolist() == [0, 5, 20, *[0] * 7]
    assert message.sums[10 : 10 + 64].max() == 0
    assert message.vector is None
    assert message.counts == {}


def test_a_worker_that_gives_something_else_gets_nothing_out(make_plan: Make) -> None:
    plan = make_plan(evaluation=EXPLAIN)
    for sums in (importance(40).to_sums(), importance(20).to_sums()[:-1], np.full(1290, 2**63, np.uint64)):
        with pytest.raises(ReleaseRefused, match="Nothing left"):
            released(plan, sums)


def test_without_the_section_nothing_is_explained(make_plan: Make) -> None:
    with pytest.raises(ReleaseRefused):
        released(make_plan(), importance(20).to_sums())


def explained(plan: StudyPlan, folder: str = "") -> Message:
    state = SiteState(index=1)
    opened = decode(handle(encode(Message(header=OpenTask(plan=plan.model_dump_json()))), state))
    assert isinstance(opened.header, Opened)
    task = ExplainTask(plan_digest=plan.digest(), folder=folder)
    vector = np.linspace(-1.0, 1.0, 650, dtype=np.float32)
    return decode(handle(encode(Message(header=task, vector=vector)), state))


def test_a_simulated_site_keeps_its_examples_in_the_runs_folder(make_plan: Make, tmp_path: Any) -> None:
    plan = make_plan(evaluation=EXPLAIN)
    message = explained(plan, str(tmp_path))
    assert isinstance(message.header, Explained)
    assert message.sums is not None
    assert 0 < message.sums[:10].sum() <= 30
    assert ((message.sums[:10] == 0) | (message.sums[:10] >= 5)).all()
    kept = tmp_path / "explanations" / "002 site-2" / "examples.csv"
    assert len(kept.read_text().splitlines()) == 9
    # on another machine the run's folder is not there, and none is made
    assert isinstance(explained(plan, str(tmp_path / "elsewhere")).header, Explained)
    assert not (tmp_path / "elsewhere").exists()


def test_a_study_that_cannot_be_explained_is_not_opened(make_plan: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hansa_client.training.attribution.find_spec", lambda _name: None)
    plan = make_plan(evaluation=EXPLAIN, seed=99)
    task = encode(Message(header=OpenTask(plan=plan.model_dump_json())))
    refusal = decode(handle(task, SiteState(index=0))).header
    assert isinstance(refusal, Refusal)
    assert "captum" in refusal.reason
