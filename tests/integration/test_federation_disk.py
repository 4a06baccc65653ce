"""A disk that is full, or whose fsync fails, at the coordinator and at a site: nothing half-written counts (E2)."""

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.chaos.disk import SmallDisk
from tests.chaos.federation import Federation, Site
from tests.chaos.processes import hansa

from hansa_client.outbox import Outbox
from hansa_common import failpoints
from hansa_common.audit import Journal, read
from hansa_common.errors import StorageError
from hansa_common.failpoints import VARIABLE
from hansa_common.files import LogFile, write_whole
from hansa_common.messages import Delivered, Message, encode
from hansa_common.plan import StudyPlan, dump_plan
from hansa_common.wire.codec import Kind, Parcel
from hansa_common.wire.protocol import CHUNK, TaskId
from hansa_server.federation.events import EventReader
from hansa_server.federation.tasks import Incoming
from hansa_server.results import Results

SITES = ("site-1", "site-2")
Make = Callable[..., Federation]
DISK = 24 << 20  # bytes
ROUNDS = 12
NO_SPACE, BROKEN = "No space left on device", "Input/output error"


@pytest.fixture
def study(tmp_path: Path, make_plan: Callable[..., StudyPlan]) -> Path:
    plan = make_plan(rounds={"count": ROUNDS, "deadline_seconds": 60.0}, replaced={"simulation": None})
    path = tmp_path / "small.toml"
    path.write_text(dump_plan(plan))
    return path


@pytest.fixture
def small_disk() -> Iterator[Callable[[Path], SmallDisk]]:
    """Return a function that moves a folder onto a disk of its own, for the programs that it starts."""
    with ExitStack() as stack:

        def make(folder: Path) -> SmallDisk:
            try:
                return stack.enter_context(SmallDisk(folder, DISK))
            except OSError as error:
                pytest.skip(f"no file system of one's own here: {error}")

        yield make


def results(federation: Federation, study: str) -> Results:
    return Results.model_validate_json((federation.run_folder(study) / "metrics.json").read_bytes())


def check_same(federation: Federation, calm: Results, study: str) -> None:
    """Nothing was lost, and nothing counted twice."""
    found = results(federation, study)
    assert found.model_sha256 == calm.model_sha256
    assert [len(numbered.sites) for numbered in found.rounds] == [2] * ROUNDS
    assert [numbered.train_loss for numbered in found.rounds] == [numbered.train_loss for numbered in calm.rounds]
    assert list(read(federation.folder / "journal.jsonl"))
    for site in federation.sites.values():
        check_record(site)


def check_record(site: Site) -> None:
    """Whatever left is in the site's record, before it left."""
    released: set[str] = set()
    for entry in read(site.folder / "journal.jsonl"):
        if entry.event in ("reply-released", "task-refused"):
            released.add(str(entry.details["task"]))
        if entry.event == "reply-acknowledged":
            assert entry.details["task"] in released


def end(federation: Federation, study: str) -> list[str]:
    """Wait for a study's end, resuming it as an operator would; return why it had to be."""
    reasons = []
    while (row := federation.wait_ended(study)).state != "completed":
        reasons.append(row.reason)
        assert len(reasons) < 10, reasons
        hansa("server", "resume", study, "--folder", federation.folder, "--detach")
    return reasons


def ask_for_no_free_space(site: Site) -> None:
    path = site.folder / "site.toml"
    text, found = re.subn(r"(?m)^min_free_disk_mb = .*$", "min_free_disk_mb = 0", path.read_text())
    assert found == 1
    path.write_text(text)


def checkpoint_of(federation: Federation, study: str) -> Path:
    return federation.run_folder(study) / "checkpoint.safetensors"


