"""``[preprocessing]`` of a plan: what becomes of the features before a model sees them, the same at every site.

What it needs to know of the data, it takes from all sites' training splits together (``feature_sums``): a site that
standardised by its own means alone would hide from the model how it differs from the others.
"""

import itertools
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from hansa_common.contract import ArrayContract, Column, DataContract, TableContract
from hansa_common.settings import Strict
from hansa_common.texts import FIRST, MOST_TOKENS

MOST_FEATURES = 10_000  # whose statistics are gathered: about 0.3 KB each without a histogram, 8 KB with one

_Quantile = Annotated[float, Field(ge=0.0, le=1.0)]


class ConditionPlan(Strict):
    """``[preprocessing.condition]``: what is usual depends on the condition that a row was taken in."""

    column: Annotated[str, Field(min_length=1, max_length=200)]
    """The feature that tells the condition."""
    levels: Annotated[tuple[float, ...], Field(min_length=2, max_length=100)]
    """Its values, ascending; a row is in the condition whose value is nearest."""

    @model_validator(mode="after")
    def _are_ascending(self) -> Self:
        if any(low >= high for low, high in itertools.pairwise(self.levels)):
            raise ValueError("levels: not ascending; write the lowest first, each once.")
        return self

    def places(self, values: npt.NDArray[np.generic]) -> npt.NDArray[np.int64]:
        """Return which level is nearest to each value, of the same shape; of two the lower one."""
        levels = np.asarray(self.levels)
        between = (levels[1:] + levels[:-1]) / 2.0
        return np.searchsorted(between, values.astype(np.float64), side="left").astype(np.int64)


class PreprocessingPlan(Strict):
    """``[preprocessing]``: in this order missing values are filled in, the rest is clipped, and all is standardised."""

    standardise: Literal["none", "federation"] = "none"
    """``federation``: subtract the mean and divide by the standard deviation of all sites' training splits."""
    missing: Literal["refuse", "mean", "median"] = "refuse"
    """What stands for a missing value in a column with ``missing = "fill"``: mean or median of all sites' values."""
    clip_quantiles: tuple[_Quantile, _Quantile] | None = None
    """Numbers below the first and above the second quantile of all sites' values become that quantile."""
    bins: Annotated[int, Field(ge=2, le=65_536)] = 1_024
    """Of the histograms that quantiles are read from, over the range that the contract gives a column."""
    minimum_count: Annotated[int, Field(ge=1, le=1 << 30)] = 10
    """A site with values of a column, or texts with a token, of fewer units adds nothing to its statistics. A unit is
    what ``evaluation.group`` or ``data.windows.unit`` tells apart, else an example."""
    vocabulary: Annotated[int, Field(ge=1, le=MOST_TOKENS)] | None = None
    """How many tokens of ``data.text.vocabulary`` keep an id of their own: those that most texts of all sites hold."""

    condition: ConditionPlan | None = None
    """Features are standardised by the statistics of their own condition."""

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if self.condition is not None and (
            self.standardise == "none" or self.missing != "refuse" or self.clip_quantiles
        ):
            raise ValueError("condition: goes with standardise = 'federation', and with no other step.")
        if self.clip_quantiles is not None and not self.clip_quantiles[0] < self.clip_quantiles[1]:
            raise ValueError(f"clip_quantiles: {self.clip_quantiles[0]:g} is not below {self.clip_quantiles[1]:g}.")
        return self

    @property
    def needs_statistics(self) -> bool:
        """Whether the sites' statistics must be gathered before the first round."""
        return self.changes_numbers or self.vocabulary is not None

    @property
    def changes_numbers(self) -> bool:
        """Whether numbers are filled in, clipped or standardised."""
        return self.standardise != "none" or self.missing != "refuse" or self.clip_quantiles is not None

    @property
    def needs_histograms(self) -> bool:
        """Whether quantiles are asked for."""
        return self.missing == "median" or self.clip_quantiles is not None


def check_preprocessing(preprocessing: PreprocessingPlan, contract: DataContract) -> None:
    """Return if this preprocessing can be done to data of this contract.

    Raises:
        ValueError: It cannot; the message names the key.
    """
    columns = contract.columns if isinstance(contract, TableContract) else ()
    filled = [column.name for column in columns if column.missing == "fill"]
    if filled and preprocessing.missing == "refuse":
        raise ValueError(f"preprocessing.missing: column '{filled[0]}' has missing = 'fill'; say with what.")
    if not preprocessing.needs_statistics:
        return
    if has_tokens(contract) or preprocessing.vocabulary is not None:
        _check_tokens(preprocessing, contract)
        return
    if contract.kind == "image":
        raise ValueError("preprocessing: images are scaled to 0..1 by their 8 bits; leave this section out.")
    if preprocessing.missing != "refuse" and not filled:
        raise ValueError("preprocessing.missing: no column of data.columns has missing = 'fill'.")
    if contract.standardise == "site" and preprocessing.standardise != "none":
        raise ValueError("preprocessing.standardise: data.standardise = 'site' does it already; leave one of them out.")
    condition = preprocessing.condition
    if condition is not None and condition.column not in feature_names(contract):
        raise ValueError(f"preprocessing.condition.column: '{condition.column}' is no feature of the data.")
    if len(names := statistic_names(preprocessing, contract)) > MOST_FEATURES:
        raise ValueError(f"preprocessing: statistics of {len(names):,} features; allowed are {MOST_FEATURES:,}.")
    if preprocessing.needs_histograms:
        _check_ranges(names, contract)


