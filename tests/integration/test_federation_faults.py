"""A federation under faults: nothing is lost or counted twice, and the model is that of the run without them."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tests.chaos.cutting_proxy import CuttingProxy, Fault, Weather
from tests.chaos.federation import Federation, Site
from tests.chaos.supervisor import Supervisor

from hansa_common.audit import read
from hansa_common.failpoints import MASKING, NAMES, SYNCS, VARIABLE
from hansa_common.plan import StudyPlan, dump_plan
from hansa_common.wire.protocol import CHUNK
from hansa_server.results import Results

SITES = ("site-1", "site-2")
Make = Callable[..., Federation]
BOTH = ("file.before-rename", "journal.append")
_ELSEWHERE = (*SYNCS, *MASKING, "site.ledger.written")  # test_masked_study.py and test_ledger.py have the others
KILLS = tuple(name for name in NAMES if name not in _ELSEWHERE)
ON_SERVER = tuple(name for name in KILLS if not name.startswith("site."))
SENT = ("server.task.after-write", "server.send", "server.acknowledge", "site.send", "site.acknowledged")
"""Between two points where the disk changes: with and without a death there the disk looks the same."""
AT_SITE = tuple(name for name in KILLS if name.startswith("site.") or name in BOTH)


@pytest.fixture
def study(tmp_path: Path, make_plan: Callable[..., StudyPlan]) -> Path:
    plan = make_plan(rounds={"count": 20, "deadline_seconds": 60.0}, replaced={"simulation": None})
    path = tmp_path / "small.toml"
    path.write_text(dump_plan(plan))
    return path


def results(federation: Federation, study: str) -> Results:
    return Results.model_validate_json((federation.run_folder(study) / "metrics.json").read_bytes())


def armed(names: tuple[str, ...], folder: Path, *, first: int) -> str:
    """Each point once, at different times: a process that is started again counts anew."""
    folder.mkdir()
    return ",".join(f"{name}@{first + number % 3}:{folder / name}" for number, name in enumerate(names))


@pytest.mark.parametrize("left_out", [SENT, pytest.param((), marks=pytest.mark.slow)], ids=["12 points", "all"])
def test_killed_at_every_fail_point_the_study_gives_the_same_model(
    make_federation: Make, study: Path, left_out: tuple[str, ...]
) -> None:
    on_server, at_site = (tuple(name for name in names if name not in left_out) for names in (ON_SERVER, AT_SITE))
    federation = make_federation(SITES)
    calm = federation.run(study)
    assert calm.state == "completed", calm.reason
    study_id = federation.propose(study)
    for site in federation.sites.values():
        federation.wait_for((site.folder / "proposals" / f"{study_id}.json").exists, "the proposal")
    marks = (
        federation.path / "marks",
        federation.sites["site-1"].folder / "scratch" / "marks",  # the only place where its worker may write
    )
    federation.server.stop()
    federation.sites["site-1"].agent.stop()
    federation.sites["site-1"].agent.environment[VARIABLE] = armed(at_site, marks[1], first=2)
    environment = {VARIABLE: armed(on_server, marks[0], first=2)}
    with Supervisor(federation, environment) as supervisor:
        federation.approve(study_id)
        row = federation.wait_ended(study_id)
    assert row.state == "completed", row.reason
    assert sorted(path.name for path in marks[0].iterdir()) == sorted(on_server)
    assert sorted(path.name for path in marks[1].iterdir()) == sorted(at_site)
    assert len(supervisor.deaths) > (6 if left_out else 10)
    one, other = results(federation, calm.study), results(federation, study_id)
    assert other.model_sha256 == one.model_sha256
    assert [len(found.sites) for found in other.rounds] == [2] * 20
    assert [found.train_loss for found in other.rounds] == [found.train_loss for found in one.rounds]


@pytest.fixture
def large_study(tmp_path: Path, make_plan: Callable[..., StudyPlan]) -> Path:
    """A model of 6 MB, 23 chunks of the transport, and next to nothing to train."""
    data = {"kind": "image", "channels": 3, "height": 224, "width": 224, "classes": list("0123456789")}
    plan = make_plan(
        replaced={"simulation": None, "data": data | {"minimum_examples": 10}},
        rounds={"count": 8, "deadline_seconds": 600.0},
        training={"batch_size": 10},
    )
    path = tmp_path / "large.toml"
    path.write_text(dump_plan(plan))
    rng = np.random.Generator(np.random.Philox(3))
    images = rng.integers(0, 256, (20, 224, 224, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", x=images, y=np.arange(20) % 10)
    return path


@pytest.fixture
def federation(make_federation: Make, large_study: Path) -> Federation:
    data = f'[data.default]\nadapter = "npz"\npath = "{large_study.with_name("images.npz")}"\n'
    return make_federation(SITES, data=dict.fromkeys(SITES, data))


SLOW, PIECES = Weather(rate=64_000), Weather(piece=1)
CUTS = (
    Fault(kind="rst", after=2_500_000),
    Fault(kind="fin", after=600_000),
    Fault(kind="silence", after=3_500_000, seconds=2.0),
    Fault(kind="refuse", after=4_000_000, connections=2),
    Fault(kind="weather", after=1_500_000, seconds=2.0, weather=SLOW),
    Fault(kind="weather", after=5_000_000, seconds=2.0, weather=PIECES),
)
INITIAL = 6_100_000  # bytes of the initial parameters, which one site sends
IN_FLIGHT = 2_000_000  # bytes in the sockets' buffers on loopback, which the proxy took and a cut threw away


def _has(site: Site, event: str, step: str) -> bool:
    """Tell whether a site's record has this about ``study:step``."""
    lines = (site.folder / "journal.jsonl").read_text().splitlines()
    return any(f'"{event}"' in line and f"{step}:" in line for line in lines)


