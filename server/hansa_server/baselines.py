"""The baselines of a simulation: each site trained alone, and all data pooled."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hansa_common.errors import StudyFailed
from hansa_common.messages import Baseline, BaselineTask, Message
from hansa_common.metrics import Counts
from hansa_common.parameters import Vector
from hansa_common.prepared import Prepared
from hansa_server.exchange import Answer, problem_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Baselines:
    """What was reached without federation: counts on each site's test split."""

    local_only: dict[str, Counts]
    pooled: dict[str, Counts]
    seconds: float


def train_baselines(
    ask: Callable[[Sequence[tuple[int, Message]]], Iterator[Answer]],
    *,
    plan_digest: str,
    nodes: Mapping[str, int],
    initial: Vector,
    prepared: Prepared | None = None,
) -> Baselines:
    """Train each site alone, and all data pooled, from the same initial parameters with the same budget.

    Raises:
        StudyFailed: A node could not, or answered for other sites than ``nodes`` names.
    """
    started = time.monotonic()
    local, pooled = (
        Message(header=BaselineTask(plan_digest=plan_digest, subject=subject, prepared=prepared), vector=initial)
        for subject in ("local", "pooled")
    )
    requests = [(nodes[min(nodes)], pooled)]  # the longest first
    requests += [(node, local) for node in nodes.values()]
    found: dict[str, dict[str, Counts]] = {"local": {}, "pooled": {}}
    for answer in ask(requests):
        if answer.message is None or not isinstance(header := answer.message.header, Baseline):
            raise StudyFailed(f"A baseline could not be trained: {problem_of(answer)}")
        found[header.subject] |= answer.message.counts
    if not set(found["local"]) == set(nodes) <= set(found["pooled"]):
        raise StudyFailed("A baseline was evaluated at other sites than asked.")
    return Baselines(
        local_only=found["local"],
        pooled={site: counts for site, counts in found["pooled"].items() if site in nodes},
        seconds=time.monotonic() - started,
    )
