"""Certificates that are revoked in the middle of an upload (E8), and that expire while a study runs (E9)."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
from tests.chaos.members import Members
from tests.chaos.peer import Peer, outcome
from tests.chaos.processes import wait_until

from hansa_client.enrolment import recover
from hansa_client.folder import SiteFolder
from hansa_common.errors import UsageError
from hansa_common.plan import StudyPlan
from hansa_common.wire.protocol import (
    FEDERATION,
    CertificateReply,
    Denial,
    Empty,
    RenewRequest,
    TaskId,
    UploadHeader,
    dump,
)
from hansa_server.federation.administration import AuthoritiesReply, Nothing, RosterReply
from hansa_server.federation.control import PlanRequest, PullReply, PullRequest, StudyReply, StudyRequest

MOMENT = 2.0  # seconds in which a cut must be in force
ENDED = ("completed", "stopped", "failed")
HALF = bytes(100_000)


class HeldUpload:
    """An upload of which one half is sent, and that stays open."""

    def __init__(self, peer: Peer, task: TaskId) -> None:
        self._release = threading.Event()
        header = UploadHeader(session=peer.session, task=task, size=2 * len(HALF), sha256="0" * 64)
        self.ended: list[tuple[str, float]] = []

        def pieces() -> Iterator[bytes]:
            yield dump(header)
            yield HALF
            self._release.wait(30.0)

        def send() -> None:
            upload = partial(peer.channel.stream_unary(f"/{FEDERATION}/Upload"), pieces(), timeout=30.0)
            self.ended.append((outcome(upload), time.monotonic()))

        self._thread = threading.Thread(target=send, daemon=True)
        self._thread.start()

    def wait(self) -> tuple[str, float]:
        """Return why it ended, and when (monotonic clock)."""
        self._thread.join(10.0)
        self._release.set()
        return self.ended[0]


def revoke_during_upload(federation: Members, site: str) -> None:
    task = TaskId(study="some", step="train-1", attempt=1, site=site)
    federation.push(task)
    with federation.peer(site) as peer:
        notices = peer.attach()
        held = HeldUpload(peer, task)
        wait_until(
            lambda: any(path.stat().st_size == len(HALF) for path in federation.folder.exchange.rglob("*.part")),
            "half of the upload",
            blame=federation.check,
        )
        began = time.monotonic()
        federation.revoke(site)
        denial, at = held.wait()
        assert denial == Denial.REVOKED
        assert at - began < MOMENT
        assert outcome(lambda: list(notices)) == Denial.REVOKED  # the stream ends; it waits for nothing
        assert time.monotonic() - began < MOMENT
        renewal = RenewRequest(session=peer.session, certificate_request=peer.site.keys().certificate_request())
        assert outcome(lambda: peer.call("Renew", renewal, CertificateReply)) == Denial.REVOKED
        assert outcome(lambda: peer.upload(task, HALF)) == Denial.REVOKED
        assert outcome(lambda: peer.raw("Proposals", dump(Empty()))) == Denial.REVOKED
    assert outcome(lambda: recover(SiteFolder(federation.path / site))) == Denial.REVOKED
    with federation.peer(site) as again:
        assert outcome(again.attach) == Denial.REVOKED
    assert "site-revoked" in federation.events(site)
    (pulled,) = federation.call("Pull", PullRequest(tasks=(str(task),), seconds=0.0), PullReply).outcomes
    assert pulled.failure  # whoever waits for the reply need not wait for its deadline
    assert not pulled.path
    for path in federation.folder.exchange.rglob("*.part"):
        path.unlink()


@pytest.mark.parametrize("sites", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_a_site_is_cut_off_in_the_middle_of_an_upload(tmp_path: Path, sites: int) -> None:
    names = [f"site-{number}" for number in range(1, sites + 1)]
    with Members(tmp_path, [*names, "other"]) as federation, federation.peer("other") as other:
        other.attach()
        for name in names:
            revoke_during_upload(federation, name)
        assert outcome(lambda: other.raw("Proposals", dump(Empty()))) == "ACCEPTED"


def renewals(federation: Members, site: str) -> list[float]:
    """Return when a site's certificate was renewed, as Unix times in seconds."""
    return [
        float(entry["time"])
        for entry in federation.journal()
        if entry["event"] == "certificate-renewed" and entry["details"]["site"] == site
    ]


