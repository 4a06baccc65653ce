"""Commands of a site and of the coordinator as processes: what they print, what they leave behind, how they end."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.chaos.connect_proxy import ConnectProxy
from tests.chaos.federation import events, free_ports
from tests.chaos.members import PASSPHRASE, Members
from tests.chaos.network import Host
from tests.chaos.peer import outcome
from tests.chaos.processes import Process, wait_until

from hansa_common.plan import StudyPlan
from hansa_common.wire.protocol import Denial
from hansa_server.federation.control import PlanRequest, StudyReply

SITES = ("checked", "leaver", "revoked", "frozen", "expired", "cut off", "worked", "recorded")
DIGITS = '[data.{}]\nadapter = "digits"\n'
OK, FAILED, WRONG = 0, 1, 2
LEFT = {".lock", "agent.log", "journal.jsonl", "models", "scratch", "site.toml", "worker.log"}
"""What may be in a site's folder once it has left: settings, models, the record and logs."""


class Here:
    """Runs commands on this machine, on the folders of one federation."""

    def __init__(self, federation: Members) -> None:
        self._host = Host("127.0.0.1")
        self._federation = federation

    def site(self, name: str, *arguments: object, code: int = OK, **environment: str) -> str:
        """Run ``hansa site ...`` and return all that it wrote."""
        return self._run("site", *arguments, "--folder", self.folder(name), code=code, **environment)

    def server(self, *arguments: object, code: int = OK) -> str:
        """Run ``hansa server ...`` and return all that it wrote."""
        return self._run("server", *arguments, "--folder", self._federation.folder.path, code=code)

    def check(self, name: str, *, code: int = OK, **environment: str) -> dict[str, tuple[str, str]]:
        """Return the lines of ``hansa site check`` by what was looked at: how it stands, and what to do."""
        lines: dict[str, tuple[str, str]] = {}
        last = ""
        for line in self.site(name, "check", code=code, **environment).splitlines():
            if not line.startswith(" "):
                state, last, found = line.split(maxsplit=2)
                lines[last] = (state, found)
            else:
                lines[last] = (lines[last][0], f"{lines[last][1]}\n{line.strip()}")
        for name_, (state, text) in lines.items():
            assert state == "ok" or "\n" in text, f"{name_} is {state}, and nobody is told what to do: {text}"
        return lines

    def folder(self, name: str) -> Path:
        """Return a site's folder."""
        return self._federation.path / name

    def _run(self, *arguments: object, code: int, **environment: str) -> str:
        log = self._federation.path / "commands.log"
        return self._host.hansa(*arguments, log=log, code=code, environment={"COLUMNS": "300", **environment})


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Members]:
    path = tmp_path_factory.mktemp("commands")
    (path / "passphrase").touch(mode=0o600)
    (path / "passphrase").write_bytes(PASSPHRASE)
    with Members(path, SITES, expired=("expired",)) as made:
        yield made


@pytest.fixture
def here(federation: Members) -> Here:
    return Here(federation)


def configure(folder: Path, text: str) -> None:
    with (folder / "site.toml").open("a", encoding="utf-8") as file:
        file.write(f"\n{text}")


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def proxied(folder: Path, address: str) -> None:
    """Have a site connect through a proxy."""
    lines = [line for line in (folder / "site.toml").read_text().splitlines() if not line.startswith("proxy = ")]
    (folder / "site.toml").write_text("\n".join([f'proxy = "{address}"', *lines]) + "\n")


# --- check ---------------------------------------------------------------------------------------------------------


def propose(federation: Members, plan: StudyPlan) -> str:
    return federation.call("Propose", PlanRequest(plan=plan.model_dump_json()), StudyReply).study


Make = Callable[..., StudyPlan]
TO_CHECKED: dict[str, Any] = {"simulation": None, "federation": {"sites": ["checked"]}}


def test_check_says_ok_where_all_is_well(federation: Members, here: Here, make_plan: Make) -> None:
    folder = here.folder("checked")
    configure(folder, DIGITS.format("fitting"))
    fitting = propose(federation, make_plan(name="fitting", replaced=TO_CHECKED))
    nobody = f"http://127.0.0.1:{free_ports(1)[0]}"
    lines = here.check("checked", https_proxy=nobody, http_proxy=nobody)
    assert {state for state, _found in lines.values()} <= {"ok", "note"}
    looked_at = "coordinator clock certificate membership connection record disk memory torch worker"
    assert set(lines) == {*looked_at.split(), fitting}
    assert "directly, TLS 1.3" in lines["coordinator"][1]
    assert re.search(r"[0-9] examples.* round .*[0-9] s", lines[fitting][1]), lines[fitting]
    here.server("stop", fitting)
    (folder / "proposals" / f"{fitting}.json").unlink()


