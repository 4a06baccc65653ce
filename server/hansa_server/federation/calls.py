"""What every call has in common: errors become refusals with a code, and nobody calls too often."""

import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc
import structlog

from hansa_common.errors import HansaError, IdentityError, MessageError, PeerRefused, StorageError, UsageError
from hansa_common.wire.protocol import DENIAL_KEY, Denial

_MOST_CALLERS: Final = 10_000
_log = structlog.get_logger()

_STATUS: Final = {
    Denial.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Denial.PROTOCOL: grpc.StatusCode.FAILED_PRECONDITION,
    Denial.UNKNOWN: grpc.StatusCode.UNAUTHENTICATED,
    Denial.NO_TASK: grpc.StatusCode.NOT_FOUND,
    Denial.OFFSET: grpc.StatusCode.OUT_OF_RANGE,
    Denial.BUSY: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Denial.TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Denial.STORAGE: grpc.StatusCode.UNAVAILABLE,
    Denial.INTERNAL: grpc.StatusCode.INTERNAL,
}


@asynccontextmanager
async def aborting(context: Any, refused: Callable[[str], None], *, own_machine: bool = False) -> AsyncIterator[None]:
    """Turn what a call raises into a refusal: a status, a sentence without values, and a code to decide by.

    Args:
        context: Of the call (``grpc.aio.ServicerContext``).
        refused: Told each denial.
        own_machine: The caller is the operator's, who is told the whole reason of a wrong use.
    """
    try:
        yield
    except PeerRefused as error:
        await _abort(context, refused, error.denial, error)
    except MessageError as error:
        await _abort(context, refused, Denial.INVALID, error)
    except IdentityError as error:
        await _abort(context, refused, Denial.PROOF, error)
    except StorageError as error:
        _log.error("storage", problem=error.message)
        await _abort(context, refused, Denial.STORAGE, error if own_machine else HansaError(error.public))
    except UsageError as error:
        await _abort(context, refused, UsageError.code if own_machine else Denial.INVALID, error)
    except HansaError as error:
        await _abort(context, refused, Denial.INTERNAL, error if own_machine else HansaError(error.public))
    except grpc.aio.AbortError:
        raise
    except Exception:  # noqa: BLE001 - a call ends by a code, and tells no details
        _log.exception("unexpected failure of a call")
        await _abort(context, refused, Denial.INTERNAL, HansaError("The server failed; its log says why."))


async def _abort(context: Any, refused: Callable[[str], None], denial: str, error: HansaError) -> None:
    refused(str(denial))
    status = _STATUS.get(denial, grpc.StatusCode.PERMISSION_DENIED)  # type: ignore[call-overload]
    text = f"{error.message}\n{error.advice}"
    await context.abort(status, text, trailing_metadata=((DENIAL_KEY, str(denial)),))


class Rates:
    """How often each caller may call: a bucket that fills steadily (token bucket), one second deep.

    Args:
        per_second: Calls a second.
        clock: Monotonic time in seconds.
    """

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str) -> None:
        """Count a call.

        Raises:
            PeerRefused: It is one too many.
        """
        now = self._clock()
        level, at = self._buckets.pop(caller, (max(1.0, self._per_second), now))
        level = min(max(1.0, self._per_second), level + (now - at) * self._per_second)
        self._buckets[caller] = (max(0.0, level - 1.0), now)
        if len(self._buckets) > _MOST_CALLERS:
            self._buckets.popitem(last=False)
        if level < 1.0:
            raise PeerRefused(f"More than {self._per_second:g} calls a second.", denial=Denial.BUSY)
