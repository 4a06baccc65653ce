"""What a study notices about itself as it runs: a figure that does not fit the choice made, and the choice that helps.

Pure functions of what the coordinator knows: the plan, what the sites told when they opened it, the rounds so far. A
figure that protection or a site's policy keeps at home is not there, and then nothing is said: a notice may be missing,
it must not be wrong. Evolution: kinds are added; a reader of ``metrics.json`` ignores those that it does not know.

Sources of the rules: Li, Diao, Chen, He: Federated Learning on Non-IID Data Silos: An Experimental Study. ICDE 2022,
table 3 (SCAFFOLD falls to chance with 10 of 100 sites a round, FedNova under quantity skew) and section 5.4 (averaged
batch normalisation). Li, Li: Analysis of Error Feedback in Federated Non-Convex Optimization with Biased Compression.
ICML 2023 (memories of absent sites grow stale). Robust scores: Iglewicz and Hoaglin: How to Detect and Handle Outliers.
1993.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Final

from hansa_common.messages import Opened
from hansa_common.parameters import ParameterSpec
from hansa_common.plan import StudyPlan
from hansa_server.notice import Notice
from hansa_server.results import RoundResult, SiteRound

ABSENCES: Final = 0.1
"""More missing updates than this share make a study one of partial participation, whatever the plan asks for."""
STALE: Final = 0.5
"""Share of the rounds, up to which what a site held back is old: it waits two rounds or more."""
STEP_RATIO: Final = 10.0
"""Training examples of the largest site over those of the smallest, from which sizes are called skewed."""
AVERAGED_SKEW: Final = 0.3
"""Label skew, 0 to 1, from which averaged running statistics fit no site."""
STRONG_SKEW: Final = 0.65
"""Label skew, 0 to 1, from which plain averaging is known to lose points; Dirichlet(0.5) over ten classes has 0.5."""
NORM_RATIO: Final = 5.0
"""An update this many times as long as the others' median runs away..."""
ROBUST_SCORE: Final = 6.0
"""...if it is also so many robust standard deviations (1.4826 times the median deviation) above it..."""
LOSS_RATIO: Final = 2.0
"""...and a site's training loss does where it is so many times its own least so far, and the others' median."""
IN_A_ROW: Final = 2  # rounds of a site; one bad batch is no divergence
MEMORY: Final = 100  # rounds; of an older loss nobody says that a site runs away from it
FEWEST_OTHERS: Final = 2  # sites; a median of one is no comparison
STALLED: Final = 0.01
"""A loss that falls by less than this share of its first value over a third of the rounds has not fallen."""
LEARNED: Final = 0.05
"""A loss below this share of its first value has little left to fall."""
FEWEST_ROUNDS: Final = 5
_MAD: Final = 1.4826  # from the median deviation to the standard deviation of a normal distribution


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What the coordinator sees of a study at one moment.

    Attributes:
        plan: The study.
        sites: What each site told when it opened the study.
        spec: Of the model; ``None`` before it is initialised.
        rounds: Those that are closed.
    """

    plan: StudyPlan
    sites: Mapping[str, Opened]
    spec: ParameterSpec | None = None
    rounds: Sequence[RoundResult] = ()

    @property
    def round(self) -> int:
        """The last closed round."""
        return self.rounds[-1].round if self.rounds else 0


@dataclass(slots=True)
class Noticed:
    """The notices of one study, each as it first appeared."""

    _seen: dict[tuple[str, str | None], Notice] = field(default_factory=dict)

    @property
    def all(self) -> tuple[Notice, ...]:
        """All so far, in the order in which they appeared."""
        return tuple(self._seen.values())

    def look(self, sight: Sight) -> tuple[Notice, ...]:
        """Return what is new at this moment."""
        new = []
        for rule in RULES[MOMENT] if sight.rounds else (rule for rules in RULES.values() for rule in rules):
            for notice in rule(sight):
                if (notice.kind, notice.site) not in self._seen:
                    self._seen[notice.kind, notice.site] = notice
                    new.append(notice)
        return tuple(new)

    def replay(self, sight: Sight) -> None:
        """Look at each moment again up to this one, after a resume: notices keep the round they appeared in."""
        for number in range(len(sight.rounds) + 1):
            self.look(Sight(plan=sight.plan, sites=sight.sites, spec=sight.spec, rounds=sight.rounds[:number]))


def scaffold_with_absent_sites(sight: Sight) -> Iterator[Notice]:
    """SCAFFOLD's control variates grow stale at sites that sit rounds out."""
    partial = _participation(sight)
    if sight.plan.aggregation.strategy != "scaffold" or partial is None:
        return
    share, text = partial
    yield Notice(
        kind="scaffold_partial",
        round=sight.round,
        figure=share,
        text=f"SCAFFOLD with {text}. A site takes part in {share:.0%} of the rounds; its control variate is as old as "
        "the last one.",
        advice="Take all sites in every round, or aggregation.strategy = 'fedprox' or 'fedavg'; with 10 of 100 sites a "
        "round SCAFFOLD stayed at chance where averaging did not.",
    )


