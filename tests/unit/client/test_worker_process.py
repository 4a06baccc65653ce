"""A real worker process: what it may not do, and what becomes of its task when it dies."""

import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.supercore.task_identity import TaskIdentity

from hansa_client.confinement import probe
from hansa_client.settings import SiteSettings
from hansa_client.site_data import real_site
from hansa_client.work import Work
from hansa_client.worker_process import WorkerProcess
from hansa_common.errors import ContractViolation, TaskRefused, TrainingOutOfMemory, WorkerLost
from hansa_common.messages import Envelope, EvaluateTask, InitialTask, OpenTask, RawArray, TrainTask, Update
from hansa_common.messages import Message as Task
from hansa_common.metrics import ClassificationKind
from hansa_common.plan import StudyPlan
from hansa_common.simulation_plan import SourcePlan

SOURCE = SourcePlan(adapter="digits")
CLASSES = 10


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[WorkerProcess]:
    made = WorkerProcess(tmp_path, SiteSettings())
    yield made
    made.close()


def opened(worker: WorkerProcess, plan: StudyPlan) -> np.ndarray:
    worker.open(plan, name="a", index=0, source=SOURCE, timeout=60.0)
    vector = worker.do(
        Task(header=InitialTask(plan_digest=plan.digest())), kind=ClassificationKind(classes=CLASSES), timeout=60.0
    ).vector
    assert vector is not None
    return vector


def train(plan: StudyPlan, vector: np.ndarray, number: int = 1) -> Task:
    return Task(header=TrainTask(plan_digest=plan.digest(), round=number, attempt=1), vector=vector)


def pid_of(worker: WorkerProcess) -> int:
    assert worker._process is not None
    return worker._process.pid


@pytest.mark.slow
def test_it_trains_and_a_new_worker_gives_the_same_bits(worker: WorkerProcess, small_plan: StudyPlan) -> None:
    vector = opened(worker, small_plan)
    first = worker.do(train(small_plan, vector), kind=ClassificationKind(classes=CLASSES), timeout=60.0)
    os.kill(pid_of(worker), signal.SIGKILL)
    again = worker.do(train(small_plan, vector), kind=ClassificationKind(classes=CLASSES), timeout=60.0)
    assert isinstance(first.header, Update)
    assert first.vector is not None
    assert again.vector is not None
    assert again.vector.tobytes() == first.vector.tobytes()
    assert pid_of(worker) != 0


@pytest.mark.slow
def test_state_passes_beside_the_task_and_a_new_worker_goes_on_from_it(
    worker: WorkerProcess, make_plan: Callable[..., StudyPlan]
) -> None:
    """The worker remembers nothing: one that is new gives the same bits, and those of the work in this process."""
    plan, kind = make_plan(personalisation={"method": "ditto"}), ClassificationKind(classes=CLASSES)
    vector, work = opened(worker, plan), Work(plan, real_site(plan, name="a", index=0, source=SOURCE), "cpu")
    first, kept = worker.do_with_state(train(plan, vector), {}, kind=kind, timeout=60.0)
    os.kill(pid_of(worker), signal.SIGKILL)
    second, then = worker.do_with_state(train(plan, vector, 2), kept.state, kind=kind, timeout=60.0)
    closing = Task(header=EvaluateTask(plan_digest=plan.digest()), vector=vector)
    reply, last = worker.do_with_state(closing, then.state, kind=kind, timeout=60.0)
    os.kill(pid_of(worker), signal.SIGKILL)
    again, ours = worker.do_with_state(train(plan, vector, 2), kept.state, kind=kind, timeout=60.0)
    expected, here = work.do_with_state(train(plan, vector, 2), kept.state)
    assert first.vector is not None
    assert second.vector is not None
    assert expected.vector is not None
    assert again.vector is not None
    assert again.vector.tobytes() == second.vector.tobytes()
    np.testing.assert_allclose(second.vector, expected.vector, atol=1e-6)  # of more threads here
    np.testing.assert_allclose(then.state["personal"], here.state["personal"], atol=1e-6)
    assert then.state["personal"].tobytes() == ours.state["personal"].tobytes() != kept.state["personal"].tobytes()
    assert set(reply.counts) == {"validation", "test", "personal"}
    assert last.personal is not None
    assert last.personal.vector.tobytes() == then.state["personal"].tobytes()


@pytest.mark.slow
def test_the_first_round_starts_from_the_plans_initial_parameters(worker: WorkerProcess, small_plan: StudyPlan) -> None:
    vector = opened(worker, small_plan)
    with pytest.raises(TaskRefused, match="initial parameters"):
        worker.do(train(small_plan, vector + np.float32(0.01)), kind=ClassificationKind(classes=CLASSES), timeout=60.0)
    worker.do(train(small_plan, vector + np.float32(0.01), 2), kind=ClassificationKind(classes=CLASSES), timeout=60.0)


