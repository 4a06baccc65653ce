"""A site whose coordinator is hostile: nothing runs or leaves that it did not approve, and its agent goes on."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np
import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.chaos.hostile_coordinator import HostileCoordinator, welcome
from tests.chaos.processes import Process, wait_until
from tests.conftest import small_study
from tests.unit.client.site_cast import SITE, Joined, join, propose

from hansa_client.folder import SiteFolder
from hansa_common.app_plan import AppPlan
from hansa_common.messages import DeliverTask, EvaluateTask, InitialTask, Message, OpenTask, TrainTask, decode, encode
from hansa_common.parameters import ParameterSpec, Tensor
from hansa_common.plan import StudyPlan, parse_plan
from hansa_common.roster import sign_roster
from hansa_common.wire.codec import Kind, Parcel, parse
from hansa_common.wire.protocol import CHUNK, Heartbeat, Proposal, StudyClosed, TaskId, TaskNotice, dump

NOBODY = "f" * 64
STUDY = "small-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A site at work, and the coordinator that it has."""

    joined: Joined
    coordinator: HostileCoordinator
    agent: Process
    plan: StudyPlan

    @property
    def folder(self) -> SiteFolder:
        return self.joined.folder

    def entries(self) -> list[dict[str, Any]]:
        """The site's record."""
        lines = (self.folder.path / "journal.jsonl").read_bytes().split(b"\n")[:-1]
        return [json.loads(line) for line in lines]

    def refusals(self) -> list[str]:
        """Why the site refused what its coordinator said, as its record has it."""
        return [str(each["details"]["reason"]) for each in self.entries() if each["event"] == "coordinator-refused"]

    def recorded(self, since: int, event: str, **details: object) -> None:
        """Wait for an entry behind the first ``since``."""

        def look() -> bool:
            found = [entry for entry in self.entries()[since:] if entry["event"] == event]
            return any(details.items() <= entry["details"].items() for entry in found)

        wait_until(look, f"{event} {details} in {self.entries()[since:]}", blame=self.agent.check)

    def opens(self, step: str) -> None:
        """The honest task: the site is well, and does what it approved."""
        content = packed(Message(header=OpenTask(plan=self.plan.model_dump_json())))
        reply = decode(parse(self.coordinator.ask(task(step), content)).envelope)
        assert reply.header.kind == "opened"


def packed(message: Message) -> bytes:
    return b"".join(Parcel(kind=Kind.HANSA, envelope=encode(message)).pieces())


def task(step: str, *, study: str = STUDY, site: str = SITE) -> TaskId:
    return TaskId(study=study, step=step, attempt=1, site=site)


def code_of(reply: bytes) -> str:
    header = json.loads(parse(reply).envelope.header)
    assert header["kind"] == "refusal", header
    return str(header["code"])


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    joined = join(tmp_path_factory.mktemp("hostile") / "site")
    folder = joined.folder
    folder.accept_roster(joined.next_roster(joined.binding()))
    settings = folder.path / "site.toml"
    written = settings.read_text()
    assert "most_attempts = 100" in written
    settings.write_text(
        written.replace("most_attempts = 100", "most_attempts = 2") + '\n[data.default]\nadapter = "digits"\n'
    )
    plan = parse_plan(small_study(federation={"sites": [SITE]}, replaced={"simulation": None}))
    folder.save_decision(joined.decision(plan.digest()))
    agent = Process("site", "start", "--folder", folder.path, log=folder.path.parent / "agent.log")
    with HostileCoordinator(joined.root) as coordinator:
        path = folder.path / "membership.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"address": f"127.0.0.1:{coordinator.port}"}))
        agent.start()
        coordinator.blame = agent.check
        try:
            wait_until(lambda: coordinator.sessions > 0, "the first session", blame=agent.check)
            coordinator.say(propose(plan))
            made = Stage(joined=joined, coordinator=coordinator, agent=agent, plan=plan)
            made.opens("open")
            yield made
        finally:
            agent.close()


@pytest.fixture
def again(stage: Stage) -> str:
    """The approved plan, proposed under another name."""
    stage.coordinator.say(propose(stage.plan, "small-again"))
    return "small-again"


# --- tasks -------------------------------------------------------------------------------------------------------