def memories_of_absent_sites(sight: Sight) -> Iterator[Notice]:
    """What top-k held back grows stale at sites that sit most rounds out."""
    partial = _participation(sight)
    if not sight.plan.transport.holds_back or partial is None or partial[0] > STALE:
        return
    share, text = partial
    yield Notice(
        kind="topk_partial",
        round=sight.round,
        figure=share,
        text=f"Top-k with {text}. A site takes part in {share:.0%} of the rounds, and what it held back is as old as "
        "the last one.",
        advice="Take more sites in a round, a larger transport.fraction, or transport.codec = 'int4', which holds "
        "nothing back.",
    )


def fednova_with_unequal_sites(sight: Sight) -> Iterator[Notice]:
    """FedNova divides by steps, and very unequal sites take very unequal numbers of them."""
    sizes = {site: opened.train for site, opened in sight.sites.items()}
    if sight.plan.aggregation.strategy != "fednova" or len(sizes) < FEWEST_OTHERS or not all(sizes.values()):
        return
    largest, smallest = max(sizes, key=lambda site: sizes[site]), min(sizes, key=lambda site: sizes[site])
    ratio = sizes[largest] / sizes[smallest]
    if ratio < STEP_RATIO:
        return
    yield Notice(
        kind="fednova_quantity",
        round=sight.round,
        figure=ratio,
        text=f"FedNova with very unequal sites: {largest} trains on {sizes[largest]:,} examples, {smallest} on "
        f"{sizes[smallest]:,}, {ratio:.0f} times fewer.",
        advice="Take aggregation.strategy = 'fedavg' or 'fedprox'; under quantity skew FedNova stayed at chance where "
        "they did not.",
    )


def averaged_batch_norm(sight: Sight) -> Iterator[Notice]:
    """Running means and variances of sites with other data average to those of nobody."""
    skew = label_skew(sight.sites)
    if sight.spec is None or skew is None or skew.share < AVERAGED_SKEW or _own_part(sight.plan) == "fedbn":
        return
    names = [tensor.name for tensor in sight.spec.tensors if tensor.name.endswith(("running_mean", "running_var"))]
    if not names:
        return
    yield Notice(
        kind="batch_norm_skew",
        round=sight.round,
        figure=skew.distance,
        text=f"Batch normalisation is averaged over sites whose classes differ: {len(names)} running statistics "
        f"({names[0]} for one), and a mean total-variation distance of {skew.distance:.2f} from the classes of all "
        "sites together.",
        advice="Take a model with GroupNorm, or personalisation.method = 'fedbn', which leaves these at the sites.",
    )


def skewed_labels(sight: Sight) -> Iterator[Notice]:
    """Plain averaging zigzags where sites hold few of the classes."""
    skew = label_skew(sight.sites)
    is_plain = sight.plan.aggregation.strategy == "fedavg" and not _own_part(sight.plan)
    if not is_plain or skew is None or skew.share < STRONG_SKEW:
        return
    yield Notice(
        kind="label_skew",
        round=sight.round,
        figure=skew.distance,
        text=f"The sites hold very different classes: a mean total-variation distance of {skew.distance:.2f} from the "
        f"classes of all sites together; {skew.most:.2f} would be sites with one class each.",
        advice="Plain averaging loses points here: compare aggregation.strategy = 'fedprox' and 'scaffold', or fewer "
        "local epochs, with 'hansa study compare'.",
    )


