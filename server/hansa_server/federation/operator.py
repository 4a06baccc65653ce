"""The operator's calls about members: to the server that runs on a folder, or in this process where none does."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hansa_common.errors import Unreachable
from hansa_common.settings import Model, Strict
from hansa_server.federation.administration import administration_calls
from hansa_server.federation.control import call
from hansa_server.federation.folder import FederationFolder
from hansa_server.federation.founding import attendance_of, membership_of


def administer(folder: Path, method: str, request: Strict, reply: type[Model]) -> Model:
    """Make one of ``administration_calls``.

    Raises:
        HansaError: It was refused; the message says why.
    """
    opened = FederationFolder.open(folder)
    try:
        return call(folder, method, request, reply)
    except Unreachable:
        pass
    with _locked(opened):
        answer = administration_calls(membership_of(opened), attendance_of(opened))[method][1](request)
        assert isinstance(answer, reply)
        return answer


@contextmanager
def _locked(folder: FederationFolder) -> Iterator[None]:
    folder.lock()
    try:
        yield
    finally:
        folder.unlock()