def open_task(stage: Stage, **changes: Any) -> bytes:
    plan = stage.plan.model_copy(update=changes)
    return packed(Message(header=OpenTask(plan=plan.model_dump_json())))


def test_a_step_is_answered_as_often_as_the_policy_allows_whatever_it_is_called(stage: Stage, again: str) -> None:
    """Every evaluation of a model that the coordinator chose is another look at the site's examples."""
    initial = decode(parse(stage.coordinator.ask(task("start"), packed(initial_task(stage)))).envelope)
    assert initial.vector is not None

    def evaluate(name: str, study: str, factor: float) -> bytes:
        header = EvaluateTask(plan_digest=stage.plan.digest(), round=3, attempt=1)
        assert initial.vector is not None
        content = packed(Message(header=header, vector=initial.vector * np.float32(factor)))
        return stage.coordinator.ask(task(name, study=study), content)

    for name, study in (("evaluate", STUDY), ("whatever", again)):
        assert json.loads(parse(evaluate(name, study, 1.0)).envelope.header)["kind"] == "evaluated"
    for name, study in (("evaluate-9", STUDY), ("evaluate", again)):
        assert code_of(evaluate(name, study, 2.0)) == "task-refused"
    stage.opens("after-many")


def initial_task(stage: Stage) -> Message:
    return Message(header=InitialTask(plan_digest=stage.plan.digest()))


def test_only_an_approved_plan_runs_and_only_for_this_site(stage: Stage) -> None:
    ask, content = stage.coordinator.ask, open_task(stage)
    other = stage.plan.model_copy(update={"purpose": "Another."})
    app = AppPlan(name="evil", server_app="a:b", client_app="os:system", run_config={}, sites=(SITE,))
    elsewhere = app.model_copy(update={"sites": ("Somebody",)})
    listed = ((app, "app-1"), (elsewhere, "app-2"))
    stage.coordinator.say(propose(other, "other-1"))
    for plan, study in listed:
        stage.folder.save_decision(stage.joined.decision(plan.digest(), study=study))
        values = {"study": study, "plan": plan.model_dump_json(), "digest": plan.digest(), "proposed_at": 1}
        stage.coordinator.say(Proposal.model_validate(values))
    wrong_digest = packed(Message(header=InitialTask(plan_digest=other.digest())))
    tries = {
        ("not-approved", task("open", study="never-proposed")): content,
        ("not-approved", task("open", study="other-1")): open_task(stage, purpose="Another."),
        ("task-refused", task("another-plan")): open_task(stage, purpose="Another."),
        ("task-refused", task("another-digest")): wrong_digest,
        ("task-refused", task("open", site="Hospital B")): content,
        ("task-refused", task("app", study="app-1")): content,
        ("task-refused", task("app", study="app-2")): content,
    }
    for (code, asked), sent in tries.items():
        before = len(stage.entries())
        assert code_of(ask(asked, sent)) == code, asked
        stage.recorded(before, "task-refused", task=str(asked), code=code)
    stage.opens("open-again")


def test_a_changed_plan_does_not_pass_under_an_approved_digest(stage: Stage) -> None:
    changed = stage.plan.model_copy(update={"purpose": "Something else."})
    before = len(stage.entries())
    stage.coordinator.say(propose(changed, digest=stage.plan.digest()))
    stage.recorded(before, "coordinator-refused", code="identity")
    assert stage.folder.proposal(STUDY).digest == stage.plan.digest()
    stage.opens("open-after-lie")
    stage.coordinator.say(propose(changed))  # the same study, another plan, an honest digest: not what was approved
    assert code_of(stage.coordinator.ask(task("open-changed"), open_task(stage))) == "not-approved"
    stage.coordinator.say(propose(stage.plan))
    stage.opens("open-restored")


SENT: dict[str, Callable[[bytes], dict[str, Any]]] = {
    "shorter than announced": lambda content: {"sent": [content[:-1]]},
    "nothing at all": lambda _content: {"sent": []},
    "longer than announced": lambda content: {"sent": [content, b"more"]},
    "other bytes": lambda content: {"sent": [content[:-1] + b"\xff"]},
    "a chunk too long": lambda _content: {"size": 4 * CHUNK, "sent": [bytes(CHUNK + 1)]},
    "a tebibyte announced": lambda _content: {"size": 1 << 40},
}
BODIES: dict[str, bytes] = {
    "no parcel": b"\x80\x04\x95pickle",
    "nothing": b"",
    "a table bomb": b"HNS1\x01" + (10).to_bytes(4) + (2**32 - 1).to_bytes(4),
    "another app's": b"".join(Parcel(kind=Kind.FLOWER, envelope=encode(Message(header=OpenTask(plan="")))).pieces()),
    "no plan": packed(Message(header=OpenTask(plan="[" * 100_000))),
}