@pytest.mark.slow
def test_an_interrupted_task_fails_by_name_and_the_next_one_works(
    worker: WorkerProcess, make_plan: Callable[..., StudyPlan]
) -> None:
    plan = make_plan(training={"epochs": 10_000})
    vector = opened(worker, plan)
    begun = threading.Timer(0.3, worker.interrupt)
    begun.start()
    with pytest.raises(WorkerLost, match="interrupted"):
        worker.do(train(plan, vector), kind=ClassificationKind(classes=CLASSES), timeout=60.0)
    begun.join()
    assert (
        worker.do(Task(header=OpenTask(plan="{}")), kind=ClassificationKind(classes=CLASSES), timeout=60.0).header.kind
        == "opened"
    )


def test_a_worker_that_takes_too_long_is_replaced(worker: WorkerProcess, make_plan: Callable[..., StudyPlan]) -> None:
    plan = make_plan(training={"epochs": 10_000})
    vector = opened(worker, plan)
    before = pid_of(worker)
    with pytest.raises(WorkerLost, match="took longer"):
        worker.do(train(plan, vector), kind=ClassificationKind(classes=CLASSES), timeout=0.5)
    worker.do(Task(header=OpenTask(plan="{}")), kind=ClassificationKind(classes=CLASSES), timeout=60.0)
    assert pid_of(worker) != before


def test_a_worker_that_takes_too_much_memory_is_replaced(tmp_path: Path, make_plan: Callable[..., StudyPlan]) -> None:
    settings = SiteSettings.model_validate({"limits": {"memory_mb": 256}})
    small = settings.model_copy(update={"limits": settings.limits.model_copy(update={"memory_mb": 1})})
    worker = WorkerProcess(tmp_path, small)
    try:
        with pytest.raises(TrainingOutOfMemory):
            worker.open(make_plan(), name="a", index=0, source=SOURCE, timeout=60.0)
    finally:
        worker.close()


@pytest.mark.slow
def test_an_error_comes_back_as_what_it_is(worker: WorkerProcess, make_plan: Callable[..., StudyPlan]) -> None:
    plan = make_plan(data={"minimum_examples": 100_000})
    with pytest.raises(ContractViolation):
        worker.open(plan, name="a", index=0, source=SOURCE, timeout=60.0)


# --- what it may not do: a ClientApp that tries ---------------------------------------------------------------------

app = ClientApp()


def _number(records: RecordDict, record: str, key: str) -> int:
    value = records[record][key]
    assert isinstance(value, int)
    return value


def _child(*, leave: bool) -> int:
    """Fork a process that stays for a while; with ``leave`` it leaves the worker's process group."""
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        os.read(read, 1)  # it is where it wants to be
        return pid
    if leave:
        os.setsid()
    os.close(write)
    signal.alarm(20)
    signal.pause()
    os._exit(0)


@app.query()
def attempt(message: Message, context: Context) -> Message:  # noqa: C901 - one branch a try
    """Try what the message names, and say how it went; the state counts the tries."""
    what = str(message.content["what"]["name"])
    outcome = "done"
    try:
        if what == "tcp":
            socket.create_connection(("127.0.0.1", _number(message.content, "what", "port")), timeout=2.0).close()
        elif what == "udp":
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
                channel.sendto(b"secret", ("127.0.0.1", _number(message.content, "what", "port")))
        elif what == "write":
            Path(str(message.content["what"]["path"])).write_text("secret")
        elif what == "environment":
            outcome = os.environ.get("HANSA_ORG_PASSPHRASE", "none")
        elif what == "die":
            os._exit(3)
        elif what == "garbage":
            os.write(int(sys.argv[1]), b"\xff" * 100)
        elif what == "huge":
            os.write(int(sys.argv[1]), struct.pack("!IQ", 2, 20 << 30))
        elif what == "forks":
            outcome = " ".join(str(_child(leave=False)) for _ in range(50))
        elif what == "escape":
            _child(leave=True)
            os._exit(3)
    except OSError as error:
        outcome = type(error).__name__
    count = _number(context.state, "tries", "count") + 1 if "tries" in context.state else 1
    context.state["tries"] = ConfigRecord({"count": count})
    return Message(RecordDict({"outcome": ConfigRecord({"text": outcome, "tries": count})}), reply_to=message)


def tried(
    worker: WorkerProcess, name: str, state: RawArray | None = None, **more: str | int
) -> tuple[str, int, RawArray]:
    message = Message(RecordDict({"what": ConfigRecord({"name": name, **more})}), 1, "query")
    content = message_to_proto(message).SerializeToString()
    arrays = {"message": RawArray(dtype="|u1", shape=(len(content),), data=content)}
    arrays |= {"state": state} if state is not None else {}
    reply = worker.flower(f"{Path(__file__).stem}:app", Envelope(header=b"", arrays=arrays), timeout=60.0)
    found = message_from_proto(ProtoMessage.FromString(bytes(reply.arrays["message"].data))).content
    return str(found["outcome"]["text"]), _number(found, "outcome", "tries"), reply.arrays["state"]


@pytest.fixture
def hostile(worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch) -> WorkerProcess:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setenv("HANSA_ORG_PASSPHRASE", "correct horse")
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 5, 1
    return worker