@pytest.mark.slow
def test_check_says_what_to_do(federation: Members, here: Here, make_plan: Make, connect_proxy: ConnectProxy) -> None:
    folder = here.folder("checked")
    configure(folder, DIGITS.format("fits"))
    nobody = f"http://127.0.0.1:{free_ports(1)[0]}"
    fitting = propose(federation, make_plan(name="fits", replaced=TO_CHECKED))
    proxied(folder, connect_proxy.address)
    configure(folder, DIGITS.format("other"))
    absent = propose(federation, make_plan(name="absent", replaced=TO_CHECKED))
    other = propose(federation, make_plan(name="other", data={"shape": [63]}, replaced=TO_CHECKED))
    lines = here.check("checked", code=FAILED)
    settings = federation.folder.settings()
    ports = {settings.enrolment_port, settings.federation_port}
    assert {port for _host, port in connect_proxy.targets} == ports
    assert f"through {connect_proxy.address}" in lines["coordinator"][1]
    assert {name for name, (state, _found) in lines.items() if state == "MISSING"} == {absent, other}
    assert "site.toml has no [data.absent]" in lines[absent][1]
    assert "63" in lines[other][1]

    proxied(folder, nobody.removeprefix("http://"))
    for study in (fitting, absent, other):
        here.server("stop", study)
        (folder / "proposals" / f"{study}.json").unlink()
    lines = here.check("checked", code=FAILED)
    assert {name for name, (state, _found) in lines.items() if state == "MISSING"} == {"coordinator", "connection"}
    assert "cannot be reached" in lines["coordinator"][1]
    assert "firewall or proxy" in lines["coordinator"][1]


# --- leave ---------------------------------------------------------------------------------------------------------


def has_nothing_left(folder: Path) -> bool:
    """Tell whether there is no key and nothing else of a membership; show what there is."""
    assert {path.name for path in folder.iterdir()} <= LEFT
    contents = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    return not any(b"PRIVATE KEY" in content or b"CERTIFICATE" in content for content in contents)


@pytest.mark.slow
def test_leaving_undoes_it_all_and_the_site_can_join_anew(federation: Members, here: Here) -> None:
    folder, key = here.folder("leaver"), federation.keys("leaver").public()
    (folder / "models" / "study-1").mkdir(parents=True)
    (folder / "models" / "study-1" / "model.safetensors").write_bytes(b"a model")
    agent = federation.agent("leaver")
    wait_until(lambda: federation.shown()["leaver"].online_since, "the agent", blame=agent.check)
    assert "hansa site stop" in here.site("leaver", "leave", "--yes", code=WRONG)
    here.site("leaver", "stop")
    assert agent.wait() == 0
    here.site("leaver", "leave", code=FAILED)  # nobody is there to be asked
    assert folder.joinpath("keys").exists()

    assert "leaver has left test" in here.site("leaver", "leave", "--yes")
    assert has_nothing_left(folder)
    assert (folder / "models" / "study-1" / "model.safetensors").read_bytes() == b"a model"
    assert events(folder / "journal.jsonl") == ["agent-started", "roster-accepted", "agent-stopped"]
    assert federation.shown()["leaver"].status == "left"
    assert "site-left" in federation.events("leaver")
    assert "Join first" in here.site("leaver", "status", code=WRONG)

    join(federation, here, "leaver")
    assert federation.keys("leaver").public() != key
    assert federation.shown()["leaver"].status == "applicant"


def join(federation: Members, here: Here, name: str) -> None:
    """Enrol a site by the command; nobody has admitted it then."""
    passphrase = ("--passphrase-file", federation.path / "passphrase")
    invitation = here.server("invite", name).split()[-1]
    here.site(name, "join", invitation, "--same-machine", "--organisation", federation.owner.path, *passphrase)


