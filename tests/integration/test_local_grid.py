"""Engine ``local`` with real processes: what happens to a task whose worker dies, raises or hangs."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from hansa_server.engines.local import LocalGrid

APPS = Path(__file__).parent / "apps"


@pytest.fixture
def grid(tmp_path: Path) -> Iterator[LocalGrid]:
    grid = LocalGrid(
        client_app="plain:app", nodes=3, workers=2, run_config={"a": 1}, folder=APPS, log=tmp_path / "workers.log"
    )
    grid.start()
    yield grid
    grid.close()


def ask(grid: LocalGrid, *tasks: tuple[int, str], ttl: float = 60.0) -> dict[int, Message]:
    messages = [
        Message(RecordDict({"do": ConfigRecord({"what": what})}), node, "query", ttl=ttl) for node, what in tasks
    ]
    return {reply.metadata.src_node_id: reply for reply in grid.send_and_receive(messages, timeout=60.0)}


def test_nodes_have_their_own_place_state_and_configuration(grid: LocalGrid) -> None:
    for expected in (1, 2):
        replies = ask(grid, (1, "reply"), (2, "reply"), (3, "reply"))
        records = {node: reply.content["reply"] for node, reply in replies.items()}
        assert [records[node]["count"] for node in (1, 2, 3)] == [expected] * 3
        assert [records[node]["partition"] for node in (1, 2, 3)] == [0, 1, 2]
        assert [records[node]["node"] for node in (1, 2, 3)] == [1, 2, 3]
        assert {records[node]["run"] for node in (1, 2, 3)} == {"{'a': 1}"}
        assert {records[node]["threads"] for node in (1, 2, 3)} == {"1"}
        workers = {records[node]["pid"] for node in (1, 2, 3)}
        assert os.getpid() not in workers
        assert len(workers) <= 2  # the first to be ready may have served all


def test_one_records_object_sent_to_many_nodes_reaches_each_unchanged(grid: LocalGrid) -> None:
    shared = RecordDict({"do": ConfigRecord({"what": "reply"})})
    for _ in range(2):
        replies = list(grid.send_and_receive([Message(shared, node, "query") for node in (1, 2, 3)], timeout=60.0))
        assert all(reply.has_content() for reply in replies)
    assert shared["do"]["what"] == "reply"


@pytest.mark.parametrize(
    ("what", "reason"), [("kill", "killed by SIGKILL"), ("exit", "exit code 3"), ("raise", "ValueError: broken")]
)
@pytest.mark.slow
def test_a_failing_task_is_an_error_reply_and_the_next_one_works(grid: LocalGrid, what: str, reason: str) -> None:
    replies = ask(grid, (1, "reply"), (2, what), (3, "reply"))
    assert replies[1].has_content()
    assert replies[3].has_content()
    assert reason in str(replies[2].error.reason)
    after = ask(grid, (1, "reply"), (2, "reply"), (3, "reply"))
    assert {node: reply.content["reply"]["count"] for node, reply in after.items()} == {1: 2, 2: 1, 3: 2}


@pytest.mark.slow
def test_a_task_that_hangs_ends_with_its_time_to_live_and_its_worker(grid: LocalGrid) -> None:
    ask(grid, (1, "reply"))
    reply = ask(grid, (1, "hang"), ttl=1.0)[1]
    assert "deadline" in str(reply.error.reason)
    assert ask(grid, (1, "reply"))[1].content["reply"]["count"] == 2


def test_an_error_that_is_cut_inside_a_character_does_not_end_the_lane(grid: LocalGrid) -> None:
    assert "ValueError" in str(ask(grid, (1, "raise a lot"))[1].error.reason)
    assert all(reply.has_content() for reply in ask(grid, (1, "reply"), (2, "reply"), (3, "reply")).values())


def test_large_replies_that_nobody_asks_for_leave_room_for_the_next(grid: LocalGrid) -> None:
    """The room for large replies must come back whatever happened to the ones before."""
    tasks = [Message(RecordDict({"do": ConfigRecord({"what": "large"})}), node, "query") for node in (1, 2, 3)]
    assert list(grid.send_and_receive(tasks, timeout=0.0)) == []
    for _ in range(2):
        replies = ask(grid, (1, "large"), (2, "large"), (3, "large"))
        assert sorted(node for node, reply in replies.items() if reply.has_content()) == [1, 2, 3]


def test_an_unknown_node_is_refused(grid: LocalGrid) -> None:
    with pytest.raises(ValueError, match="no node 9"):
        ask(grid, (9, "reply"))


def test_an_app_that_cannot_be_loaded_is_an_error_reply_that_names_the_log(tmp_path: Path) -> None:
    grid = LocalGrid(client_app="nowhere:app", nodes=1, folder=APPS, log=tmp_path / "workers.log")
    grid.start()
    try:
        reply = ask(grid, (1, "reply"))[1]
    finally:
        grid.close()
    assert "workers.log" in str(reply.error.reason)
    assert "nowhere" in (tmp_path / "workers.log").read_text()


@pytest.mark.slow
def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from flwr.app import ConfigRecord, Message, RecordDict\n"
        "from hansa_server.engines.local import LocalGrid\n"
        f"folder, log = Path({str(APPS)!r}), Path({str(tmp_path / 'log')!r})\n"
        "grid = LocalGrid(client_app='plain:app', nodes=1, folder=folder, log=log)\n"
        "grid.start()\n"
        "def ask(what): return Message(RecordDict({'do': ConfigRecord({'what': what})}), 1, 'query')\n"
        "reply = list(grid.send_and_receive([ask('reply')]))[0]\n"
        "grid.push_messages([ask('hang')])\n"
        "print(reply.content['reply']['pid'], flush=True)\n"
        "sys.stdin.read()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 20.0
    while Path(f"/proc/{worker}").exists() and "State:\tZ" not in Path(f"/proc/{worker}/status").read_text():
        assert time.monotonic() < deadline, "the worker outlived its server"
        os.sched_yield()
