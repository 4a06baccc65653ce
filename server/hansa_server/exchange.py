"""What carries messages between the study and its sites, as the study sees it; ``app.py`` puts it on Flower's Grid."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from hansa_common.messages import Message, Refusal
from hansa_common.metrics import CountsKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back from one node.

    Attributes:
        node: Which.
        message: The reply, parsed; ``None`` where there is none.
        failure: Why there is none.
        num_bytes: Payload size of the reply.
    """

    node: int
    message: Message | None = None
    failure: str = ""
    num_bytes: int = 0


class Deadline:
    """Until when answers are waited for; whoever takes them may bring it forward.

    Args:
        seconds: From now.
    """

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds until it passes, 0 afterwards."""
        return max(0.0, self._at - time.monotonic())

    def shorten(self, seconds: float) -> None:
        """Wait no longer than so many seconds from now; never longer than before."""
        self._at = min(self._at, time.monotonic() + seconds)


class Exchange(Protocol):
    """Sends messages to nodes and yields their answers as they come."""

    bytes_up: int
    bytes_down: int
    names: Mapping[int, str]
    """The authenticated name of each node; empty where nodes are simulated and name themselves."""

    def nodes(self) -> Sequence[int]:
        """Return the nodes that are there."""

    def ask(self, requests: Sequence[tuple[int, Message]], *, deadline: Deadline, kind: CountsKind) -> Iterator[Answer]:
        """Send each node its message and yield the answers, one for each request, in order of arrival.

        Ends when all have answered or the deadline has passed; the others are not waited for any more. Requests that
        share one ``Message`` object share its bytes too. ``kind`` is that of the counts in
        the answers.

        Raises:
            StudyInterrupted: The operator stopped the study.
        """


def problem_of(answer: Answer) -> str:
    """Say why an answer is not what was asked for."""
    if answer.message is None:
        return answer.failure or "It did not reply before the deadline."
    header = answer.message.header
    return header.reason if isinstance(header, Refusal) else f"It sent '{header.kind}', which was not asked for."


def by_basis(task: Message, basis: Mapping[str, int]) -> Callable[[str], Message]:
    """Return what makes each site's task: sites that build on the same round share one message, and so its bytes.

    Args:
        task: Of a site that builds on no round.
        basis: Round of each site that builds on one.
    """
    made = {0: task}

    def of(site: str) -> Message:
        number = basis.get(site, 0)
        if number not in made:
            made[number] = replace(task, header=task.header.model_copy(update={"basis": number}))
        return made[number]

    return of


def ask_each(
    exchange: Exchange, requests: Sequence[tuple[int, Message]], *, deadline: Deadline, kind: CountsKind
) -> Iterator[Answer]:
    """Yield one answer for each request; a node that is silent until the deadline has failed."""
    silent = Counter(node for node, _message in requests)

    def heard(answer: Answer) -> Answer:
        silent[answer.node] -= 1
        return answer

    # no name for an answer here: its array may be as large as the model, and only the caller may hold it
    yield from map(heard, exchange.ask(requests, deadline=deadline, kind=kind))
    for node in silent.elements():
        yield Answer(node=node, failure="It did not reply before the deadline.")
