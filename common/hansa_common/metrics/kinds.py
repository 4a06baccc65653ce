"""Which counts belong to a data contract."""

from hansa_common.contract import ArrayContract, ImageContract, NumberTarget, SurvivalTarget, TableContract
from hansa_common.metrics.classification import ClassificationKind
from hansa_common.metrics.counts import CountsKind, MomentsKind
from hansa_common.metrics.reconstruction import ReconstructionKind
from hansa_common.metrics.regression import RegressionCounts
from hansa_common.metrics.survival import SurvivalCounts


def counts_kind(contract: ImageContract | ArrayContract | TableContract, *, rows: int = 0) -> CountsKind:
    """Return how the counts of a study with this contract are read; ``rows`` is that of ``ClassificationKind``."""
    match contract.target:
        case None:
            return ClassificationKind(classes=len(contract.classes), rows=rows)
        case NumberTarget() as number:
            return MomentsKind(empty=empty_regression(number))
        case SurvivalTarget():
            return MomentsKind(empty=SurvivalCounts())
    return ReconstructionKind(labelled=contract.target.anomaly is not None)


def empty_regression(target: NumberTarget) -> RegressionCounts:
    """Return the counts of no examples with the target's constants."""
    return RegressionCounts(scale=target.scale, scored=target.score == "cmapss")
