"""The check that every adapter's data passes before anything trains on it."""

import numpy as np
import numpy.typing as npt

from hansa_client.data.learned import check_learned, unlabelled
from hansa_client.data.source import Dataset
from hansa_common.contract import ArrayContract, ImageContract, TableContract, feature_count
from hansa_common.errors import ContractViolation
from hansa_common.models.registry import Contract
from hansa_common.parameters import is_finite

_SHOWN = 5  # examples named in a message


def check(dataset: Dataset, contract: Contract) -> Dataset:
    """Return the data set if it fulfils the contract: shape, dtype, finiteness, range, labels, number of examples.

    Raises:
        ContractViolation: It does not; the message says what was found and what the study asks for.
    """
    dataset = unlabelled(dataset, contract)
    if contract.target is None:
        _check_labels(dataset, contract)
    elif problem := check_learned(dataset, contract):
        raise _violation(dataset, problem)
    _check_shape(dataset, contract)
    if dataset.features.dtype == np.float32:
        _check_values(dataset, contract)
    if len(dataset) < contract.minimum_examples:
        raise _violation(
            dataset,
            f"{len(dataset)} examples; the study asks for at least {contract.minimum_examples} "
            "(data.minimum_examples).",
            advice="A site with so few examples cannot take part in this study.",
        )
    return dataset


def _check_labels(dataset: Dataset, contract: Contract) -> None:
    labels, classes = dataset.labels, len(contract.classes)
    if labels.dtype != np.int64 or labels.ndim != 1:
        raise _violation(dataset, f"labels are {labels.dtype} {list(labels.shape)}; expected int64 [examples].")
    outside = (labels < 0) | (labels >= classes)
    if outside.any():
        positions, count = _positions(outside)
        raise _violation(
            dataset,
            f"{count} of {len(labels)} labels are outside 0 to {classes - 1}, the study's {classes} classes: found "
            f"{', '.join(str(label) for label in np.unique(labels[outside])[:_SHOWN])} at example(s) {positions}.",
            advice="Compare data.classes in the plan with the classes of this data.",
        )


def _check_shape(dataset: Dataset, contract: Contract) -> None:
    features = dataset.features
    dtype, shape = "float32", contract.feature_shape
    if isinstance(contract, ImageContract):
        dtype, shape = "uint8", (contract.height, contract.width, contract.channels)
    if features.dtype != dtype:
        raise _violation(dataset, f"features are {features.dtype}; the study's {contract.kind}s are {dtype}.")
    if features.shape != (len(dataset), *shape):
        raise _violation(
            dataset,
            f"features have shape {list(features.shape)}; expected {[len(dataset), *shape]} for {len(dataset)} labels"
            + (" (examples, height, width, channels)." if isinstance(contract, ImageContract) else "."),
        )


def _check_values(dataset: Dataset, contract: Contract) -> None:
    values = dataset.features.reshape(len(dataset), feature_count(contract)).astype(np.float32, copy=False)
    if not is_finite(_present(values, contract).reshape(-1)):
        positions, count = _positions(np.isfinite(values).sum(axis=1) < values.shape[1])
        raise _violation(dataset, f"{count} of {len(dataset)} examples hold NaN or infinity: example(s) {positions}.")
    if isinstance(contract, ArrayContract):
        _check_range(dataset, values, "a value", contract.minimum, contract.maximum)
    if isinstance(contract, TableContract):
        start = 0
        for column in contract.columns:
            part = values[:, start : start + column.width]
            _check_range(dataset, part, f"column '{column.name}'", column.minimum, column.maximum)
            start += column.width


def _present(values: npt.NDArray[np.float32], contract: Contract) -> npt.NDArray[np.float32]:
    """Return the values with 0 where one may be missing, because preprocessing fills it in."""
    if not isinstance(contract, TableContract) or all(column.missing != "fill" for column in contract.columns):
        return values
    fillable = np.repeat([column.missing == "fill" for column in contract.columns], [c.width for c in contract.columns])
    return np.where(fillable & np.isnan(values), np.float32(0.0), values)


def _check_range(
    dataset: Dataset, values: npt.NDArray[np.float32], name: str, minimum: float | None, maximum: float | None
) -> None:
    """Compare in float32, as the values are: 0.1 is no more than a maximum of 0.1 after rounding."""
    outside = np.zeros(len(values), dtype=bool)
    if minimum is not None:
        outside |= (values < np.float32(minimum)).any(axis=1)
    if maximum is not None:
        outside |= (values > np.float32(maximum)).any(axis=1)
    if outside.any():
        positions, count = _positions(outside)
        found = values[outside]
        raise _violation(
            dataset,
            f"{count} of {len(dataset)} examples have {name} outside {describe_range(minimum, maximum)}: found "
            f"{found.min():g} to {found.max():g} in example(s) {positions}.",
        )


def describe_range(minimum: float | None, maximum: float | None) -> str:
    """Say a range in words: ``0 to 120``, ``at least 0``, ``at most 120``; empty without bounds."""
    if minimum is None:
        return "" if maximum is None else f"at most {maximum:g}"
    return f"at least {minimum:g}" if maximum is None else f"{minimum:g} to {maximum:g}"


def _positions(mask: npt.NDArray[np.bool_]) -> tuple[str, int]:
    """Return the first positions, counted from 1 as people do, and how many there are."""
    positions = np.flatnonzero(mask) + 1
    shown = ", ".join(str(position) for position in positions[:_SHOWN])
    return shown + (", ..." if len(positions) > _SHOWN else ""), len(positions)


def _violation(dataset: Dataset, found: str, *, advice: str = "") -> ContractViolation:
    return ContractViolation(
        f"{dataset.origin or 'The data'}: {found}",
        advice=advice or "Correct the data or the adapter's options; the contract is fixed once a study is approved.",
    )
