"""Backup and restore as the operator's guide has it: its own commands, on federations at work."""

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.chaos.federation import Federation
from tests.chaos.members import Members
from tests.chaos.processes import Process, hansa, wait_until

from hansa_client.control import ask
from hansa_client.enrolment import join, prepare, recover
from hansa_client.folder import SiteFolder
from hansa_common.plan import StudyPlan, dump_plan
from hansa_common.roster import SignedBinding, SignedRoster, sign_binding
from hansa_server.federation.administration import Nothing, RosterReply
from hansa_server.federation.folder import FederationFolder
from hansa_server.results import Results

GUIDE = Path(__file__).parents[2] / "docs" / "operations.md"
START = "hansa server start"
SITES = ("site-1", "site-2")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("sqlite3") is None, reason="the guide's backup needs sqlite3"),
]


def commands() -> Iterator[str]:
    """Yield the section's three scripts, for folders of these tests' names: copy, restore, copy a site."""
    section = GUIDE.read_text(encoding="utf-8").partition("## Backup and restore\n")[2].partition("\n## ")[0]
    for block in re.findall(r"```console\n(.*?)```", section, re.DOTALL):
        script = "\n".join(line.removeprefix("$ ") for line in block.splitlines())
        yield script.replace("hansa-server", "server").replace("bergen", "site-2")


COPY, RESTORE, COPY_SITE = commands()


def run(script: str, folder: Path) -> None:
    done = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode <= 1, done.stderr  # 1: a file changed while tar read it
    assert all(not path.stat().st_mode & 0o077 for path in folder.glob("*.tar.gz"))


def restore(folder: Path) -> Path:
    """Restore a coordinator's copy elsewhere, up to the line that starts it, and return its folder."""
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    for name in ("server.tar.gz", "hansa-copy.db"):
        (folder / name).replace(elsewhere / name)
    script, start = RESTORE.rsplit("\n", 1)
    assert start == START
    run(script, elsewhere)
    return elsewhere / "server"


# --- a study that runs ---------------------------------------------------------------------------------------------


@pytest.fixture
def study(tmp_path: Path, make_plan: Callable[..., StudyPlan]) -> Path:
    rounds, training = {"count": 8, "deadline_seconds": 60.0}, {"epochs": 40}
    path = tmp_path / "small.toml"
    path.write_text(dump_plan(make_plan(rounds=rounds, training=training, replaced={"simulation": None})))
    return path


def results(federation: Federation, study: str) -> Results:
    return Results.model_validate_json((federation.run_folder(study) / "metrics.json").read_bytes())


def test_copied_while_it_runs_and_restored_elsewhere_a_study_gets_to_the_same_model(
    make_federation: Callable[..., Federation], study: Path
) -> None:
    federation = make_federation(SITES)
    calm = federation.run(study)
    wanted = results(federation, calm.study).model_sha256
    study_id = federation.propose(study)
    federation.approve(study_id)
    site = federation.sites["site-1"]

    def has_answered(number: int) -> bool:
        return f"{study_id}:train-{number}:" in (site.folder / "journal.jsonl").read_text()

    federation.wait_for(lambda: has_answered(3), "round 3")
    run(COPY, federation.path)
    federation.wait_for(lambda: has_answered(6), "round 6")
    federation.server.kill()
    keys = {site.name: SiteFolder(site.folder).keys().public() for site in federation.sites.values()}
    shutil.rmtree(federation.folder)

    federation.folder = restore(federation.path)
    for reply in (federation.folder / "exchange").rglob("reply-*"):
        reply.unlink()  # as if each had gone between the copy of the database and that of the files
    passphrase = ("--passphrase-file", federation.path / "passphrase")
    federation.server = Process(
        *START.split()[1:], "--folder", federation.folder, *passphrase, log=federation.path / "restored.log"
    )
    federation.start_server()
    assert results(federation, calm.study).model_sha256 == wanted
    row = federation.wait_ended(study_id)
    assert row.state == "failed"
    assert "answered this task before; resume the study if the coordinator was restored" in row.reason
    hansa("server", "resume", study_id, "--folder", federation.folder)
    found = results(federation, study_id)
    assert found.model_sha256 == wanted
    assert [len(each.sites) for each in found.rounds] == [2] * 8
    assert {name: site.status for name, site in federation.shown().items()} == dict.fromkeys(SITES, "member")
    assert {site.name: SiteFolder(site.folder).keys().public() for site in federation.sites.values()} == keys
    for site in federation.sites.values():
        assert (site.folder / "models" / study_id / "model.safetensors").exists()


