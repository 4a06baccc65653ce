"""``hansa site check``: everything that a study needs, looked at before it is needed."""

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from hansa_client.calls import call, call_federation, enrolment_channel
from hansa_client.confinement import probe
from hansa_client.folder import SiteFolder
from hansa_common.app_plan import read_any
from hansa_common.errors import HansaError
from hansa_common.plan import StudyPlan
from hansa_common.wire.protocol import ENROLMENT, BeginReply, BeginRequest, Empty, ProposalsReply

_CLOCK: Final = 60.0  # seconds by which clocks may differ without a note
_STUDY_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the page.

    Attributes:
        name: What was looked at.
        state: ``missing`` keeps studies from running, ``note`` does not.
        found: What was found.
        advice: What to do.
    """

    name: str
    state: Literal["ok", "note", "missing"]
    found: str
    advice: str = ""


def inspect(folder: SiteFolder) -> Iterator[Line]:
    """Yield the lines in the order in which one looks."""
    looks: tuple[tuple[str, Callable[[SiteFolder], Iterator[Line]]], ...] = (
        ("coordinator", _coordinator),
        ("certificate", _certificate),
        ("membership", _membership),
        ("connection", _connection),
        ("record", _record),
        ("disk", _disk),
        ("memory", _memory),
        ("torch", _torch),
        ("worker", _worker),
        ("studies", _studies),
    )
    for name, look in looks:
        try:
            yield from look(folder)
        except HansaError as error:
            yield Line(name=name, state="missing", found=error.message, advice=error.advice)


def _coordinator(folder: SiteFolder) -> Iterator[Line]:
    membership, proxy = folder.membership(), folder.settings().proxy
    with enrolment_channel(membership.enrolment, folder.authorities(), proxy=proxy) as channel:
        reply = call(channel, ENROLMENT, "Begin", BeginRequest(), BeginReply)
    way = f"through {proxy}" if proxy else "directly"
    yield Line(
        name="coordinator", state="ok", found=f"{membership.enrolment} {way}, TLS 1.3, certified by the right authority"
    )
    ahead = reply.server_time - time.time()
    if abs(ahead) <= _CLOCK:
        yield Line(name="clock", state="ok", found=f"{abs(ahead):.1f} s beside the coordinator's")
    else:
        yield Line(
            name="clock",
            state="note",
            found=f"{abs(ahead):.0f} s {'behind' if ahead > 0 else 'ahead of'} the coordinator's",
            advice="Let this machine follow a time server (NTP): certificates are good by the clock.",
        )


def _certificate(folder: SiteFolder) -> Iterator[Line]:
    start, end = folder.certificate_times()
    left = end - time.time()
    if folder.issuer() is None:
        yield Line(
            name="certificate",
            state="note",
            found="of an authority that the roster no longer has",
            advice="The agent takes a new one with the node's key when it starts.",
        )
    elif left > 0:
        yield Line(
            name="certificate",
            state="ok",
            found=f"good for {left / 86_400:.1f} days; renewed at {(end - start) / 2 / 86_400:.1f}",
        )
    else:
        yield Line(
            name="certificate",
            state="note",
            found=f"expired {-left / 86_400:.1f} days ago",
            advice="The agent renews it with the node's key when it starts.",
        )


def _membership(folder: SiteFolder) -> Iterator[Line]:
    roster = folder.roster().roster
    if folder.is_member():
        yield Line(name="membership", state="ok", found=f"in roster {roster.version} of {roster.federation}")
    else:
        yield Line(
            name="membership",
            state="note",
            found=f"not in roster {roster.version}, the newest that this site has",
            advice="Read the fingerprint to the founder, who admits you; the agent then gets the next roster.",
        )


def _connection(folder: SiteFolder) -> Iterator[Line]:
    """The federation port, with the certificate; it also brings what is proposed."""
    for proposal in call_federation(folder, "Proposals", Empty(), ProposalsReply).proposals:
        folder.save_proposal(proposal)
    yield Line(name="connection", state="ok", found=f"{folder.membership().address} lets this certificate in")


def _record(folder: SiteFolder) -> Iterator[Line]:
    from hansa_common.audit import read  # noqa: PLC0415

    entries = sum(1 for _ in read(folder.path / "journal.jsonl"))
    yield Line(name="record", state="ok", found=f"{entries} entries, an unbroken chain")


def _disk(folder: SiteFolder) -> Iterator[Line]:
    free, wanted = shutil.disk_usage(folder.path).free / 1e6, folder.settings().limits.min_free_disk_mb
    state: Literal["ok", "missing"] = "ok" if free > wanted else "missing"
    advice = "" if free > wanted else "Free space, or lower limits.min_free_disk_mb in site.toml: tasks are refused."
    yield Line(
        name="disk", state=state, found=f"{free / 1e3:.1f} GB free, {wanted / 1e3:.1f} GB stay free", advice=advice
    )


def _memory(_folder: SiteFolder) -> Iterator[Line]:
    values = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(values["MemAvailable"].split()[0]) * 1_024
    cores = len(os.sched_getaffinity(0))
    yield Line(name="memory", state="ok", found=f"{available / 1e9:.1f} GB available, {cores} cores")


def _torch(folder: SiteFolder) -> Iterator[Line]:
    if importlib.util.find_spec("torch") is None:
        yield Line(
            name="torch",
            state="missing",
            found="not installed",
            advice="Install PyTorch for this machine, then: pip install 'hansa[site]'",
        )
        return
    code = (
        "import torch; from hansa_client.device import choose_device, describe; "
        f"print(torch.__version__, 'on', describe(choose_device({folder.settings().device!r})))"
    )
    done = _run(code)
    if done.returncode == 0:
        yield Line(name="torch", state="ok", found=done.stdout.strip())
    else:
        advice = "Change device in site.toml, or mend the driver."
        yield Line(name="torch", state="missing", found=_last_line(done.stderr), advice=advice)


def _worker(folder: SiteFolder) -> Iterator[Line]:
    found = probe()
    if found.network == "none":
        yield Line(name="worker", state="ok", found=found.describe())
    elif folder.settings().worker.network == "none":
        yield Line(
            name="worker",
            state="note",
            found=found.describe(),
            advice="Allow user namespaces (kernel.unprivileged_userns_clone, AppArmor) to take the network from it.",
        )


def _studies(folder: SiteFolder) -> Iterator[Line]:
    for proposal in folder.proposals():
        if isinstance(plan := read_any(proposal.plan), StudyPlan):
            yield _study(folder, proposal.study, plan)
    if not folder.proposals():
        yield Line(name="studies", state="ok", found="none is proposed yet")


def _study(folder: SiteFolder, study: str, plan: StudyPlan) -> Line:
    """Read the data and time one round, in a process of its own."""
    source = folder.settings().source(plan.name)
    if source is None:
        return Line(
            name=study,
            state="missing",
            found=f"site.toml has no [data.{plan.name}] and no [data.default]",
            advice="Name adapter and path there.",
        )
    sites = plan.federation.sites if plan.federation else ()
    site = folder.membership().site
    index = sites.index(site) if site in sites else 0
    done = _run(
        "from hansa_client.rehearsal import main; main()", plan.model_dump_json(), source.model_dump_json(), str(index)
    )
    if done.returncode != 0:
        advice = "Mend the data or site.toml, and start the agent again: it reads site.toml when it starts."
        return Line(name=study, state="missing", found=_last_line(done.stderr), advice=advice)
    return Line(name=study, state="ok", found=done.stdout.strip())


def _run(code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(  # noqa: S603 - this interpreter, this package
        [sys.executable, "-W", "ignore", "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=_STUDY_SECONDS,
        check=False,
    )


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it failed without a word"])[-1][:500]