def diverging_sites(sight: Sight) -> Iterator[Notice]:
    """An update or a loss that runs away from the other sites', two rounds of the site in a row."""
    rounds = sight.rounds[-MEMORY:]
    for site in _suspects(rounds[-1]) if rounds else ():
        recent = _last_rounds_of(site, rounds)
        if len(recent) < IN_A_ROW:
            continue
        yield from _runaway_norm(sight, site, recent)
        yield from _runaway_loss(rounds, site, recent)


def stalled_learning(sight: Sight) -> Iterator[Notice]:
    """The training loss has not fallen over a third of the study's rounds, and is not small yet.

    Newton's method stands still where it has arrived.
    """
    if sight.plan.aggregation.strategy == "newton":
        return
    losses = [entry.train_loss for entry in sight.rounds]
    window = max(FEWEST_ROUNDS, math.ceil(sight.plan.rounds.count / 3))
    if len(losses) <= window or any(loss is None for loss in (losses[0], *losses[-window - 1 :])):
        return
    known = [loss for loss in losses if loss is not None]
    first, before, since = known[0], min(known[:-window]), min(known[-window:])
    if before - since >= STALLED * first or before <= LEARNED * first:
        return
    yield Notice(
        kind="stalled",
        round=sight.round,
        figure=since,
        text=f"The training loss has not fallen for {window} rounds: {before:.4f} at best before, {since:.4f} since, "
        f"{first:.4f} in the first round.",
        advice="If the figures are good enough, fewer rounds do; else compare other learning rates with 'hansa study "
        "sweep', or take training.schedule = 'cosine'.",
    )


Rule = Callable[[Sight], Iterator[Notice]]
START, MOMENT = "start", "moment"
RULES: Final[dict[str, tuple[Rule, ...]]] = {
    START: (fednova_with_unequal_sites, averaged_batch_norm, skewed_labels),
    MOMENT: (scaffold_with_absent_sites, memories_of_absent_sites, diverging_sites, stalled_learning),
}
"""What is known from the start is looked at before the first round only."""


# --- figures -------------------------------------------------------------------------------------------------------


def _participation(sight: Sight) -> tuple[float, str] | None:
    """Return the share of the rounds that a site takes part in, and how that comes; ``None`` where it is all."""
    sites, asked = len(sight.sites), sight.plan.rounds.sites_per_round
    if not sites:
        return None
    delivered = sum(len(entry.sites) for entry in sight.rounds)
    possible = sites * len(sight.rounds)
    share = asked / sites if asked else delivered / possible if possible else 1.0
    if share >= 1.0 if asked else share > 1.0 - ABSENCES:
        return None
    if asked:
        return share, f"{asked} of {sites} sites a round"
    return share, f"absent sites: {delivered:,} of {possible:,} updates were delivered so far"


def _own_part(plan: StudyPlan) -> str:
    """Return how the plan leaves a part of the model to each site; empty where all of it is common."""
    personalisation = getattr(plan, "personalisation", None)
    return "" if personalisation is None else str(personalisation.method)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSkew:
    """How far the sites' classes are from those of all together.

    Attributes:
        distance: Mean total-variation distance, weighted by examples.
        most: What it would be if each site had one class only.
    """

    distance: float
    most: float

    @property
    def share(self) -> float:
        """``distance`` over ``most``: 0 for equal sites, 1 for sites of one class each."""
        return self.distance / self.most if self.most else 0.0


def label_skew(sites: Mapping[str, Opened]) -> LabelSkew | None:
    """Return the label skew; ``None`` where a site keeps its class counts at home, or there is one site only."""
    counts = [opened.class_counts for opened in sites.values()]
    if len(counts) < FEWEST_OTHERS or len({len(each) for each in counts}) > 1:
        return None
    whole = [sum(column) for column in zip(*counts, strict=True)]
    total = sum(whole)
    if not total or not all(any(each) for each in counts):
        return None
    shares = [number / total for number in whole]
    distance = sum(
        sum(each) / total * 0.5 * sum(abs(own / sum(each) - share) for own, share in zip(each, shares, strict=True))
        for each in counts
    )
    return LabelSkew(distance=distance, most=1.0 - sum(share * share for share in shares))