@pytest.mark.slow
def test_a_full_disk_at_the_coordinator_says_so_and_costs_nothing(
    make_federation: Make, study: Path, small_disk: Callable[[Path], SmallDisk]
) -> None:
    federation = make_federation(SITES)
    calm = results(federation, federation.run(study).study)
    federation.server.stop()
    disk = small_disk(federation.folder)
    command = ("server", "start", "--folder", federation.folder, "--passphrase-file", federation.path / "passphrase")
    federation.server = disk.process(*command, log=federation.server.log)
    federation.folder = disk.path
    try:
        federation.start_server()
        for site in federation.sites.values():
            federation.wait_online(site)
        again = federation.propose(study)
        federation.approve(again)
        federation.wait_for(checkpoint_of(federation, again).exists, "a checkpoint")
        disk.fill(federation.folder / "server.log")
        federation.wait_for(lambda: NO_SPACE in federation.server.log.read_text(), "a word of the disk")
        assert f"{disk.folder}/exchange" in federation.server.log.read_text()
        assert federation.shown()["site-1"].online_since is not None
        disk.free()
        for reason in end(federation, again):
            assert NO_SPACE in reason
            assert str(disk.folder) in reason
        check_same(federation, calm, again)
        assert federation.server.starts == 1
        list(EventReader(federation.run_folder(again)).new())
    finally:
        federation.server.close()


@pytest.mark.slow
def test_a_site_whose_disk_is_nearly_full_refuses_and_one_that_is_full_waits(
    make_federation: Make, study: Path, small_disk: Callable[[Path], SmallDisk]
) -> None:
    federation = make_federation(SITES)
    calm = results(federation, federation.run(study).study)
    site = federation.sites["site-1"]
    site.agent.stop()
    disk = small_disk(site.folder)
    site.agent = disk.process("site", "start", "--folder", site.folder, log=site.agent.log)
    site.folder = disk.path
    try:
        federation.start_sites(site)
        again = federation.propose(study)
        federation.approve(again)
        row = federation.wait_ended(again)
        assert row.state == "failed"
        assert "site-1: The site's disk is too full for this task; its operator must free space." in row.reason
        site.agent.stop()
        ask_for_no_free_space(site)
        federation.start_sites(site)
        hansa("server", "resume", again, "--folder", federation.folder, "--detach")
        federation.wait_for(checkpoint_of(federation, again).exists, "a checkpoint")
        disk.fill(site.folder / "agent.log")
        federation.wait_for(lambda: NO_SPACE in site.agent.log.read_text(), "a word of the disk")
        assert f"Cannot write {disk.folder}/" in site.agent.log.read_text()
        assert federation.shown()["site-1"].online_since is not None
        disk.free()
        assert end(federation, again) == []
        check_same(federation, calm, again)
        assert site.agent.starts == 2
    finally:
        site.agent.close()


@pytest.mark.slow
def test_a_failed_fsync_stops_or_repeats_and_the_model_is_the_same(
    make_federation: Make, study: Path, tmp_path: Path
) -> None:
    federation = make_federation(SITES)
    calm = results(federation, federation.run(study).study)
    site = federation.sites["site-1"]
    (tmp_path / "marks").mkdir()

    def armed(**hits: int) -> str:
        points = {name.replace("_", "."): hit for name, hit in hits.items()}
        return ",".join(f"{name}@{hit}!:{tmp_path / 'marks' / f'{name}-{hit}'}" for name, hit in points.items())

    federation.server.stop()
    federation.start_server(**{VARIABLE: armed(file_sync=5, server_reply_sync=6)})
    site.agent.stop()
    # at its start, three of each study's answers and proposals, then one for each reply that is let out or was taken
    site.agent.start(**{VARIABLE: armed(site_reply_sync=5, journal_sync=9)})
    federation.wait_online(site)
    again = federation.propose(study)
    federation.approve(again)
    reasons = end(federation, again)
    assert len(reasons) == 1
    assert re.search(r"Cannot write \S+: Input/output error\. .*mend the disk", reasons[0])
    check_same(federation, calm, again)
    assert len(list((tmp_path / "marks").iterdir())) == 4
    assert BROKEN in (federation.folder / "server.log").read_text()
    assert BROKEN in (site.folder / "agent.log").read_text()