def attached(federation: Federation, site: str) -> int:
    lines = (federation.folder / "server.log").read_text().splitlines()
    return sum('"event": "attached"' in line and f'"site": "{site}"' in line for line in lines)


def _start_behind(federation: Federation, proxy: CuttingProxy, study: Path) -> str:
    site = federation.sites["site-1"]
    site.agent.stop()
    site.connect_through(proxy.port)
    federation.start_sites(site)
    started = federation.propose(study)
    federation.approve(started)
    return started


def _check_same(federation: Federation, calm: str, other: str) -> Results:
    row = federation.wait_ended(other)
    assert row.state == "completed", row.reason
    one, found = results(federation, calm), results(federation, other)
    assert found.model_sha256 == one.model_sha256
    assert [len(numbered.sites) for numbered in found.rounds] == [2] * len(one.rounds)
    return found


def test_cut_in_every_way_an_upload_loses_at_most_one_chunk(
    federation: Federation, large_study: Path, cutting_proxy: Callable[[int], CuttingProxy]
) -> None:
    calm = federation.run(large_study)
    assert calm.state == "completed", calm.reason
    proxy, site = cutting_proxy(federation.federation_port), federation.sites["site-1"]
    before = attached(federation, "site-2")
    study = _start_behind(federation, proxy, large_study)
    for number, fault in enumerate(CUTS, start=2):
        federation.wait_for(partial(_has, site, "reply-released", f"{study}:train-{number}"), f"round {number}")
        proxy.arm(fault)
        federation.wait_for(proxy.fired.is_set, f"the fault {fault.kind}", seconds=60.0)
        federation.wait_for(proxy.healed.is_set, "its end", seconds=60.0)
    found = _check_same(federation, calm.study, study)
    assert attached(federation, "site-2") == before
    whole = sum(numbered.bytes_up for numbered in found.rounds) // 2 + INITIAL
    assert proxy.up < whole + len(CUTS) * (CHUNK + IN_FLIGHT)


def _cut(federation: Federation, proxy: CuttingProxy, study: Path, fault: Fault) -> tuple[str, str]:
    """Have this happen during the upload of an update; return the study, and ``study:step`` of the update."""
    site = federation.sites["site-1"]
    started = _start_behind(federation, proxy, study)
    federation.wait_for(partial(_has, site, "reply-released", f"{started}:train-1"), "round 1")
    proxy.arm(fault)
    federation.wait_for(proxy.fired.is_set, "the fault", seconds=60.0)
    last = [entry for entry in read(site.folder / "journal.jsonl") if entry.event == "reply-released"][-1]
    step = str(last.details["task"]).rsplit(":", 2)[0]
    assert not _has(site, "reply-acknowledged", step)
    return started, step


@pytest.mark.slow
@pytest.mark.parametrize(
    ("weather", "least"), [(SLOW, 60.0), (PIECES, 5.0)], ids=["64 KB a second", "1 byte at a time"]
)
def test_a_whole_upload_over_a_bad_path_takes_its_time_and_nothing_is_sent_twice(
    federation: Federation,
    large_study: Path,
    cutting_proxy: Callable[[int], CuttingProxy],
    weather: Weather,
    least: float,
) -> None:
    calm = federation.run(large_study)
    proxy, site = cutting_proxy(federation.federation_port), federation.sites["site-1"]
    fault = Fault(kind="weather", after=100_000, seconds=3_600.0, weather=weather)
    other = attached(federation, "site-2")
    study, step = _cut(federation, proxy, large_study, fault)
    started, before, connections = time.monotonic(), proxy.up, proxy.accepted
    federation.wait_for(partial(_has, site, "reply-acknowledged", step), "the upload", seconds=500.0)
    assert time.monotonic() - started > least
    assert proxy.accepted == connections
    assert proxy.up - before < INITIAL + CHUNK
    proxy.heal()
    _check_same(federation, calm.study, study)
    assert attached(federation, "site-2") == other


@pytest.mark.slow
def test_an_upload_goes_on_behind_20_seconds_of_silence(
    federation: Federation, large_study: Path, cutting_proxy: Callable[[int], CuttingProxy]
) -> None:
    calm = federation.run(large_study)
    proxy, site = cutting_proxy(federation.federation_port), federation.sites["site-1"]
    other = attached(federation, "site-2")
    fault = Fault(kind="silence", after=3_500_000, seconds=20.0)
    study, step = _cut(federation, proxy, large_study, fault)
    before = proxy.up
    federation.wait_for(proxy.healed.is_set, "the end of the silence", seconds=60.0)
    federation.wait_for(partial(_has, site, "reply-acknowledged", step), "the upload", seconds=3.0)
    assert proxy.up - before < INITIAL + CHUNK + IN_FLIGHT
    _check_same(federation, calm.study, study)
    assert attached(federation, "site-2") == other
