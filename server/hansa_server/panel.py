"""The sites that opened a study, as what comes before and after its rounds asks them: by their names."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from hansa_common.messages import Message, Opened
from hansa_common.metrics import CountsKind
from hansa_common.plan import StudyPlan
from hansa_server.exchange import Answer
from hansa_server.rounds import require_quorum


class Ask(Protocol):
    """Sends nodes their messages and yields one answer for each."""

    def __call__(self, requests: Sequence[tuple[int, Message]]) -> Iterator[Answer]:
        """Ask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Who is asked, and how.

    Attributes:
        plan: The study.
        digest: Of the plan.
        kind: Of the counts that it lets out.
        opened: What each site said when it opened the study.
        nodes: Site -> node.
        ask_nodes: Asks.
    """

    plan: StudyPlan
    digest: str
    kind: CountsKind
    opened: Mapping[str, Opened]
    nodes: Mapping[str, int]
    ask_nodes: Ask

    def ask(self, task: Message | Callable[[str], Message]) -> Iterator[tuple[str, Answer]]:
        """Ask every site, and yield its name with its answer.

        Args:
            task: The same for all, or what makes each site's own.
        """
        names = {node: site for site, node in self.nodes.items()}
        requests = [(node, task if isinstance(task, Message) else task(site)) for node, site in names.items()]
        yield from ((names[answer.node], answer) for answer in self.ask_nodes(requests))

    def ask_first(self, task: Message) -> Answer:
        """Ask one site what any site can answer."""
        for answer in self.ask_nodes([(self.nodes[min(self.nodes)], task)]):
            return answer
        raise RuntimeError("An exchange yields an answer for each request.")

    def need(self, found: int, failed: Mapping[str, str], what: str) -> None:
        """Stop below the quorum, and say who is missing and why.

        Raises:
            StudyFailed: Fewer than the quorum were ``found``.
        """
        require_quorum(self.plan.rounds.quorum, found, len(self.nodes), failed, what)