# --- an old copy ---------------------------------------------------------------------------------------------------


@pytest.fixture
def rolled_back(tmp_path: Path) -> Iterator[Members]:
    """A coordinator from before a new roster with one more site, many sessions, and a new certificate."""
    federation = Members(tmp_path, SITES)
    with federation:
        run(COPY, tmp_path)
        for folder in (SiteFolder(tmp_path / name) for name in SITES):
            folder.accept_roster(in_force(federation))
        late = enrol(federation, "late")
        federation.install(*federation.bindings().values(), late)
        for folder in (SiteFolder(tmp_path / name) for name in (*SITES, "late")):
            folder.accept_roster(in_force(federation))
            for _session in range(5):
                folder.next_counter()
        recover(SiteFolder(tmp_path / "site-1"))
    federation.folder = FederationFolder.open(restore(tmp_path))
    with federation:
        yield federation


def in_force(federation: Members) -> SignedRoster:
    return federation.call("Roster", Nothing(), RosterReply).roster


def enrol(federation: Members, name: str) -> SignedBinding:
    folder, invitation = SiteFolder(federation.path / name), federation.invite(name)
    request = prepare(folder, invitation)
    binding = request.answer(federation.owner.organisation, issued_at=int(time.time()))
    signed = sign_binding(binding, federation.key)
    join(folder, invitation, signed)
    return signed


def is_online(federation: Members, name: str) -> bool:
    shown = federation.shown().get(name)
    return shown is not None and shown.online_since is not None


def told(federation: Members, name: str, words: str) -> None:
    """Wait until a site's operator is told something."""

    def look() -> bool:
        answer = ask(federation.path / name, {"command": "status"})
        return answer is not None and words in answer["problem"]

    wait_until(look, f"{name} to be told: {words}")


def test_after_an_old_copy_sites_are_let_in_and_a_later_roster_is_put_into_force_again(rolled_back: Members) -> None:
    federation = rolled_back
    agents = {name: federation.agent(name) for name in (*SITES, "late")}
    for name in SITES:  # one with a counter that is ahead, one with a certificate that is unknown too
        wait_until(lambda name=name: is_online(federation, name), name, blame=agents[name].check)  # type: ignore[misc]
    told(federation, "late", "This site is unknown here.")
    assert "late" not in federation.shown()
    hansa("server", "roster", federation.path / "site-2" / "roster.json", "--folder", federation.folder.path)
    wait_until(lambda: is_online(federation, "late"), "late", blame=agents["late"].check)
    assert {site.status for site in federation.shown().values()} == {"member"}


def test_after_an_old_copy_a_second_history_is_refused_by_name(rolled_back: Members) -> None:
    federation = rolled_back
    agent = federation.agent("site-2")
    wait_until(lambda: is_online(federation, "site-2"), "site-2", blame=agent.check)
    members = federation.bindings().values()
    federation.install(*members)  # version 3 again, and not the one that the site has
    federation.install(*members)
    told(federation, "site-2", "Roster version 4 does not follow upon version 3. The coordinator shows an old")
    assert SiteFolder(federation.path / "site-2").roster().roster.version == 3
    assert "coordinator-refused" in (federation.path / "site-2" / "journal.jsonl").read_text()


def test_a_site_restored_from_a_copy_is_frozen_until_the_operators_have_spoken(tmp_path: Path) -> None:
    with Members(tmp_path, SITES) as federation:
        agent = federation.agent("site-2")
        wait_until(lambda: is_online(federation, "site-2"), "site-2", blame=agent.check)
        run(COPY_SITE, tmp_path)
        for _session in range(2):
            agent.stop()
            wait_until(lambda: not is_online(federation, "site-2"), "its end")
            agent.start()
            wait_until(lambda: is_online(federation, "site-2"), "site-2", blame=agent.check)
        agent.stop()
        shutil.rmtree(tmp_path / "site-2")
        run("tar -xzf site-2.tar.gz", tmp_path)
        agent.start()
        told(federation, "site-2", "This site is frozen: two sessions claimed its identity.")
        hansa("server", "unfreeze", "site-2", "--folder", federation.folder.path)
        wait_until(lambda: is_online(federation, "site-2"), "site-2", blame=agent.check)