def _check_ranges(names: tuple[str, ...], contract: DataContract) -> None:
    for name, wanted in zip(names, _ranges(contract), strict=True):
        if wanted is not None and None in wanted:
            raise ValueError(
                f"preprocessing: quantiles of '{name}' are read from a histogram over its range; give it a minimum and "
                "a maximum in data."
            )


def has_tokens(contract: DataContract) -> bool:
    """Whether examples are ids of tokens, whose statistics are of tokens."""
    return isinstance(contract, ArrayContract) and contract.text is not None


def _check_tokens(preprocessing: PreprocessingPlan, contract: DataContract) -> None:
    if preprocessing.changes_numbers:
        raise ValueError("preprocessing: token ids are no numbers; only 'vocabulary' can be asked for texts.")
    if not isinstance(contract, ArrayContract) or contract.text is None or contract.text.learn != "class":
        raise ValueError("preprocessing.vocabulary: is for [data.text] with learn = 'class'.")
    wanted, there = preprocessing.vocabulary or 0, len(contract.tokens)
    if wanted > there:
        raise ValueError(
            f"preprocessing.vocabulary: found {wanted:,}; allowed are at most the {there:,} tokens of "
            "data.text.vocabulary that it is chosen from."
        )


def unit_column(contract: DataContract, group: str | None) -> str | None:
    """Return the column that says which examples are of one person or thing; ``None`` where each is of its own.

    Args:
        contract: The plan's.
        group: ``evaluation.group``.
    """
    return group or (contract.cut_from if isinstance(contract, ArrayContract) else None)


def learned_contract(contract: DataContract, preprocessing: PreprocessingPlan) -> DataContract:
    """Return the contract of what a model is given: fewer token ids, where the vocabulary is chosen."""
    if preprocessing.vocabulary is None or not has_tokens(contract):
        return contract
    return contract.model_copy(update={"maximum": float(preprocessing.vocabulary + FIRST - 1)})


def feature_names(contract: DataContract) -> tuple[str, ...]:
    """Return a name for each of the ``F`` features that have statistics: columns, tokens, or an array's last axis."""
    if isinstance(contract, TableContract):
        return tuple(
            name
            for column in contract.columns
            for name in ([f"{column.name} = {value}" for value in column.categories] or [column.name])
        )
    if isinstance(contract, ArrayContract) and has_tokens(contract):
        return ("unknown token", *map(repr, contract.tokens))
    if isinstance(contract, ArrayContract) and contract.windows is not None:
        return contract.windows.columns
    return tuple(f"feature {number}" for number in range(1, contract.feature_shape[-1] + 1))


def statistic_names(preprocessing: PreprocessingPlan, contract: DataContract) -> tuple[str, ...]:
    """Return a name for each feature that is measured by itself: the F features, or those in each of L conditions.

    With conditions all features of the first come first.
    """
    names, condition = feature_names(contract), preprocessing.condition
    if condition is None:
        return names
    return tuple(f"{name} at {condition.column} {level:g}" for level in condition.levels for name in names)


def statistic_ranges(
    preprocessing: PreprocessingPlan, contract: DataContract
) -> tuple[tuple[float, float] | None, ...]:
    """Return for each of ``statistic_names`` the range of its histogram, ``None`` where it has none.

    There is none where no quantile is asked for, of a category, and without a range in the contract.
    """
    if not preprocessing.needs_histograms:
        return (None,) * len(statistic_names(preprocessing, contract))
    return tuple(
        (found[0], found[1]) if found is not None and found[0] is not None and found[1] is not None else None
        for found in _ranges(contract)
    )


def _ranges(contract: DataContract) -> list[tuple[float | None, float | None] | None]:
    """Return the contract's bounds of each feature; ``None`` for one of a category."""
    if isinstance(contract, TableContract):
        return [bounds for column in contract.columns for bounds in _of_column(column)]
    if has_tokens(contract):
        return [None] * len(feature_names(contract))
    if isinstance(contract, ArrayContract):
        return [(contract.minimum, contract.maximum)] * contract.shape[-1]
    return [(0.0, 1.0)] * contract.feature_shape[-1]


def _of_column(column: Column) -> list[tuple[float | None, float | None] | None]:
    return [None] * len(column.categories) if column.categories else [(column.minimum, column.maximum)]
