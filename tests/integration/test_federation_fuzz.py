"""E4 and T18: hostile bytes to every call, and connections that only hold on; an honest site goes on beside them."""

import contextlib
import queue
import socket
import ssl
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from tests.chaos.federation import Federation, Site
from tests.chaos.fuzz import messages
from tests.chaos.peer import Peer, outcome
from tests.chaos.processes import wait_until
from tests.conftest import small_study

from hansa_client.calls import error_of
from hansa_common.errors import PeerRefused
from hansa_common.plan import dump_plan, parse_plan
from hansa_common.roster import SignedBinding
from hansa_common.settings import Strict
from hansa_common.wire.protocol import (
    CHUNK,
    ENROLMENT,
    FEDERATION,
    AttachRequest,
    BeginRequest,
    DecideRequest,
    Decision,
    Denial,
    DownloadRequest,
    Empty,
    EnrolRequest,
    LeaveRequest,
    NextRosterRequest,
    RecoverRequest,
    RenewRequest,
    StoredRequest,
    TaskNotice,
    UploadHeader,
    dump,
)
from hansa_server.federation.service import METHODS
from hansa_server.results import Results

NOBODY, SIGNATURE = "f" * 64, "0" * 128
ENROLLING = ("Begin", "Enrol", "Recover", "NextRoster")
UNARY = ("Stored", "Decide", "Proposals", "Renew", "Leave", *ENROLLING)
MOST_MEMORY = 50_000_000  # bytes that the server may grow by
AT_A_TIME = 16
SECONDS = 60.0
EXPECTED = {str(denial) for denial in Denial} - {Denial.INTERNAL, Denial.STORAGE, Denial.FROZEN}


class Attacker(Peer):
    """The hostile site: attached, with one open task, and able to send any bytes to any call."""

    def __init__(self, site: Site) -> None:
        super().__init__(site.folder)
        self.notices = self.attach()
        self.outside = Peer(site.folder, address=self.membership.enrolment, certificate="")
        self.notice: TaskNotice | None = None
        self.before = 0  # bytes that the server took before the attack

    def __exit__(self, *error: object) -> None:
        self.outside.__exit__(*error)
        super().__exit__(*error)

    def valid(self) -> dict[str, Strict]:
        """One well-formed message of each call, that would be refused only for what it says."""
        assert self.notice is not None
        task, site, session = self.notice.task, self.membership.site, self.session
        request = self.site.keys().certificate_request()
        bound = self.site.binding()
        assert bound is not None
        decision = Decision(federation="test", site=site, study=task.study, digest=NOBODY, approved=True, decided_at=1)
        binding = SignedBinding(binding=bound.binding, signature=SIGNATURE)
        return {
            "Attach": AttachRequest(version="0", counter=10**9, signature=SIGNATURE),
            "Download": DownloadRequest(session=session, task=task, offset=10**9),
            "Upload": UploadHeader(session=session, task=task, size=10, sha256=NOBODY),
            "Stored": StoredRequest(session=session, task=task, size=10, sha256=NOBODY),
            "Decide": DecideRequest(decision=decision, signature=SIGNATURE),
            "Proposals": Empty(),
            "Renew": RenewRequest(session=session, certificate_request=request[:-100]),
            "Leave": LeaveRequest(site=site, left_at=1, signature=SIGNATURE),
            "Begin": BeginRequest(protocols=(99,)),
            "Enrol": EnrolRequest(
                invitation="0" * 32,
                nonce=NOBODY,
                roster=NOBODY,
                binding=binding,
                certificate_request=request,
                acceptance=SIGNATURE,
                proof=NOBODY,
            ),
            "NextRoster": NextRosterRequest(after=1),
            "Recover": RecoverRequest(site=site, nonce=NOBODY, certificate_request=request, signature=SIGNATURE),
        }

    def send(self, method: str, contents: list[bytes]) -> Iterator[str]:
        """Make calls at a time and yield how each ended: a denial, ``ACCEPTED``, or what gRPC says of itself."""
        service, channel = (ENROLMENT, self.outside.channel) if method in ENROLLING else (FEDERATION, self.channel)
        path = f"/{service}/{method}"
        calls: list[Any] = []
        for content in contents:
            if method in UNARY:
                calls.append(channel.unary_unary(path).future(content, timeout=SECONDS))
            elif method == "Upload":
                pieces = iter((content, b"0123456789"))
                calls.append(channel.stream_unary(path).future(pieces, timeout=SECONDS))
            else:
                calls.append(channel.unary_stream(path)(content, timeout=SECONDS))
        for call in calls:
            try:
                _answer = call.result() if method in UNARY or method == "Upload" else list(call)
                yield "ACCEPTED"
            except grpc.RpcError as error:
                found = error_of(error)
                yield found.denial if isinstance(found, PeerRefused) else str(found)

    def fuzz(self, each: int, seed: int = 7) -> dict[str, Counter[str]]:
        """Send so many hostile messages to each call and count how they ended."""
        found: dict[str, Counter[str]] = {}
        for method, valid in self.valid().items():
            ended = found[method] = Counter()
            batch: list[bytes] = []
            for content in messages(valid, each, seed):
                batch.append(content)
                if len(batch) == AT_A_TIME:
                    ended.update(self.send(method, batch))
                    batch = []
            ended.update(self.send(method, batch))
        return found


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("fuzz")
    with Federation(folder, ("honest", "hostile"), settings={"calls_per_second": 1_000_000.0}) as made:
        rounds = {"count": 2, "quorum": 0.5, "deadline_seconds": 3_000.0}
        plan = parse_plan(small_study(rounds=rounds, replaced={"simulation": None}))
        (folder / "small.toml").write_text(dump_plan(plan))
        own = parse_plan(small_study(rounds=rounds, replaced={"simulation": None}, federation={"sites": ["honest"]}))
        (folder / "alone.toml").write_text(dump_plan(own))
        made.sites["hostile"].agent.stop()
        made.wait_online(made.sites["hostile"], online=False)
        yield made


