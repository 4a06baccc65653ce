"""What protected a study's updates, in words and facts: for the page, the card, and whoever shows a figure.

A study without masks and noise has all its figures. With them some are missing, and it is said why; a figure that is
missing for another reason is never put down to protection.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from hansa_common.claims import ISOLATED, NOT_MORE, ONLY_NOISE, hides
from hansa_common.combinations import decide
from hansa_common.strategies import STRATEGIES
from hansa_server.report import notation
from hansa_server.results import Masks, Noise, Results, RoundResult

MASKED: Final = "masked: each site sees its own bar at home"
KEPT: Final = "kept at the sites by differential privacy"

_UNPROTECTED: Final = (
    "Nothing hid the updates: this study used neither secure aggregation nor differential privacy. The coordinator "
    "could read each site's update, {sizes}, its training loss, and {answers}."
)
_SIZES: Final = {
    "classes": "how many examples of each class it has",
    "number": "how many examples it has",
    "survival": "how many people and events it has",
    "reconstruction": "how many normal and anomalous examples it has",
}
_KINDS: Final = {
    "example": "for each person at a site; the site adds the noise while it trains (DP-SGD)",
    "site_server": "for each site as a whole; the coordinator adds the noise to the sum",
    "site_distributed": "for each site as a whole; each site adds its share of the noise, under the masks",
}
_RING: Final[dict[int, Literal[16, 32]]] = {16: 16, 32: 32}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One line of the list of parameters: what, how much, and a word on it."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The report's section on privacy.

    Attributes:
        summary: What there was, in a sentence or two; all there is to say where nothing protected the updates.
        facts: The parameters of masks and noise.
        paragraphs: Whom one trusts, what may be claimed, and what follows.
        repeated: Rounds that were void and had to be repeated: round, attempts that failed, why.
    """

    summary: str
    facts: tuple[Fact, ...] = ()
    paragraphs: tuple[tuple[str, str], ...] = ()
    repeated: tuple[tuple[int, str, int], ...] = ()


def masks_of(results: Results) -> Masks | None:
    """Return the masks that were used."""
    return results.protection.masks if results.protection else None


def noise_of(results: Results) -> Noise | None:
    """Return the noise that was used."""
    return results.protection.noise if results.protection else None


def is_protected(results: Results) -> bool:
    """Tell whether masks or noise protected the updates."""
    return masks_of(results) is not None or noise_of(results) is not None


def counted(results: Results) -> str:
    """Name what says how good a model is, as it leaves the sites."""
    return "counts of right and wrong answers" if results.target == "classes" else "sums of how good its answers are"


def has_noised_counts(results: Results) -> bool:
    """Tell whether what is known of right and wrong answers has noise in it, and is without losses."""
    noise = noise_of(results)
    return noise is not None and noise.metrics_noise is not None


def lets_no_counts_out(results: Results) -> bool:
    """Tell whether differential privacy kept every count of right and wrong answers at the sites."""
    noise = noise_of(results)
    return noise is not None and noise.metrics_noise is None


def keeps_site_figures(results: Results) -> bool:
    """Tell whether protection keeps the figures of single sites at home; a site's policy may let them out."""
    if not is_protected(results):
        return False
    if results.final is not None:
        return results.final.worst_site is None
    return all(entry.incoming.worst_site is None for entry in results.rounds)


def why_kept(results: Results) -> str:
    """Say in half a sentence why figures of single sites are missing."""
    return KEPT if lets_no_counts_out(results) or masks_of(results) is None else MASKED


def account(results: Results) -> Account:
    """Return the section on privacy."""
    if not is_protected(results):
        bound = results.protection.clipping_bound if results.protection else None
        answers = (
            "how many of its answers were right and wrong"
            if results.target == "classes"
            else "how good its answers are"
        )
        open_to_all = _UNPROTECTED.format(sizes=_SIZES[results.target], answers=answers)
        return Account(summary=open_to_all + (f" {_clipped(bound)}" if bound is not None else ""))
    return Account(
        summary=" ".join(_summary(results)),
        facts=tuple(_facts(results)),
        paragraphs=tuple(_paragraphs(results)),
        repeated=tuple(_repeated(results)),
    )


def consequence(results: Results) -> str:
    """Return what the combination means for those who take part; empty for a strategy that nobody decided on."""
    masks, noise = masks_of(results), noise_of(results)
    if results.strategy not in STRATEGIES:
        return ""
    return decide(
        strategy=results.strategy,
        ring_bits=_RING.get(masks.ring_bits) if masks else None,
        kind=noise.kind if noise else None,
        codec="float32",
    ).text


def _clipped(bound: float) -> str:
    return f"Each site clipped its update to an L2 norm of {bound:g} before it left."


def _summary(results: Results) -> Iterator[str]:
    masks, noise = masks_of(results), noise_of(results)
    if masks is not None:
        what = "updates" if lets_no_counts_out(results) else "updates and counts"
        yield f"Secure aggregation: {what} left the sites under masks that cancel in the sum only."
    if noise is not None:
        yield f"Differential privacy: {_KINDS[noise.kind]}."


def _facts(results: Results) -> Iterator[Fact]:
    assert results.protection is not None
    masks, noise = masks_of(results), noise_of(results)
    if masks is not None:
        yield from _mask_facts(masks)
    if noise is not None:
        yield from _noise_facts(noise, results.rounds)
    weights = {
        "examples": ("by its training examples", "known to the coordinator"),
        "equal": ("all sites the same", ""),
    }[results.protection.weights]
    yield Fact(name="Weight of a site", value=weights[0], note=weights[1])
    if results.protection.clipping_bound is not None and (noise is None or noise.kind == "example"):
        yield Fact(name="Bound of an update", value=f"{results.protection.clipping_bound:g}", note="L2, at each site")