# --- what a disk took, or did not, file by file --------------------------------------------------------------------

TASK = TaskId(study="s-1", step="train-1", attempt=1, site="site-1")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Return a function that lets the next fsync of a place fail, and the one after it succeed."""

    def arm(name: str) -> None:
        monkeypatch.setattr(failpoints, "_armed", failpoints._read(f"{name}@1!:{tmp_path / 'mark'}"))

    return arm


def parcel() -> Parcel:
    return Parcel(kind=Kind.HANSA, envelope=encode(Message(header=Delivered(plan_digest="0" * 64, site="site-1"))))


def test_bytes_whose_fsync_failed_are_received_anew(failing: Callable[[str], None], tmp_path: Path) -> None:
    """The second fsync would succeed: the kernel has forgotten that it could not write them."""
    content = bytes(range(256)) * (CHUNK // 128)

    def incoming() -> Incoming:
        return Incoming(tmp_path / "reply", len(content), hashlib.sha256(content).hexdigest())

    failing("server.reply.sync")
    first = incoming()
    first.write(content)
    with pytest.raises(StorageError, match=BROKEN):
        first.complete()
    first.close()
    second = incoming()
    assert second.stored == 0
    second.write(content)
    second.complete()
    second.close()
    assert second.path.read_bytes() == content


def test_a_reply_whose_fsync_failed_is_none(failing: Callable[[str], None], tmp_path: Path) -> None:
    outbox, record = Outbox(tmp_path / "outbox"), list[Any]()
    failing("site.reply.sync")
    with pytest.raises(StorageError, match=BROKEN):
        outbox.put(TASK, parcel(), record.append)
    assert (outbox.find(TASK), record, list((tmp_path / "outbox").iterdir())) == (None, [], [])
    outbox.put(TASK, parcel(), record.append)
    assert outbox.find(TASK) == record[0]


def test_what_cannot_be_recorded_does_not_leave(failing: Callable[[str], None], tmp_path: Path) -> None:
    outbox, journal = Outbox(tmp_path / "outbox"), Journal(tmp_path / "journal.jsonl")

    def record(entry: Any) -> None:
        journal.append("reply-released", task=str(entry.task))

    failing("journal.sync")
    with pytest.raises(StorageError, match=BROKEN):
        outbox.put(TASK, parcel(), record)
    assert outbox.waiting() == Outbox(tmp_path / "outbox").waiting() == []
    outbox.put(TASK, parcel(), record)
    assert [entry.task for entry in outbox.waiting()] == [TASK]
    assert journal.length == 1


def test_a_line_whose_fsync_failed_is_not_in_the_journal(failing: Callable[[str], None], tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("first")
    before = journal.path.read_bytes()
    failing("journal.sync")
    with pytest.raises(StorageError, match=BROKEN):
        journal.append("second")
    assert (journal.path.read_bytes(), journal.length) == (before, 1)
    journal.append("third")
    assert [entry.event for entry in read(journal.path)] == ["first", "third"]


def test_a_file_whose_fsync_failed_is_as_it_was(failing: Callable[[str], None], tmp_path: Path) -> None:
    path = tmp_path / "whole" / "file"
    path.parent.mkdir()
    write_whole(path, b"before")
    failing("file.sync")
    with pytest.raises(StorageError, match=BROKEN):
        write_whole(path, b"after")
    assert ([found.name for found in path.parent.iterdir()], path.read_bytes()) == (["file"], b"before")


def test_a_log_on_a_full_disk_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with LogFile(Path("/dev/full")) as log:
        log.write("a line\n")
        log.flush()
    assert capsys.readouterr().err == "a line\n"


def test_half_a_line_of_progress_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"event": "stage", "na{"event": "stage", "name": "a"}\n{"event": "x"}\n')
    assert [event["event"] for event in EventReader(tmp_path).new()] == ["x"]
