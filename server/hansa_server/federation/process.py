"""The coordinator's process: two ports, the control socket, and one process a study that it starts again if it dies."""

import asyncio
import contextlib
import logging
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TextIO

import grpc
import structlog
from cryptography import x509
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from hansa_common.app_plan import read_any
from hansa_common.audit import Journal
from hansa_common.errors import HansaError, UsageError
from hansa_common.files import LogFile
from hansa_common.heap import keep_small
from hansa_common.settings import Strict
from hansa_common.wire import tls
from hansa_common.wire.protocol import COORDINATOR, PROTOCOLS
from hansa_server.federation.administration import administration_calls
from hansa_server.federation.attendance import Attendance
from hansa_server.federation.authority import Authorities
from hansa_server.federation.calls import Rates
from hansa_server.federation.control import (
    CloseRequest,
    Done,
    FinishRequest,
    PlanRequest,
    PulledOutcome,
    PullReply,
    PullRequest,
    PushRequest,
    StudiesReply,
    StudyReply,
    StudyRequest,
    listen,
    service,
)
from hansa_server.federation.database import open_database
from hansa_server.federation.enrolment import EnrolmentService
from hansa_server.federation.folder import FederationFolder
from hansa_server.federation.founding import read_founder
from hansa_server.federation.hub import Hub
from hansa_server.federation.membership import Membership
from hansa_server.federation.metrics import Metrics
from hansa_server.federation.runners import Runners
from hansa_server.federation.service import FederationService, refuse_everything
from hansa_server.federation.studies import Studies, StudyRow
from hansa_server.federation.tasks import NewTask, Tasks

STUDY_CALLS: Final = ("Propose", "Begin", "Resume", "Stop", "Studies", "Finish", "Push", "Pull", "Close")
_log = structlog.get_logger()
_GRACE: Final = 2.0  # seconds for calls under way when the server stops


def serve(path: Path, passphrase: bytes, *, protocols: tuple[int, ...] = PROTOCOLS) -> None:
    """Run a coordinator until SIGTERM or SIGINT.

    Args:
        path: The federation's folder.
        passphrase: Of the authority's key.
        protocols: Versions to speak.

    Raises:
        UsageError: The folder is no federation's, another server runs on it, or a port is taken.
        StorageError: The disk fails.
    """
    keep_small()
    folder = FederationFolder.open(path)
    folder.lock()
    with LogFile(folder.log) as log:
        _configure_logs(log)
        asyncio.run(_Coordinator(folder, passphrase, protocols).run())


