"""Did it pay to take part? Each site's federated model beside its own local-only model, and how sure that is.

Both accuracies are proportions of the same few test examples, so a small difference means nothing. The interval is that
of Agresti and Caffo, "Simple and effective confidence intervals for proportions and differences of proportions result
from adding two successes and two failures", The American Statistician 54(4), 2000: one success and one failure are
added to each proportion, then the ordinary standard error of a difference of two independent proportions is used. The
two models see the same examples, which makes the interval wider than a paired one would be: it errs towards "no clear
difference".
"""

import math
from dataclasses import dataclass
from typing import Literal

from hansa_server.report import notation
from hansa_server.report.protection import has_noised_counts
from hansa_server.results import Results, SiteResult

NORMAL_QUANTILE = 1.96
"""Two-sided 95 %."""

Verdict = Literal["gains", "loses", "unclear"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One site's two models on its own test split; fractions, not percentages.

    Attributes:
        margin: Half the width of the 95 % interval of ``difference``.
        words: The verdict as a reader gets it.
    """

    site: str
    num_examples: int
    federated: float
    local_only: float
    difference: float
    margin: float
    verdict: Verdict
    words: str


def compare(site: SiteResult) -> Comparison | None:
    """Compare a site's federated with its local-only accuracy; ``None`` where one of them was not measured."""
    federated, local_only = site.federated, site.local_only
    if federated is None or local_only is None or federated.accuracy is None or local_only.accuracy is None:
        return None
    num_examples = federated.num_examples
    difference = federated.accuracy - local_only.accuracy
    verdict, margin = judge(federated.accuracy, local_only.accuracy, num_examples)
    return Comparison(
        site=site.site,
        num_examples=num_examples,
        federated=federated.accuracy,
        local_only=local_only.accuracy,
        difference=difference,
        margin=margin,
        verdict=verdict,
        words=_words(verdict, difference, num_examples),
    )


def compare_all(results: Results) -> tuple[Comparison, ...]:
    """Compare every site that has both figures, in the order of the results; none by counts with noise in them.

    The interval allows for the chance of few examples, not for noise that was added.
    """
    if has_noised_counts(results):
        return ()
    return tuple(comparison for site in results.sites if (comparison := compare(site)) is not None)


def judge(first: float, second: float, num_examples: int) -> tuple[Verdict, float]:
    """Say whether two accuracies on ``num_examples`` examples differ beyond chance, and the margin at 95 %."""
    size = num_examples + 2
    adjusted = [(accuracy * num_examples + 1) / size for accuracy in (first, second)]
    margin = NORMAL_QUANTILE * math.sqrt(sum(share * (1 - share) / size for share in adjusted))
    difference = adjusted[0] - adjusted[1]
    if abs(difference) <= margin:
        return "unclear", margin
    return ("gains" if difference > 0 else "loses"), margin


def _words(verdict: Verdict, difference: float, num_examples: int) -> str:
    if verdict == "unclear":
        return f"no clear difference on {notation.plural(num_examples, 'test example')}"
    return f"{verdict} {abs(100 * difference):.1f} points"