@pytest.fixture(scope="module")
def alone(federation: Federation) -> str:
    """The model of the honest site without the other: it must not differ when that one attacks."""
    study = federation.propose(federation.path / "alone.toml")
    federation.approve(study, federation.sites["honest"])
    assert federation.wait_ended(study).state == "completed"
    return model_of(federation, study)


def model_of(federation: Federation, study: str) -> str:
    content = (federation.run_folder(study) / "metrics.json").read_bytes()
    return Results.model_validate_json(content).model_sha256


@contextlib.contextmanager
def attacked(federation: Federation, alone: str) -> Iterator[Attacker]:
    """Yield an attacker with an open task of a study that an honest site is in; then that study gets to its end.

    The server is the same process afterwards, has not failed inside, and has not grown.
    """
    honest, hostile = federation.sites.values()
    server = psutil.Process(federation.server.pid)
    with Attacker(hostile) as attacker:
        study = federation.propose(federation.path / "small.toml")
        federation.approve(study, honest)
        hostile.hansa("approve", study)
        attacker.notice = next(
            each for each in attacker.notices if isinstance(each, TaskNotice) and each.task.study == study
        )
        attacker.before = server.memory_info().rss
        yield attacker
        federation.wait_online(honest, seconds=1.0)
        attacker.upload(attacker.notice.task, b"nothing")  # the study need not wait for its deadline
        ended = federation.wait_ended(study, seconds=30.0)
    assert ended.state == "completed", ended.reason
    assert model_of(federation, study) == alone
    assert honest.agent.is_running
    assert server.memory_info().rss - attacker.before < MOST_MEMORY
    log = (federation.folder / "server.log").read_text()
    assert "unexpected failure" not in log, log[-3_000:]
    assert "Traceback" not in federation.server.check()
    federation.wait_online(hostile, online=False)


def assert_refused(found: dict[str, Counter[str]], each: int) -> None:
    """Every message was refused with a code, unless what it happened to ask was this site's to ask."""
    for method, ended in found.items():
        harmless = {"ACCEPTED"} if method in ("Proposals", "Stored", "Download", "Begin", "NextRoster") else set()
        assert set(ended) <= EXPECTED | harmless, (method, ended)
        assert ended.total() == each
        assert ended[Denial.INVALID] > each // 3, (method, ended)


def test_every_call_is_fuzzed_and_refuses_by_code(federation: Federation, alone: str) -> None:
    each = 200
    with attacked(federation, alone) as attacker:
        assert set(METHODS) | set(ENROLLING) == set(attacker.valid())
        assert_refused(attacker.fuzz(each), each)


