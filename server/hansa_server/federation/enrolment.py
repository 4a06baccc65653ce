"""The Enrolment service: for those who have no certificate yet, or none that is still good."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from hansa_common.errors import MessageError
from hansa_common.settings import Model
from hansa_common.wire.protocol import (
    ENROLMENT,
    BeginRequest,
    EnrolRequest,
    NextRosterRequest,
    RecoverRequest,
    agree,
    dump,
    load,
)
from hansa_server.federation.calls import Rates, aborting
from hansa_server.federation.membership import Membership
from hansa_server.federation.metrics import Metrics


class EnrolmentService:
    """Begin, Enrol, Recover and NextRoster.

    Args:
        membership: Decides.
        rates: How often an address may call.
        metrics: Counts refusals.
        protocols: Versions that the server speaks.
    """

    def __init__(self, membership: Membership, *, rates: Rates, metrics: Metrics, protocols: tuple[int, ...]) -> None:
        self._membership = membership
        self._rates = rates
        self._metrics = metrics
        self._protocols = protocols

    def handler(self) -> grpc.GenericRpcHandler:
        """Return what a gRPC server is given."""
        return grpc.method_handlers_generic_handler(
            ENROLMENT,
            {
                "Begin": self._unary(BeginRequest, self._begin),
                "Enrol": self._unary(EnrolRequest, self._enrol),
                "Recover": self._unary(RecoverRequest, self._recover),
                "NextRoster": self._unary(NextRosterRequest, self._next_roster),
            },
        )

    def _unary(
        self, kind: type[Model], answer: Callable[[Model], Awaitable[bytes]]
    ) -> "grpc.RpcMethodHandler[bytes, bytes]":
        async def call(content: bytes, context: Any) -> bytes:
            async with aborting(context, self._metrics.refused):
                self._rates.take(context.peer().rpartition(":")[0])
                return await answer(load(kind, content))
            raise RuntimeError("abort raises")

        return grpc.unary_unary_rpc_method_handler(call)

    async def _begin(self, request: BeginRequest) -> bytes:
        return dump(self._membership.begin(agree(request.protocols, self._protocols)))

    async def _enrol(self, request: EnrolRequest) -> bytes:
        return dump(self._membership.enrol(request))

    async def _recover(self, request: RecoverRequest) -> bytes:
        return dump(self._membership.recover(request))

    async def _next_roster(self, request: NextRosterRequest) -> bytes:
        newer = self._membership.rosters_after(request.after, most=1)
        if not newer:
            raise MessageError(f"No roster follows upon version {request.after}.")
        return dump(self._membership.certification.notice(newer[0]))