def _suspects(entry: RoundResult) -> Iterator[str]:
    """Yield the sites that stand out of a round by either figure, at a glance: most never need a closer look."""
    norms = [site.update_norm for site in entry.sites if site.update_norm is not None]
    losses = [site.train_loss for site in entry.sites if site.train_loss is not None]
    norm, loss = median(norms) if norms else math.inf, median(losses) if losses else math.inf
    for site in entry.sites:
        if (site.update_norm or 0.0) > norm or (site.train_loss or 0.0) > loss:
            yield site.site


def _last_rounds_of(site: str, rounds: Sequence[RoundResult]) -> list[RoundResult]:
    """Return the last rounds that a site took part in, the newest last; at most ``IN_A_ROW``."""
    found: list[RoundResult] = []
    for entry in reversed(rounds):
        if any(each.site == site for each in entry.sites):
            found.append(entry)
        if len(found) == IN_A_ROW:
            break
    return found[::-1]


def _of(site: str, entry: RoundResult) -> SiteRound:
    return next(each for each in entry.sites if each.site == site)


def _runaway_norm(sight: Sight, site: str, recent: Sequence[RoundResult]) -> Iterator[Notice]:
    figures = [_norm_ratio(sight, site, entry) for entry in recent]
    if any(figure is None or figure.ratio < NORM_RATIO or figure.score < ROBUST_SCORE for figure in figures):
        return
    last = figures[-1]
    assert last is not None
    yield _diverging(
        site,
        sight.round,
        last.ratio,
        f"{site} runs away from the others: its update in round {sight.round} has norm {last.norm:.3g}, "
        f"{last.ratio:.1f} times the others' median of {last.others:.3g}, and so it was in its round before.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _NormRatio:
    """One site's update against the others'."""

    norm: float
    others: float
    ratio: float
    score: float


def _norm_ratio(sight: Sight, site: str, entry: RoundResult) -> _NormRatio | None:
    """Compare one update; a larger site may take more steps, so its update may be longer by as much."""
    own, others = _of(site, entry), [each for each in entry.sites if each.site != site]
    norms = [each.update_norm for each in others if each.update_norm is not None]
    sizes = [each.num_examples for each in others if each.num_examples]
    if own.update_norm is None or len(norms) < max(FEWEST_OTHERS, len(others)):
        return None
    usual = median(norms)
    more_steps = 1.0
    if sight.plan.training.epochs is not None and own.num_examples and sizes:
        more_steps = max(1.0, own.num_examples / median(sizes))
    fair = own.update_norm / more_steps
    spread = _MAD * median(abs(norm - usual) for norm in norms)
    if not usual:  # the others send nothing: no ratio says how far it runs
        return None
    score = (fair - usual) / spread if spread else math.inf
    return _NormRatio(norm=own.update_norm, others=usual, ratio=fair / usual, score=score)


def _runaway_loss(rounds: Sequence[RoundResult], site: str, recent: Sequence[RoundResult]) -> Iterator[Notice]:
    """Rising, not merely high: a site whose data are hard has a high loss that falls."""
    own = [loss for entry in rounds for each in entry.sites if each.site == site and (loss := each.train_loss)]
    if len(own) < IN_A_ROW + 1:
        return
    for entry in recent:
        loss = _of(site, entry).train_loss
        others = [each.train_loss for each in entry.sites if each.site != site and each.train_loss is not None]
        if loss is None or len(others) < FEWEST_OTHERS:
            return
        if loss < LOSS_RATIO * max(min(own), median(others)) or loss <= own[0]:
            return
    if any(later <= earlier for earlier, later in pairwise(own[-IN_A_ROW - 1 :])):
        return
    usual = median(each.train_loss or 0.0 for each in recent[-1].sites if each.site != site)
    yield _diverging(
        site,
        rounds[-1].round,
        own[-1] / min(own),
        f"{site} runs away from the others: its training loss rose to {own[-1]:.3g} in round {rounds[-1].round}, "
        f"{own[-1] / min(own):.1f} times its own least; the others' median is {usual:.3g}.",
    )


def _diverging(site: str, number: int, figure: float, text: str) -> Notice:
    return Notice(
        kind="diverging_site",
        round=number,
        site=site,
        figure=figure,
        text=text,
        advice="Look at that site's data and labels; a lower training.learning_rate, training.gradient_clip or "
        "privacy.clipping_bound bounds what one site can do.",
    )
