"""E7: whatever a site sent, sent again later and by others: none of it is accepted or changes anything."""

import hashlib
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import MetaData, create_engine, select
from tests.chaos.members import NAME, Members
from tests.chaos.peer import NO_CALL, Peer, outcome

from hansa_client.folder import SiteFolder
from hansa_common.plan import read_plan
from hansa_common.signing import sign
from hansa_common.wire.protocol import (
    ENROLMENT,
    FEDERATION,
    AttachRequest,
    BeginReply,
    BeginRequest,
    DownloadRequest,
    EnrolRequest,
    LeaveRequest,
    RecoverRequest,
    RenewRequest,
    StoredReply,
    StoredRequest,
    TaskId,
    UploadHeader,
    dump,
    load,
)
from hansa_server.federation.control import CloseRequest, Done, PlanRequest, StudyReply, StudyRequest

DIGITS = Path(__file__).parents[2] / "deploy" / "studies" / "digits.toml"
REPLY = bytes(range(256)) * 100
SHA256 = hashlib.sha256(REPLY).hexdigest()


@dataclass(frozen=True, slots=True)
class Frame:
    """What was sent: a call and its messages."""

    method: str
    messages: tuple[bytes, ...]

    def send(self, peer: Peer) -> None:
        """Send it over another connection, as it is; for the enrolment port's calls that port's."""
        channel: Any = peer.channel
        if self.method in ("Enrol", "Recover"):
            peer.raw(self.method, self.messages[0], service=ENROLMENT)
        elif self.method in ("Attach", "Download"):
            stream = channel.unary_stream(f"/{FEDERATION}/{self.method}")(self.messages[0], timeout=10.0)
            next(stream)
            stream.cancel()
        else:
            channel.stream_unary(f"/{FEDERATION}/{self.method}")(iter(self.messages), timeout=10.0)


def task(step: str, attempt: int = 1) -> TaskId:
    return TaskId(study="some", step=step, attempt=attempt, site="site-1")