def freeze(federation: Members) -> None:
    with federation.peer("frozen") as first, federation.peer("frozen") as second:
        first.attach(counter=5)
        assert outcome(lambda: second.attach(counter=5)) == Denial.FROZEN


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shut_out", "status", "said"),
    [
        ("revoked", lambda federation, _here: federation.revoke("revoked"), "revoked", "was revoked"),
        ("frozen", lambda federation, _here: freeze(federation), "frozen", "site is frozen"),
        ("late", lambda federation, here: join(federation, here, "late"), "applicant", "not admitted this site"),
    ],
    ids=["revoked", "frozen", "not admitted"],
)
def test_a_site_that_the_coordinator_does_not_hear_leaves_and_is_told(
    federation: Members, here: Here, name: str, shut_out: Callable[[Members, Here], None], status: str, said: str
) -> None:
    shut_out(federation, here)
    told = here.site(name, "leave", "--yes")
    assert f"{name} has left test" in told
    assert "The coordinator was not told" in told
    assert said in told
    assert has_nothing_left(here.folder(name))
    assert federation.shown()[name].status == status


@pytest.mark.slow
def test_a_site_leaves_with_an_expired_certificate(federation: Members, here: Here) -> None:
    assert "not told" not in here.site("expired", "leave", "--yes")
    assert federation.shown()["expired"].status == "left"
    assert has_nothing_left(here.folder("expired"))


@pytest.mark.slow
def test_nothing_is_deleted_where_the_coordinator_cannot_be_reached(federation: Members, here: Here) -> None:
    folder = here.folder("cut off")
    change(folder / "membership.json", address=f"127.0.0.1:{free_ports(1)[0]}")
    before = {path.name for path in folder.iterdir()} | {".lock"}
    told = here.site("cut off", "leave", "--yes", code=FAILED)
    assert "Nothing is deleted" in told
    assert "--offline" in told
    assert {path.name for path in folder.iterdir()} == before
    assert "The coordinator was not told" in here.site("cut off", "leave", "--yes", "--offline")
    assert has_nothing_left(folder)
    assert federation.shown()["cut off"].status == "member"


@pytest.mark.slow
def test_keys_that_no_organisation_has_signed_go_too(here: Here) -> None:
    assert "hansa org sign" in here.site("never", "join", here.server("invite", "never").split()[-1])
    assert (here.folder("never") / "keys").exists()
    assert "never has left test" in here.site("never", "leave", "--yes")
    assert has_nothing_left(here.folder("never"))


# --- at work -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_status_pause_resume_and_stop_with_an_agent_and_without(federation: Members, here: Here) -> None:
    folder = here.folder("worked")
    assert "no agent runs" in here.site("worked", "status", code=FAILED)
    assert "No agent runs" in here.site("worked", "stop", code=FAILED)
    here.site("worked", "pause")
    assert (folder / "paused").exists()
    agent = federation.agent("worked")
    wait_until(lambda: federation.shown()["worked"].online_since, "the agent", blame=agent.check)
    shown = status(here)
    assert (shown["paused"], shown["connected"][:8]) == ("yes", "yes, to ")
    assert (shown["working on"], shown["not yet sent"]) == ("nothing", "0 replies")
    here.site("worked", "resume")
    assert status(here)["paused"] == "no"
    assert not (folder / "paused").exists()
    assert "Another process works in" in here.site("worked", "start", code=WRONG)
    here.site("worked", "stop")
    assert agent.wait() == 0
    again = federation.agent("worked")
    wait_until(lambda: federation.shown()["worked"].online_since, "the agent", blame=again.check)
    again.kill()
    assert (folder / "agent.sock").exists()
    assert "no agent runs" in here.site("worked", "status", code=FAILED)
    here.site("worked", "pause")
    assert (folder / "paused").exists()
    recorded = [event for event in events(folder / "journal.jsonl") if event != "roster-accepted"]
    assert recorded == ["agent-started", "resumed", "agent-stopped", "agent-started"]


def status(here: Here) -> dict[str, str]:
    """Return the lines of ``hansa site status``; two blanks part name and value."""
    rows = (line.split("  ", 1) for line in here.site("worked", "status").splitlines())
    return {name: value.strip() for name, value in rows}


def changed(lines: list[bytes]) -> list[bytes]:
    return [lines[0], lines[1].replace(b'"time":1', b'"time":2'), *lines[2:]]