@pytest.mark.slow
@pytest.mark.timeout(1_500)
def test_two_hundred_thousand_hostile_messages(federation: Federation, alone: str) -> None:
    each = 18_500
    with attacked(federation, alone) as attacker:
        attacker.fuzz(each // 10)  # what the largest of them need stays with the process: memory must be flat from here
        attacker.before = psutil.Process(federation.server.pid).memory_info().rss
        assert_refused(attacker.fuzz(each, seed=11), each)


@pytest.mark.slow
def test_lies_in_an_upload_are_refused_and_the_task_stays_open(federation: Federation, alone: str) -> None:
    with attacked(federation, alone) as attacker:
        assert attacker.notice is not None
        task, most = attacker.notice.task, attacker.notice.max_reply
        lies: dict[str, tuple[bytes, dict[str, Any]]] = {
            Denial.TOO_LARGE: (b"x", {"size": most + 1}),
            Denial.DIGEST: (b"x" * 10, {"sha256": NOBODY}),
            Denial.OFFSET: (b"x" * 10, {"offset": 5, "sha256": "e" * 64}),
            Denial.INVALID: (b"x" * 9, {"size": 10, "sha256": "d" * 64}),
            Denial.SUPERSEDED: (b"x", {"session": NOBODY}),
            Denial.NO_TASK: (b"x", {"task": task.model_copy(update={"attempt": 7})}),
        }
        for denial, (content, fields) in lies.items():
            with pytest.raises(PeerRefused) as error:
                attacker.upload(fields.pop("task", task), content, **fields)
            assert error.value.denial == denial
        with pytest.raises(PeerRefused) as error:  # more bytes than announced, in one chunk
            attacker.upload(task, b"x" * 20, size=10, sha256=NOBODY)
        assert error.value.denial == Denial.TOO_LARGE
        with pytest.raises(PeerRefused) as error:
            attacker.upload(task, b"x" * (CHUNK + 1), chunk=CHUNK + 1, size=CHUNK + 1)
        assert error.value.denial == Denial.INVALID


def holding(path: Path, address: str, *, handshake: bool) -> socket.socket:
    """Open a connection that then says nothing: with the site's certificate, or not even a handshake."""
    host, _, port = address.rpartition(":")
    plain = socket.create_connection((host, int(port)), timeout=10.0)
    if not handshake:
        plain.send(b"\x16\x03\x01")  # the first bytes of one
        return plain
    context = ssl.create_default_context(cafile=str(path / "authorities.pem"))
    context.load_cert_chain(path / "certificate.pem", path / "keys" / "tls.pem")
    context.set_alpn_protocols(["h2"])
    return context.wrap_socket(plain, server_hostname=host)


@pytest.mark.slow
def test_a_hundred_connections_that_only_hold_on_stop_nobody(federation: Federation, alone: str) -> None:
    """T18: half of them without a handshake, half idle behind one, and an upload that never goes on."""
    path = federation.sites["hostile"].folder
    with contextlib.ExitStack() as stack, attacked(federation, alone) as attacker:
        for number in range(100):
            held = holding(path, attacker.membership.address, handshake=number % 2 == 0)
            stack.callback(held.close)
        assert attacker.notice is not None
        pieces: queue.Queue[bytes | None] = queue.Queue()
        header = {"session": attacker.session, "task": attacker.notice.task, "size": 10**6, "sha256": NOBODY}
        pieces.put(dump(UploadHeader.model_validate(header)))
        pieces.put(b"x" * 1_000)
        upload: Any = attacker.channel.stream_unary(f"/{FEDERATION}/Upload")
        half_open = upload.future(iter(pieces.get, None), timeout=SECONDS)
        part = federation.folder / "exchange" / attacker.notice.task.study
        wait_until(lambda: any(each.stat().st_size == 1_000 for each in part.glob("*.part")), "the half-open upload")
        stored = StoredRequest(session=attacker.session, task=attacker.notice.task, size=10**6, sha256=NOBODY)
        attacker.raw("Stored", dump(stored))  # gives the half-open one up, as an honest site would
        assert outcome(half_open.result) == Denial.OFFSET
        pieces.put(None)