def test_it_has_no_network(hostile: WorkerProcess) -> None:
    confinement = probe()
    if confinement.network == "open":
        pytest.skip("this machine cannot take a network away")
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        udp.setblocking(False)
        assert tried(hostile, "tcp", port=listener.getsockname()[1])[0] != "done"
        if confinement.network == "none":
            assert tried(hostile, "udp", port=udp.getsockname()[1])[0] != "done"
            with pytest.raises(BlockingIOError):
                udp.recv(100)
    assert "no network" in hostile.describe() or "UDP open" in hostile.describe()


def test_it_writes_into_its_own_folder_only(hostile: WorkerProcess, tmp_path: Path) -> None:
    if not probe().files:
        pytest.skip("this machine has no Landlock")
    assert tried(hostile, "write", path=str(tmp_path / "outside"))[0] == "PermissionError"
    assert tried(hostile, "write", path=str(tmp_path / "scratch" / "inside"))[0] == "done"
    assert not (tmp_path / "outside").exists()


def test_it_knows_no_secret_of_the_agents_environment(hostile: WorkerProcess) -> None:
    assert tried(hostile, "environment")[0] == "none"


@pytest.mark.slow
def test_an_apps_state_goes_from_one_message_to_the_next(hostile: WorkerProcess) -> None:
    _outcome, first, state = tried(hostile, "nothing")
    assert (first, tried(hostile, "nothing", state)[1]) == (1, 2)


@pytest.mark.slow
def test_an_app_that_ends_the_process_costs_its_task_only(hostile: WorkerProcess) -> None:
    with pytest.raises(WorkerLost, match="exit code 3"):
        tried(hostile, "die")
    assert tried(hostile, "nothing")[0] == "done"


@pytest.mark.parametrize("name", ["garbage", pytest.param("huge", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_a_worker_that_sends_nonsense_is_replaced(hostile: WorkerProcess, name: str) -> None:
    tried(hostile, "nothing")
    before = pid_of(hostile)
    with pytest.raises(WorkerLost, match="no answer, or too large"):
        tried(hostile, name)
    assert tried(hostile, "nothing")[0] == "done"
    assert pid_of(hostile) != before


@pytest.mark.slow
def test_processes_that_an_app_forks_end_with_the_worker(hostile: WorkerProcess) -> None:
    children = [int(pid) for pid in tried(hostile, "forks")[0].split()]
    assert all(_lives(pid) for pid in children)
    hostile.close()
    deadline = time.monotonic() + 10.0
    while any(map(_lives, children)) and time.monotonic() < deadline:
        os.sched_yield()
    assert not any(map(_lives, children))


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.slow
def test_a_process_that_leaves_the_workers_group_does_not_hold_the_agent(hostile: WorkerProcess) -> None:
    """It still has the other end of the channel, so nobody would see that the worker is gone."""
    tried(hostile, "nothing")
    started = time.monotonic()
    with pytest.raises(WorkerLost, match="exit code 3"):
        tried(hostile, "escape")
    assert time.monotonic() - started < 10.0  # half as long as that process lives
    assert tried(hostile, "nothing")[0] == "done"


@pytest.mark.slow
def test_an_interrupt_without_a_task_costs_no_task(worker: WorkerProcess, small_plan: StudyPlan) -> None:
    vector = opened(worker, small_plan)
    worker.interrupt()
    assert isinstance(
        worker.do(train(small_plan, vector), kind=ClassificationKind(classes=CLASSES), timeout=60.0).header, Update
    )


@pytest.mark.slow
def test_a_model_beyond_the_sites_limit_is_refused(tmp_path: Path, make_plan: Callable[..., StudyPlan]) -> None:
    settings = SiteSettings()
    small = settings.model_copy(update={"limits": settings.limits.model_copy(update={"max_model_mb": 0})})
    worker = WorkerProcess(tmp_path, small)
    try:
        with pytest.raises(TaskRefused, match="limit is 0 MB"):
            worker.open(make_plan(), name="a", index=0, source=SOURCE, timeout=60.0)
    finally:
        worker.close()


def test_the_workers_log_is_for_the_sites_own_eyes(worker: WorkerProcess, tmp_path: Path) -> None:
    worker.start()
    assert (tmp_path / "worker.log").stat().st_mode & 0o777 == 0o600


def test_the_agents_half_imports_no_torch() -> None:
    import subprocess

    code = "import hansa_client.worker_process, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


@pytest.mark.slow
def test_it_trains_with_privacy_in_confinement(worker: WorkerProcess, make_plan: Callable[..., StudyPlan]) -> None:
    differential = {
        "kind": "example",
        "clipping_bound": 1.0,
        "noise_multiplier": 1.0,
        "epsilon": 8.0,
        "delta": 1e-5,
        "sampling_rate": 0.01,
    }
    training = {"optimizer": "sgd", "learning_rate": 0.5, "batch_size": 16, "steps": 3}
    plan = make_plan(privacy={"weights": "equal", "differential": differential}, replaced={"training": training})
    vector = opened(worker, plan)
    first, second = (
        worker.do(train(plan, vector), kind=ClassificationKind(classes=CLASSES), timeout=60.0).vector for _ in range(2)
    )
    assert first is not None
    assert second is not None
    assert first.tobytes() != second.tobytes()