def _mask_facts(masks: Masks) -> Iterator[Fact]:
    yield Fact(
        name="Ring of the masks",
        value=f"{masks.ring_bits} bits",
        note=f"a coordinate of an update counts up to ±{masks.coordinate_range:g}",
    )
    fixed = masks.cohort == "fixed"
    yield Fact(
        name="Cohort",
        value=masks.cohort,
        note="a round counts with all sites or not at all" if fixed else "a round goes on without sites that drop out",
    )
    yield Fact(name="Sites", value=notation.count(masks.sites), note="as the plan lists them")
    yield Fact(
        name="Threshold",
        value=notation.plural(masks.threshold, "site"),
        note="so many must agree before a sum is opened, and so many together could unmask one of them",
    )
    yield Fact(
        name="Colluders",
        value=notation.plural(masks.colluders, "site"),
        note="so many may collude with the coordinator without learning another's update",
    )


def _noise_facts(noise: Noise, rounds: Sequence[RoundResult]) -> Iterator[Fact]:
    whose = "of one person's gradient" if noise.kind == "example" else "of one site's update"
    yield Fact(name="Protected unit", value=noise.unit, note=_unit_note(noise))
    if noise.quantile is None:
        yield Fact(name="Clipping bound", value=f"{noise.clipping_bound:g}", note=f"L2, {whose}")
    else:
        last = rounds[-1].clipping_bound if rounds else None
        yield Fact(
            name="Clipping bound",
            value=f"{noise.clipping_bound:g}" + (f" to {last:.3g}" if last is not None else ""),
            note=f"L2, {whose}; first and last round: it follows the {noise.quantile:g} quantile of the updates' norms",
        )
    yield Fact(
        name="Noise multiplier", value=f"{noise.noise_multiplier:g}", note="standard deviation, in clipping bounds"
    )
    if noise.epsilon is None:
        yield Fact(
            name="Epsilon",
            value=f"at most {noise.epsilon_budget:g}",
            note="each site's own ledger knows what was spent",
        )
    else:
        yield Fact(
            name="Epsilon", value=f"{spent(noise.epsilon)} of {noise.epsilon_budget:g}", note="spent of the budget"
        )
    yield Fact(name="Delta", value=f"{noise.delta:g}", note="chance that the bound does not hold")
    if noise.metrics_noise is None:
        yield Fact(name="Counts of answers", value="none", note="neither counts, sizes nor losses left the sites")
    else:
        yield Fact(
            name="Counts of answers",
            value="with noise",
            note=f"noise multiplier {noise.metrics_noise:g}, charged to the same budget; no sizes and no losses",
        )


def _unit_note(noise: Noise) -> str:
    if noise.kind != "example":
        return "everything that one institution brings"
    return "each row is a person of its own" if noise.unit == "person" else "the column that says whose a row is"


def spent(epsilon: float) -> str:
    """Write an epsilon that was spent, rounded up: nobody is told less than it cost."""
    return f"{math.ceil(epsilon * 100 - 1e-9) / 100:.2f}" if math.isfinite(epsilon) else "no bound"


def _paragraphs(results: Results) -> Iterator[tuple[str, str]]:
    masks, noise = masks_of(results), noise_of(results)
    yield "Whom one trusts", _trust(masks, noise)
    if masks is not None:
        claim = f"Secure aggregation: {_lower(hides(masks.colluders))} {NOT_MORE}"
        yield "What may be claimed", claim if noise is not None else f"{claim} {ONLY_NOISE}"
        if masks.cohort == "changing":
            yield "The cohort could change", ISOLATED.format(whose="a site's").capitalize() + "."
    if noise is not None:
        yield "What the noise gives", _guarantee(noise)
    if text := consequence(results):
        yield "What follows", text


def _trust(masks: Masks | None, noise: Noise | None) -> str:
    few = f"that no more than {notation.plural(masks.colluders, 'site')} would collude with it" if masks else ""
    if noise is not None and noise.kind == "site_server":
        reads = f"the sum of the updates, provided {few}," if masks else "each site's update"
        return (
            f"The coordinator: it reads {reads} and adds the noise. The noise protects a site from those who get the "
            "model, not from the coordinator."
        )
    if noise is not None and noise.kind == "site_distributed":
        return f"Not the coordinator: one trusts {few}, for so many sites know their own shares of the noise."
    if noise is not None:
        site = "Each site, for the people in its own data: it clips, draws and adds the noise itself."
        return f"{site} For the masks one trusts, beside, {few}." if masks else site
    return f"Not the coordinator, as far as single updates go: one trusts {few}."


def _guarantee(noise: Noise) -> str:
    whose = "one person's data at a site" if noise.kind == "example" else "one site's updates"
    cost = noise.epsilon_budget if noise.epsilon is None else noise.epsilon
    epsilon = spent(cost) if noise.epsilon is not None else f"{cost:g}"
    return (
        f"With or without {whose}, no outcome is more than e to the power of {epsilon} times as likely, but for a "
        f"chance of {noise.delta:g} that this does not hold."
    )


def _lower(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]


def _repeated(results: Results) -> Iterator[tuple[int, str, int]]:
    for entry in results.rounds:
        for reason in dict.fromkeys(entry.void_attempts):
            yield entry.round, reason, entry.void_attempts.count(reason)