@pytest.mark.slow
def test_lies_about_sizes_and_bytes_that_are_no_task_are_refused(stage: Stage) -> None:
    content = open_task(stage)
    for number, (name, change) in enumerate(SENT.items()):
        before = len(stage.entries())
        asked = task(f"lie-{number}")
        assert code_of(stage.coordinator.ask(asked, content, **change(content))), name
        stage.recorded(before, "task-refused", task=str(asked))
    for number, (name, body) in enumerate(BODIES.items()):
        assert code_of(stage.coordinator.ask(task(f"body-{number}"), body)), name
    stage.opens("open-after-bytes")


def delivery(stage: Stage, *, size: int = 4, **changes: Any) -> bytes:
    vector = np.ones(4, np.float32)
    values = {
        "plan_digest": stage.plan.digest(),
        "spec": ParameterSpec(tensors=(Tensor(name="weight", shape=(size,)),)),
        "card": "# card",
        "sha256": sha256(vector.tobytes()).hexdigest(),
    }
    return packed(Message(header=DeliverTask.model_validate(values | changes), vector=vector))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "number"), [("infinite", "1e999"), ("long", "1" + 300 * "0"), ("longer", "1" + 5000 * "0"), ("list", "[]")]
)
def test_a_round_that_is_no_round_is_refused_and_the_agent_lives(stage: Stage, name: str, number: str) -> None:
    envelope = parse(packed(Message(header=InitialTask(plan_digest=stage.plan.digest())))).envelope
    header = envelope.header.replace(b'"initial-task"', b'"train"')
    assert header != envelope.header
    header = header[:-1] + b',"round":' + number.encode() + b"}"
    sent = b"".join(Parcel(kind=Kind.HANSA, envelope=replace(envelope, header=header)).pieces())
    assert code_of(stage.coordinator.ask(task(f"round-{name}"), sent)) == "message"
    stage.opens(f"open-after-{name}")


def test_a_model_that_is_not_what_it_says_is_not_kept(stage: Stage) -> None:
    tries = {
        "deliver-size": ("message", delivery(stage, size=5)),
        "deliver-digest": ("message", delivery(stage, sha256=NOBODY)),
        "deliver-plan": ("task-refused", delivery(stage, plan_digest=NOBODY)),
    }
    for step, (code, content) in tries.items():
        assert code_of(stage.coordinator.ask(task(step), content)) == code
    assert list((stage.folder.path / "models").rglob("*")) == []
    reply = stage.coordinator.ask(task("deliver"), delivery(stage))
    assert decode(parse(reply).envelope).header.kind == "delivered"


@pytest.mark.slow
def test_training_from_a_vector_of_another_size_is_refused(stage: Stage) -> None:
    header = TrainTask(plan_digest=stage.plan.digest(), round=1, attempt=1)
    content = packed(Message(header=header, vector=np.zeros(3, np.float32)))
    assert code_of(stage.coordinator.ask(task("train-1"), content))
    stage.opens("open-after-training")


# --- what is said ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_is_no_notice_ends_the_session_and_the_agent_comes_again(stage: Stage) -> None:
    path = dump(TaskNotice(task=task("x"), size=1, sha256=NOBODY, max_reply=1, seconds=1.0)).decode()
    said = {
        b"\xff{": "not valid at ''",
        b'{"kind":"shutdown"}': "not valid at ''",  # the same is recorded once
        path.replace(STUDY, "../../etc").encode(): "not valid at 'task.task.study'",
        dump(StudyClosed(study="../../membership")): "no id of a study",
        welcome(77): "A welcome came twice",
    }
    for notice, reason in said.items():
        stage.coordinator.say_and_be_left(notice)
        assert sum(reason in found for found in stage.refusals()) == 1, notice
        assert stage.folder.has_joined
    stage.opens("open-after-notices")


