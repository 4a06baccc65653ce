"""Simulated sites as functions of one process, for engine ``inline``."""

from collections.abc import Callable

from hansa_client.session import SiteState, handle
from hansa_common.messages import Envelope


def open_site(index: int) -> Callable[[Envelope], Envelope]:
    """Return a simulated site that has opened no study yet: a task's bytes to its reply's.

    Args:
        index: Its place among the sites of the simulation, from 0.
    """
    state = SiteState(index=index)

    def answer(task: Envelope) -> Envelope:
        return handle(task, state)

    return answer