@pytest.mark.parametrize(
    ("tamper", "said"),
    [
        (changed, "line 2: it was changed"),
        pytest.param(
            lambda lines: [lines[0], *lines[2:]], "line 2: it is not what was written after", marks=pytest.mark.slow
        ),
        pytest.param(lambda lines: [*lines[:-1], lines[-1][:-9]], "line 5: it is cut off", marks=pytest.mark.slow),
    ],
    ids=["changed", "taken out", "cut off"],
)
def test_a_record_that_was_changed_is_told(
    record: list[bytes], here: Here, tamper: Callable[[list[bytes]], list[bytes]], said: str
) -> None:
    journal = here.folder("recorded") / "journal.jsonl"
    journal.write_bytes(b"".join(record))
    shown = here.site("recorded", "log")
    assert [line.split()[3] for line in shown.splitlines()[:-1]] == events(journal)
    assert shown.splitlines()[-1] == "5 entries, an unbroken chain."
    journal.write_bytes(b"".join(tamper(record)))
    assert said in here.site("recorded", "log", code=FAILED)


@pytest.fixture(scope="module")
def record(federation: Members) -> list[bytes]:
    """The record of an agent that ran twice."""
    journal = federation.path / "recorded" / "journal.jsonl"
    for run in (1, 2):
        agent = federation.agent("recorded")
        wait_until(lambda: federation.shown()["recorded"].online_since, f"run {run}", blame=agent.check)
        # the coordinator shows a site as online before the site has the roster
        wait_until(lambda: "roster-accepted" in events(journal), "the roster", blame=agent.check)
        assert agent.stop() == 0
        wait_until(lambda: federation.shown()["recorded"].online_since is None, "its end")
    return journal.read_bytes().splitlines(keepends=True)


@pytest.mark.slow
def test_an_agent_does_not_write_on_in_a_record_that_was_changed(record: list[bytes], here: Here) -> None:
    (here.folder("recorded") / "journal.jsonl").write_bytes(b"".join(changed(record)))
    assert "line 2: it was changed" in here.site("recorded", "start", code=FAILED)


@pytest.mark.slow
def test_models_lists_what_the_site_was_given(here: Here) -> None:
    assert here.site("recorded", "models") == "No model yet.\n"
    folder = here.folder("recorded") / "models" / "digits-1"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(2_500_000))
    line, card = here.site("recorded", "models").splitlines()
    assert line.startswith("digits-1  2.5 MB  20")
    assert line.endswith(str(folder / "model.safetensors"))
    assert card == f"  card: {folder / 'MODEL_CARD.md'}"


# --- the coordinator -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_operators_views_with_a_server_and_without(tmp_path: Path, make_plan: Callable[..., StudyPlan]) -> None:
    with Members(tmp_path, ("one", "two")) as federation:
        here = Here(federation)
        assert "No study yet" in here.server("status")
        agent: Process = federation.agent("one")
        wait_until(lambda: federation.shown()["one"].online_since, "the agent", blame=agent.check)
        plan = make_plan(replaced={"simulation": None}).model_dump_json()
        study = federation.call("Propose", PlanRequest(plan=plan), StudyReply).study
        head, row = here.server("status").splitlines()
        assert head.split() == ["study", "state", "approved", "refused", "silent"]
        assert row.split(maxsplit=2) == [study, "proposed", "one, two"]
        page = dict(line.strip().split(maxsplit=1) for line in here.server("status", "small").splitlines())
        assert (page["study"], page["needed"], page["silent"]) == (study, "2 of 2 sites", "one, two")
        assert "There is no study 'large'" in here.server("status", "large", code=WRONG)
        rows = here.server("sites").splitlines()
        assert rows[0] == "Roster 2"
        assert [line.split()[:2] for line in rows[2:]] == [["one", "member"], ["two", "member"]]
        assert "no, seen never" in rows[3]
        assert "no, seen" not in rows[2]
        logged = [json.loads(line) for line in here.server("logs").splitlines()]
        assert [line["event"] for line in logged] == ["started", "attached"]
        assert [json.loads(line)["site"] for line in here.server("logs", "-n", "1").splitlines()] == ["one"]
        assert "is not there yet" in here.server("logs", study, code=WRONG)
    assert "no, seen 20" in here.server("sites")
    assert "stopped" in here.server("logs")
    assert "hansa server start" in here.server("status", code=FAILED)
