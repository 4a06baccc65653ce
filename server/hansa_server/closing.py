"""What the closing exchange brought: counts of the last model, site by site or under masks."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from hansa_common.errors import MessageError
from hansa_common.messages import Opened
from hansa_common.metrics import Counts, CountsKind
from hansa_common.plan import StudyPlan
from hansa_common.privacy_plan import PrivacyPlan
from hansa_common.protection import counts_leave, read_evaluation_sums, weighs_costs
from hansa_server.figures import merge
from hansa_server.masked import MaskedSum

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """Counts of the last model.

    Attributes:
        validation: By site, where the sites' own counts leave; so is ``test``.
        test: On the test splits.
        overall: Validation and test of all sites together; ``None`` where no counts leave.
        personal: Of each site's own model on its test split, where the plan personalises and counts leave.
        coordinator: On the coordinator's own test set, where there is one.
        seconds: Of the exchange.
        evaluation_seconds: The sites' own time, added up.
    """

    validation: Mapping[str, Counts]
    test: Mapping[str, Counts]
    overall: tuple[Counts, Counts] | None
    evaluation_seconds: float
    personal: Mapping[str, Counts] = field(default_factory=dict)
    coordinator: Counts | None = None
    seconds: float = 0.0

    @classmethod
    def of_sites(cls, counted: Mapping[str, Mapping[str, Counts]], *, evaluation_seconds: float) -> Self:
        """Return what each site counted for itself; nothing where no counts leave."""
        validation = {site: counts["validation"] for site, counts in counted.items() if counts}
        test = {site: counts["test"] for site, counts in counted.items() if counts}
        return cls(
            validation=validation,
            test=test,
            overall=(merge(validation), merge(test)) if test else None,
            evaluation_seconds=evaluation_seconds,
            personal={site: counts["personal"] for site, counts in counted.items() if "personal" in counts},
        )

    @classmethod
    def of_sum(cls, total: MaskedSum, privacy: PrivacyPlan, kind: CountsKind) -> Self:
        """Return what the sites counted together, and by itself what all of them let out."""
        try:
            overall = read_evaluation_sums(total.sums, privacy, kind)
        except MessageError as error:
            _log.warning("The sites' counts add up to nothing possible; one of them lied: %s", error)
            overall = None
        is_shown = len(total.shown) == len(total.survivors)
        return cls(
            validation={site: counts["validation"] for site, counts in total.shown.items()} if is_shown else {},
            test={site: counts["test"] for site, counts in total.shown.items()} if is_shown else {},
            overall=overall,
            personal={s: counts["personal"] for s, counts in total.shown.items() if is_shown and "personal" in counts},
            evaluation_seconds=sum(header.seconds for header in total.headers.values()),
        )


def are_declared(opened: Opened, counts: Mapping[str, Counts], plan: StudyPlan, kind: CountsKind) -> bool:
    """Tell whether a site's counts are those that the plan lets out, of the splits that it declared."""
    privacy, own = plan.privacy, plan.personalisation is not None
    if privacy.differential is not None:
        return set(counts) == ({"validation", "test"} if counts_leave(privacy) else set())
    return (
        set(counts) == {"validation", "test", *(["personal"] if own else [])}
        and counts["validation"].num_examples == opened.validation
        and counts["validation"].has_histograms == weighs_costs(kind)
        and all(counts[name].num_examples == opened.test for name in counts if name != "validation")
        and all(
            counts[name].has_histograms == kind.zero(histograms=True).has_histograms
            for name in counts
            if name != "validation"
        )
    )