class Recording:
    """A federation in which a site did everything that there is to do once; every frame of it was kept."""

    def __init__(self, federation: Members) -> None:
        self.federation = federation
        self.frames: list[Frame] = []
        plan = read_plan(DIGITS).approved().model_dump_json()
        self.study = federation.call("Propose", PlanRequest(plan=plan), StudyReply)
        federation.push(task("train-1"), task("train-2"))
        with federation.peer("site-1") as peer:
            self._session(peer)
        with federation.peer("leaver") as peer:
            self._leave(peer)
        with federation.stranger("site-1") as peer:
            self._enrolment(peer)

    def _keep(self, peer: Peer, method: str, *messages: bytes) -> None:
        frame = Frame(method, messages)
        frame.send(peer)
        self.frames.append(frame)

    def _session(self, peer: Peer) -> None:
        site, keys = peer.site, peer.site.keys()
        counter = site.next_counter()
        statement = {"federation": NAME, "site": "site-1", "counter": counter}
        attach = AttachRequest(version="test", counter=counter, signature=sign(keys.signing, "session", statement))
        notices = peer.attach(counter=counter, signature=attach.signature)
        self.frames.append(Frame("Attach", (dump(attach),)))
        session, first, second = peer.session, task("train-1"), task("train-2")
        self._keep(peer, "Download", dump(DownloadRequest(session=session, task=first)))
        for each, whole in ((first, True), (second, False)):
            self._keep(peer, "Stored", dump(StoredRequest(session=session, task=each, size=len(REPLY), sha256=SHA256)))
            header = dump(UploadHeader(session=session, task=each, size=len(REPLY), sha256=SHA256))
            if whole:
                self._keep(peer, "Upload", header, REPLY)
            else:  # cut off in the middle
                with pytest.raises(Exception, match="INVALID_ARGUMENT"):
                    Frame("Upload", (header, REPLY[:1000])).send(peer)
                self.frames.append(Frame("Upload", (header, REPLY)))
        self._keep(peer, "Renew", dump(RenewRequest(session=session, certificate_request=keys.certificate_request())))
        self._keep(peer, "Decide", dump(self.federation.approval("site-1", self.study, decided_at=100)))
        refusal = dump(self.federation.approval("site-1", self.study, approved=False, decided_at=200))
        Frame("Decide", (refusal,)).send(peer)
        Frame("Decide", (refusal,)).send(peer)  # the same answer again is the same answer
        next(notices)  # still heard

    def _leave(self, peer: Peer) -> None:
        peer.attach()
        signature = sign(peer.site.keys().signing, "leave", {"site": "leaver", "left_at": 1})
        self._keep(peer, "Leave", dump(LeaveRequest(site="leaver", left_at=1, signature=signature)))

    def _enrolment(self, peer: Peer) -> None:
        invitation = self.federation.invite("joiner")
        begun = peer.call("Begin", BeginRequest(), BeginReply, service=ENROLMENT)
        request = self.federation.enrolment(SiteFolder(self.federation.path / "joiner"), invitation, begun)
        self._keep(peer, "Enrol", dump(request))
        begun = peer.call("Begin", BeginRequest(), BeginReply, service=ENROLMENT)
        csr = peer.site.keys().certificate_request()
        statement = {"nonce": begun.nonce, "site": "site-1", "request": hashlib.sha256(csr.encode()).hexdigest()}
        signature = sign(peer.site.keys().signing, "recovery", statement)
        recover = RecoverRequest(site="site-1", nonce=begun.nonce, certificate_request=csr, signature=signature)
        self._keep(peer, "Recover", dump(recover))

    def variants(self, frame: Frame, peer: Peer) -> Iterator[Frame]:
        """Return the frame, and where it names a session or a nonce, the same with a good one of who sends it again."""
        yield frame
        kinds: dict[str, Any] = {
            "Download": DownloadRequest,
            "Upload": UploadHeader,
            "Stored": StoredRequest,
            "Renew": RenewRequest,
        }
        first, *others = frame.messages
        if peer.session and frame.method in kinds:
            changed: Any = load(kinds[frame.method], first).model_copy(update={"session": peer.session})
            yield Frame(frame.method, (dump(changed), *others))
        if frame.method in ("Enrol", "Recover"):
            kind: Any = EnrolRequest if frame.method == "Enrol" else RecoverRequest
            with self.federation.stranger("site-1") as fresh:
                nonce = fresh.call("Begin", BeginRequest(), BeginReply, service=ENROLMENT).nonce
            yield Frame(frame.method, (dump(load(kind, first).model_copy(update={"nonce": nonce})),))

    def state(self) -> dict[str, object]:
        """Return everything durable that the coordinator has."""
        tables = MetaData()
        engine = create_engine(f"sqlite:///{self.federation.folder.database}")
        tables.reflect(engine)
        with engine.connect() as connection:
            rows: dict[str, object] = {
                name: sorted(map(str, connection.execute(select(table)))) for name, table in tables.tables.items()
            }
        engine.dispose()
        files = (path for path in self.federation.folder.exchange.rglob("*") if path.is_file())
        return rows | {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def later(recording: Recording) -> Iterator[None]:
    """Yield at later and later points of the federation's life."""
    federation = recording.federation
    yield
    federation.call("Close", CloseRequest(tasks=(str(task("train-2")),)), Done)
    federation.push(task("train-1", attempt=2), content=b"the same step in another attempt")
    yield
    federation.call("Stop", StudyRequest(study=recording.study.study), StudyReply)
    federation.install(*federation.bindings().values())
    yield


def replay(federation: Members, recording: Recording, tries: int) -> Counter[str]:
    """Send recorded frames again, over connections of the same site, of another one, with and without a session."""
    found: Counter[str] = Counter()
    rng = random.Random(7)
    for point in later(recording):
        assert point is None
        with (
            federation.peer("site-1") as same,
            federation.peer("site-2") as other,
            federation.peer("site-3") as idle,
            federation.peer("leaver") as gone,
            federation.stranger("site-1") as outside,
        ):
            same.attach()
            other.attach()
            before, here = recording.state(), 0
            while here < tries / 3:
                frame = rng.choice(recording.frames)
                if frame.method in ("Enrol", "Recover"):
                    chosen = outside
                else:
                    # On the site's own connection a recorded Attach is the alarm; see the end of the test.
                    own = () if frame.method == "Attach" else (same,)
                    chosen = rng.choice([*own, other, idle, gone])
                for variant in recording.variants(frame, chosen):
                    if chosen is same and variant is not frame:
                        continue  # with the site's own session it is the site: see below
                    result = outcome(partial(variant.send, chosen))
                    assert result not in ("ACCEPTED", "internal", NO_CALL), (frame.method, chosen.membership.site)
                    found[result] += 1
                    here += 1
            assert recording.state() == before
    return found


@pytest.mark.parametrize("tries", [450, pytest.param(10_000, marks=pytest.mark.slow)])
def test_nothing_that_was_sent_is_accepted_again(tmp_path: Path, tries: int) -> None:
    with Members(tmp_path, ("site-1", "site-2", "site-3", "leaver")) as federation:
        recording = Recording(federation)
        found = replay(federation, recording, tries)
        assert found.total() >= tries
        assert set(found) >= {"superseded", "no-session", "no-task", "proof", "revoked", "forbidden"}
        (attach,) = (frame for frame in recording.frames if frame.method == "Attach")
        with federation.peer("site-1") as same:
            assert outcome(partial(attach.send, same)) == "frozen"
        assert federation.shown()["site-1"].status == "frozen"


def test_a_stored_reply_that_comes_again_is_complete_and_changes_nothing(tmp_path: Path) -> None:
    with Members(tmp_path, ("site-1",)) as federation:
        federation.push(task("train-1"))
        with federation.peer("site-1") as peer:
            peer.attach()
            assert peer.upload(task("train-1"), REPLY) == StoredReply(stored=len(REPLY), complete=True)
        (path,) = federation.folder.exchange.rglob("reply-*")
        for content in (REPLY, b"another reply"):
            with federation.peer("site-1") as peer:
                peer.attach()
                assert peer.upload(task("train-1"), content).complete
                assert path.read_bytes() == REPLY
                request = StoredRequest(session=peer.session, task=task("train-1"), size=1, sha256="0" * 64)
                assert peer.call("Stored", request, StoredReply).complete
