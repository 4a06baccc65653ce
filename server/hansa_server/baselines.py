"""The baselines of a simulation: each site trained alone, and all data pooled."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from hansa_common.errors import StudyFailed
from hansa_common.messages import Baseline, BaselineTask, Message
from hansa_common.metrics import Counts, main_figure, scores
from hansa_common.parameters import Vector
from hansa_common.prepared import Prepared
from hansa_server.exchange import Answer, problem_of

MOST_IN_MATRIX = 30
"""Sites up to which every model is tested at every site: that many squared, and more cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Baselines:
    """What was reached without federation: counts on each site's test split.

    Attributes:
        across: Main figure of each site's own model at every site, by whose model, then by whose test split; empty
            where there are too many sites.
    """

    local_only: dict[str, Counts]
    pooled: dict[str, Counts]
    across: dict[str, dict[str, float | None]] = field(default_factory=dict)
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
    everywhere = 1 < len(nodes) <= MOST_IN_MATRIX
    pooled, local = (
        Message(header=header, vector=initial)
        for header in (
            BaselineTask(plan_digest=plan_digest, subject="pooled", prepared=prepared),
            BaselineTask(plan_digest=plan_digest, subject="local", everywhere=everywhere, prepared=prepared),
        )
    )
    requests = [(nodes[min(nodes)], pooled)]  # the longest first
    requests += [(node, local) for node in nodes.values()]
    alone: dict[str, Counts] = {}
    together: dict[str, Counts] = {}
    across: dict[str, dict[str, float | None]] = {}
    for answer in ask(requests):
        if answer.message is None or not isinstance(header := answer.message.header, Baseline):
            raise StudyFailed(f"A baseline could not be trained: {problem_of(answer)}")
        counts = answer.message.counts
        if header.subject == "pooled":
            together |= counts
            continue
        if not (set(nodes) if everywhere else {header.site}) <= set(counts):
            raise StudyFailed("A baseline was evaluated at other sites than asked.")
        alone[header.site] = counts[header.site]
        if everywhere:  # histograms of every model at every site would not fit into memory
            across[header.site] = {site: _main(counts[site]) for site in sorted(nodes)}
    if not set(alone) == set(nodes) <= set(together):
        raise StudyFailed("A baseline was evaluated at other sites than asked.")
    return Baselines(
        local_only=alone,
        pooled={site: counts for site, counts in together.items() if site in nodes},
        across=across,
        seconds=time.monotonic() - started,
    )


def _main(counts: Counts) -> float | None:
    value: float | None = getattr(scores(counts), main_figure(counts))
    return value