def _configure_logs(log: TextIO) -> None:
    """Structured lines of ids and decisions, in the folder's log."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(file=log),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )


class _Coordinator:
    """Everything that one server process has."""

    def __init__(self, folder: FederationFolder, passphrase: bytes, protocols: tuple[int, ...]) -> None:
        self._folder = folder
        self._settings = folder.settings()
        self._protocols = protocols
        engine = open_database(folder.database)
        journal = Journal(folder.journal)
        self._metrics = Metrics()
        self._membership = Membership(
            engine=engine,
            authorities=Authorities(folder, passphrase),
            settings=self._settings,
            journal=journal,
            founder=read_founder(folder),
        )
        self._membership.certification.certifier()  # a wrong passphrase ends here
        self._identity_lock = threading.Lock()
        self._shown: tuple[str, float, tls.ServerIdentity] | None = None
        self._attendance = Attendance(engine)
        self._attendance.all_offline()
        self._hub_parts = (Studies(engine), Tasks(engine, folder.exchange), journal)

    async def run(self) -> None:
        studies, tasks, journal = self._hub_parts
        hub = Hub(
            settings=self._settings,
            membership=self._membership,
            attendance=self._attendance,
            studies=studies,
            tasks=tasks,
            journal=journal,
            metrics=self._metrics,
        )
        runners = Runners(self._folder, hub)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        calls = _StudyCalls(hub, runners).all() | self._administration(hub)
        servers = [self._enrolment(calls), self._federation(hub, calls), self._control(calls)]
        if self._settings.metrics_address:
            self._metrics.serve(self._settings.metrics_address)
        for server in servers:
            await server.start()
        _log.info("started", federation=self._settings.name)
        advancing = asyncio.create_task(runners.advance())
        try:
            await stop.wait()
        finally:
            advancing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await advancing
            await runners.close()
            hub.sessions.end_all()
            await asyncio.gather(*(server.stop(_GRACE) for server in servers))
            _log.info("stopped", federation=self._settings.name)

    def _administration(self, hub: Hub) -> dict[str, tuple[type[Strict], Callable[[Any], Awaitable[Strict]]]]:
        """Return the calls about members; who is shut out by one is cut off before it returns."""

        def served(function: Callable[[Any], Strict]) -> Callable[[Any], Awaitable[Strict]]:
            async def answer(request: Any) -> Strict:
                reply = function(request)
                hub.membership_changed()
                return reply

            return answer

        return {
            name: (kind, served(call))
            for name, (kind, call) in administration_calls(self._membership, self._attendance).items()
        }

    def _enrolment(self, calls: Mapping[str, Any]) -> Any:
        server = grpc.aio.server(options=tls.SERVER_OPTIONS)
        checks = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(checks, server)
        enrolment = EnrolmentService(
            self._membership,
            rates=Rates(self._settings.calls_per_second),
            metrics=self._metrics,
            protocols=self._protocols,
        )
        server.add_generic_rpc_handlers((enrolment.handler(), refuse_everything(COORDINATOR, tuple(calls))))
        self._bind(server, self._settings.enrolment_port, tls.changing_server_credentials(self._anonymous_identity))
        asyncio.get_running_loop().create_task(checks.set("", health_pb2.HealthCheckResponse.SERVING))
        return server

    def _federation(self, hub: Hub, calls: Mapping[str, Any]) -> Any:
        server = grpc.aio.server(options=tls.SERVER_OPTIONS)
        server.add_generic_rpc_handlers(
            (FederationService(hub, protocols=self._protocols).handler(), refuse_everything(COORDINATOR, tuple(calls)))
        )
        self._bind(server, self._settings.federation_port, tls.changing_server_credentials(self._identity))
        return server

    def _control(self, calls: Mapping[str, Any]) -> Any:
        server = grpc.aio.server(
            options=[("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20)]
        )
        server.add_generic_rpc_handlers((service(calls),))
        listen(server, self._folder.path)
        return server

    def _anonymous_identity(self) -> tls.ServerIdentity:
        """Return what the enrolment port shows: nobody has a certificate there."""
        return replace(self._identity(), authorities=())

    def _identity(self) -> tls.ServerIdentity:
        """Return what the federation port shows now; a new certificate is made when half of its time is over.

        A site with a certificate of a retired authority gets as far as ``Membership.authorise``, which tells it so.
        """
        with self._identity_lock:
            return self._current_identity()

    def _current_identity(self) -> tls.ServerIdentity:
        if (
            self._shown
            and self._shown[0] == self._membership.certification.certifier_pin()
            and time.time() < self._shown[1]
        ):
            return self._shown[2]
        try:
            lifetime = timedelta(hours=self._settings.server_certificate_hours)
            authority = self._membership.certification.certifier()
            chain, key = authority.server_certificate(self._settings.host, lifetime=lifetime)
            identity = tls.ServerIdentity(
                key=key, chain=chain, authorities=self._membership.certification.trusted_certificates()
            )
            half = x509.load_pem_x509_certificate(chain.encode()).not_valid_after_utc - lifetime / 2
        except (HansaError, OSError) as error:
            if self._shown is None:
                raise
            _log.error("no new server certificate", problem=str(error))  # the one that there is goes on
            return self._shown[2]
        self._shown = (authority.pin, half.timestamp(), identity)
        return identity

    def _bind(self, server: Any, port: int, credentials: grpc.ServerCredentials) -> None:
        try:
            server.add_secure_port(f"{self._settings.listen}:{port}", credentials)
        except RuntimeError as error:
            raise UsageError(
                f"Port {port} cannot be used: {error}.", advice="Another program has it; change it in server.toml."
            ) from error


class _StudyCalls:
    """The calls of commands about studies, and of the studies' own processes."""

    def __init__(self, hub: Hub, runners: Runners) -> None:
        self._hub = hub
        self._runners = runners

    def all(self) -> dict[str, tuple[type[Strict], Callable[[Any], Awaitable[Strict]]]]:
        calls: dict[str, tuple[type[Strict], Callable[[Any], Awaitable[Strict]]]] = {
            "Propose": (PlanRequest, self.propose),
            "Begin": (StudyRequest, self.begin),
            "Resume": (StudyRequest, self.resume),
            "Stop": (StudyRequest, self.stop),
            "Studies": (Done, self.studies),
            "Finish": (FinishRequest, self.finish),
            "Push": (PushRequest, self.push),
            "Pull": (PullRequest, self.pull),
            "Close": (CloseRequest, self.close),
        }
        if set(calls) != set(STUDY_CALLS):
            raise RuntimeError("STUDY_CALLS is not the list of calls.")
        return calls

    async def propose(self, request: PlanRequest) -> Strict:
        members = self._hub.membership.members()
        return self._proposed(self._hub.studies.propose(read_any(request.plan), members, now=time.time()))

    async def begin(self, request: StudyRequest) -> Strict:
        return _reply(self._hub.studies.find(request.study))

    async def resume(self, request: StudyRequest) -> Strict:
        return self._proposed(self._hub.studies.next_attempt(request.study))

    def _proposed(self, row: StudyRow) -> Strict:
        self._hub.propose(row)
        return _reply(row)

    async def stop(self, request: StudyRequest) -> Strict:
        row = self._hub.studies.find(request.study)
        await self._runners.stop(row)
        return _reply(self._hub.studies.find(row.id))

    async def studies(self, _request: Done) -> Strict:
        return StudiesReply(studies=tuple(_reply(row) for row in self._hub.studies.all()))

    async def finish(self, request: FinishRequest) -> Strict:
        self._hub.finish(request.study, request.state, request.reason)
        return Done()

    async def push(self, request: PushRequest) -> Strict:
        now = time.time()
        new = [
            NewTask(
                task=task.task,
                content=task.content,
                size=task.size,
                max_reply=task.max_reply,
                deadline=now + task.seconds,
            )
            for task in request.tasks
        ]
        self._hub.push(request.study, new)
        return Done()

    async def pull(self, request: PullRequest) -> Strict:
        found = await self._hub.pull(request.tasks, request.seconds)
        return PullReply(
            outcomes=tuple(
                PulledOutcome(
                    task=outcome.task, path=str(outcome.path or ""), size=outcome.size, failure=outcome.failure
                )
                for outcome in found
            )
        )

    async def close(self, request: CloseRequest) -> Strict:
        self._hub.close(request.tasks)
        return Done()


def _reply(row: StudyRow) -> StudyReply:
    return StudyReply(
        study=row.id,
        digest=row.digest,
        plan=row.plan,
        state=row.state,
        reason=row.reason,
        attempt=row.attempt,
        sites=row.sites,
        approved=row.approved,
        refused=row.refused,
        needed=row.needed,
        proposed_at=row.proposed_at,
    )


def main() -> None:
    """Serve the folder named on the command line, for tests and benchmarks that start a bare server."""
    try:
        serve(Path(sys.argv[1]), sys.stdin.buffer.readline().strip())
    except HansaError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
