"""What is learned, from numbers as a file has them: labels and targets of a ``Dataset`` for each kind of target.

Shapes: ``N`` examples.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from hansa_client.data.source import Dataset
from hansa_common.contract import NumberTarget, ReconstructionTarget, SurvivalTarget
from hansa_common.errors import ContractViolation
from hansa_common.models.registry import Contract

MOST_SCALES: Final = 32_768.0
"""What ``hansa_common.metrics.regression`` can count."""
_STRATA: Final = 10

Labels = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float32]


def strata(numbers: Numbers) -> Labels:
    """Return which tenth of all numbers each is in, ``int64 [N]``: what splits and partitions are stratified by."""
    order = np.argsort(numbers, kind="stable")
    places = np.empty(len(numbers), dtype=np.int64)
    places[order] = np.arange(len(numbers))
    tenths: Labels = places * _STRATA // max(1, len(numbers))
    return tenths


def check_learned(dataset: Dataset, contract: Contract) -> str:
    """Say what is wrong with labels and targets of a data set whose contract has a target; empty where nothing is."""
    labels, targets = dataset.labels, dataset.targets
    wants = isinstance(contract.target, NumberTarget | SurvivalTarget)
    if wants and (targets is None or targets.dtype != np.float32 or targets.shape != labels.shape):
        return f"there is no number for each of the {len(labels)} examples."
    match contract.target, targets:
        case NumberTarget() as target, np.ndarray():
            return _check_numbers(targets, target)
        case SurvivalTarget(), np.ndarray() if not (np.isfinite(targets) & (targets >= 0)).all():
            return f"a time is negative, NaN or infinite; found {targets.min():g} to {targets.max():g}."
    if labels.size and (labels.min() < 0 or labels.max() > 1):
        return "a label is neither 0 nor 1."
    return ""


def _check_numbers(numbers: Numbers, target: NumberTarget) -> str:
    if not np.isfinite(numbers).all():
        return "a number to predict is NaN or infinite."
    low, high = (float(numbers.min()), float(numbers.max())) if numbers.size else (0.0, 0.0)
    # compared in float32, as the numbers are
    if target.minimum is not None and low < np.float32(target.minimum):
        return f"a number to predict is {low:g}; the least allowed is {target.minimum:g}."
    if target.maximum is not None and high > np.float32(target.maximum):
        return f"a number to predict is {high:g}; the most allowed is {target.maximum:g}."
    if max(-low, high) > MOST_SCALES * target.scale:
        return f"numbers to predict reach {max(-low, high):g}, more than {MOST_SCALES:,.0f} times data.target.scale."
    return ""


def unlabelled(dataset: Dataset, contract: Contract) -> Dataset:
    """Return the data set without labels where the contract reconstructs and tells no anomalies."""
    if isinstance(contract.target, ReconstructionTarget) and contract.target.anomaly is None:
        return Dataset(
            features=dataset.features,
            labels=np.zeros(len(dataset.features), dtype=np.int64),
            columns=dataset.columns,
            origin=dataset.origin,
        )
    return dataset


def require_classes(contract: Contract, *, adapter: str) -> None:
    """Return if the contract asks for what an adapter with class labels only can give.

    Raises:
        ContractViolation: It asks for numbers, times or known anomalies.
    """
    target = contract.target
    if target is not None and (target.kind != "reconstruction" or target.anomaly is not None):
        raise ContractViolation(
            f"The data adapter '{adapter}' knows classes only; the study asks for data.target.kind = '{target.kind}'.",
            advice="Choose another data adapter.",
        )