@pytest.mark.slow
def test_a_session_begins_with_a_welcome_in_an_offered_protocol(stage: Stage) -> None:
    for opening in (dump(Heartbeat()), welcome(1, protocol=99)):
        stage.coordinator.open_with(opening)
    assert any("no welcome" in reason for reason in stage.refusals())
    assert sum("did not offer" in reason for reason in stage.refusals()) == 1
    stage.opens("open-after-openings")


@pytest.mark.slow
def test_a_proposal_with_a_path_for_an_id_is_refused_and_the_session_goes_on(stage: Stage) -> None:
    before, sessions = len(stage.entries()), stage.coordinator.sessions
    unreadable = propose(stage.plan, "unreadable-1").model_copy(update={"plan": "[" * 100_000})
    stage.coordinator.say(propose(stage.plan, "../../evil"), unreadable)
    stage.recorded(before, "coordinator-refused", code="message")
    stage.opens("open-after-proposals")
    assert stage.coordinator.sessions == sessions
    assert not list(stage.folder.path.parent.rglob("evil*"))


def flood(stage: Stage, number: int) -> int:
    """Announce tasks until the site has enough; return by how many bytes its agent grew."""
    agent = psutil.Process(stage.agent.pid)
    before, entries = agent.memory_info().rss, len(stage.entries())
    template = dump(TaskNotice(task=task("flood-000000000"), size=1, sha256=NOBODY, max_reply=1, seconds=1.0))
    numbers = (template.replace(b"flood-000000000", b"flood-%09d" % each) for each in range(number))
    stage.coordinator.say_and_be_left(*numbers)
    stage.recorded(entries, "coordinator-refused", code="message")
    return int(agent.memory_info().rss - before)


@pytest.mark.slow
def test_twenty_thousand_tasks_are_too_many_and_cost_no_memory(stage: Stage) -> None:
    assert flood(stage, 20_000) < 50_000_000
    stage.opens("open-after-flood")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_million_notices_cost_no_memory(stage: Stage) -> None:
    agent = psutil.Process(stage.agent.pid)
    before = agent.memory_info().rss
    stage.coordinator.patience = 60.0  # what is on its way is read first
    stage.coordinator.say(*[dump(Heartbeat())] * 1_000_000)
    wait_until(lambda: stage.coordinator.unsaid == 0, "a million notices", seconds=220.0, blame=stage.agent.check)
    stage.opens("open-after-a-million")
    assert agent.memory_info().rss - before < 50_000_000


# --- the roster: last, for the site is expelled at the end -------------------------------------------------------


def test_a_roster_that_the_founder_did_not_sign_or_that_does_not_follow_is_refused(stage: Stage) -> None:
    joined, current = stage.joined, stage.folder.roster()
    forged = joined.next_roster(joined.binding(), key=Ed25519PrivateKey.generate())
    following = joined.next_roster(joined.binding()).roster
    skipped = sign_roster(following.following(members=[joined.binding()], issued_at=3), joined.founder)
    for roster in (forged, skipped):
        before = len(stage.entries())
        stage.coordinator.say_and_be_left(json.dumps({"kind": "roster", "roster": roster.model_dump()}).encode())
        stage.recorded(before, "coordinator-refused", code="identity")
        assert stage.folder.roster() == current
    sessions = stage.coordinator.sessions
    stage.coordinator.say(json.dumps({"kind": "roster", "roster": current.model_dump()}).encode())  # an old one
    stage.opens("open-after-rosters")
    assert stage.coordinator.sessions == sessions
    assert stage.folder.roster() == current


@pytest.mark.slow
def test_a_roster_that_takes_this_site_out_is_recorded_and_its_tasks_are_refused(stage: Stage) -> None:
    before = len(stage.entries())
    expelled = stage.joined.next_roster()
    stage.coordinator.say_and_be_left(json.dumps({"kind": "roster", "roster": expelled.model_dump()}).encode())
    stage.recorded(before, "coordinator-refused", code="identity")
    assert stage.folder.roster() == expelled
    assert not stage.folder.is_member()
    assert code_of(stage.coordinator.ask(task("open-expelled"), open_task(stage))) == "task-refused"
    assert stage.agent.is_running