def replace_the_authority(federation: Members, sites: Sequence[str]) -> None:
    """Bring in a new authority under a running study, and retire the old one once nobody needs it."""
    with pytest.raises(UsageError, match="no old authority"):
        federation.authority("retire")
    federation.authority("rotate")
    with pytest.raises(UsageError, match="being replaced already"):
        federation.authority("rotate")

    def old_is_left() -> bool:
        rows = federation.call("Authorities", Nothing(), AuthoritiesReply).authorities
        return not rows[0].sites and set(rows[1].sites) == set(sites)

    wait_until(old_is_left, "the sites' new certificates", blame=federation.check)
    assert "its key deleted" in federation.authority("retire")
    assert {path.name for path in federation.folder.authority.glob("root*.pem")} == {"root-2.pem"}


def came_back(federation: Members, site: str) -> bool:
    """Recover a site that knows the first roster and authority only; tell whether it is let in."""
    folder = SiteFolder(federation.path / site)
    before = folder.authorities()
    assert folder.roster().roster.version == 1
    recover(folder)
    assert folder.roster() == federation.call("Roster", Nothing(), RosterReply).roster
    assert len(folder.authorities()) == 1
    assert folder.authorities() != before
    with federation.peer(site) as peer:
        return outcome(peer.attach) == "ACCEPTED"


@pytest.mark.parametrize(
    ("lifetime", "lasts"),
    [(6.0, 6.0), pytest.param(30.0, 480.0, marks=[pytest.mark.slow, pytest.mark.timeout(700)])],
)
def test_certificates_are_rotated_while_a_study_runs_and_recovered_when_they_expired(
    tmp_path: Path, make_plan: Callable[..., StudyPlan], lifetime: float, lasts: float
) -> None:
    """One site's certificate expires before it first connects; both rotate during the rounds, as does the authority.

    A third site is away while the authority is replaced and the old one retired, and comes back afterwards.
    """
    sites = ("site-1", "away")
    plan = make_plan(
        rounds={"count": 100_000, "deadline_seconds": 60.0, "quorum": 1.0},
        replaced={"simulation": None, "federation": {"sites": list(sites)}},
    )
    members = (*sites, "sleeper")
    with Members(tmp_path, members, expired=("away", "sleeper"), certificate_hours=lifetime / 3_600) as federation:
        for site in sites:
            with (federation.path / site / "site.toml").open("a") as file:
                file.write('\n[data.default]\nadapter = "digits"\n')
            federation.agent(site)
        wait_until(
            lambda: all(federation.shown()[site].online_since for site in sites),
            "both sites",
            blame=federation.check,
        )
        assert len(renewals(federation, "away")) >= 1  # recovered, for without it there is no session
        study = federation.call("Propose", PlanRequest(plan=plan.approved().model_dump_json()), StudyReply)
        for site in sites:
            wait_until(
                (federation.path / site / "proposals" / f"{study.study}.json").exists,
                "the proposal",
                blame=federation.check,
            )
            federation.answer(site, study)
        rounds = federation.folder.path / "runs" / study.study
        checkpoint = rounds / "checkpoint.safetensors"
        wait_until(checkpoint.exists, "the first round", blame=federation.check)
        began = time.time()

        def lasted(seconds: float) -> bool:
            assert federation.study(study.study).state not in ENDED, federation.study(study.study).reason
            return time.time() - began > seconds

        wait_until(lambda: lasted(lasts / 2), "half of the time", seconds=lasts, blame=federation.check)
        replace_the_authority(federation, sites)
        retired = time.time()
        wait_until(lambda: checkpoint.stat().st_mtime > retired, "a round afterwards", blame=federation.check)
        wait_until(lambda: lasted(lasts), "rotations", seconds=lasts + 30.0, blame=federation.check)
        federation.call("Stop", StudyRequest(study=study.study), StudyReply)
        assert federation.study(study.study).state == "stopped"
        assert min(len(renewals(federation, site)) for site in sites) >= (2 if lasts < 60.0 else 15)
        assert came_back(federation, "sleeper")
        assert "certificate recovered" in (federation.path / "away" / "agent.log").read_text()
        done = json.loads((rounds / "metrics.json").read_text())["rounds"]
        assert len(done) > lasts  # a round of this study takes hundredths of a second
        assert [found["missing"] for found in done] == [{}] * len(done)
