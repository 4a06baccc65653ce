"""What the federation's statistics make of the features: sent to every site with each task, and kept beside the model.

Shapes: ``N`` examples, ``F`` features.

Evolution: fields are added as optional; meanings never change.
"""

import functools
import itertools
import operator
from collections.abc import Sequence
from typing import Annotated, Final, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from hansa_common.canonical import digest
from hansa_common.contract import DataContract
from hansa_common.errors import StudyFailed
from hansa_common.feature_sums import UNIT, FeatureSums
from hansa_common.preprocessing_plan import (
    MOST_FEATURES,
    ConditionPlan,
    PreprocessingPlan,
    feature_names,
    statistic_names,
    statistic_ranges,
)
from hansa_common.settings import Strict
from hansa_common.texts import FIRST, MOST_TOKENS, PADDING, UNKNOWN

PREPROCESSING: Final = "preprocessing.json"
"""The file beside a model."""

_Numbers = Annotated[tuple[float, ...], Field(max_length=MOST_FEATURES)]


class Prepared(Strict):
    """Numbers for each of the F features, or the tokens that are kept; a list is empty where that is not done."""

    format: Literal[1] = 1
    fill: _Numbers = ()
    """What stands for a missing value."""
    low: _Numbers = ()
    """Numbers below become this."""
    high: _Numbers = ()
    """Numbers above become this."""
    mean: _Numbers = ()
    """What is subtracted."""
    deviation: _Numbers = ()
    """What is then divided by."""
    condition: ConditionPlan | None = None
    """``mean`` and ``deviation`` hold F numbers for each of its levels, those of the first level first."""
    place: Annotated[int, Field(ge=0, lt=MOST_FEATURES)] = 0
    """Which feature tells the condition."""
    tokens: Annotated[tuple[Annotated[int, Field(ge=FIRST)], ...], Field(max_length=MOST_TOKENS)] = ()
    """Ids in the plan's vocabulary that are kept, ascending: they are counted anew from 2, others become unknown."""

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        lengths = {len(one) for one in (self.fill, self.low, self.high, self.mean, self.deviation) if one}
        if len(lengths) > 1 or len(self.low) != len(self.high) or len(self.mean) != len(self.deviation):
            raise ValueError("The lists are of different lengths.")
        if any(low > high for low, high in zip(self.low, self.high, strict=True)):
            raise ValueError("low: above high.")
        if any(not value > 0.0 for value in self.deviation):
            raise ValueError("deviation: not above 0.")
        if self.condition is not None and len(self.mean) % len(self.condition.levels):
            raise ValueError("mean: is not as long for each condition.")
        if any(first >= second for first, second in itertools.pairwise(self.tokens)):
            raise ValueError("tokens: not ascending.")
        return self

    def digest(self) -> str:
        """Return the SHA-256 of its canonical bytes, in hexadecimal digits."""
        younger = set() if self.tokens else {"tokens"}  # models prepared without these keep their digest
        if self.condition is None:
            younger |= {"condition", "place"}
        return digest(self.model_dump(mode="json", exclude=younger))

    def apply(self, features: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
        """Return ``float32 [N, ..., F]``: filled in, clipped, standardised; computed in float64.

        Of texts, ``[N, T]``, the ids of the tokens that are kept.
        """
        if self.tokens:
            return self._kept(features.astype(np.int64))
        values = features.astype(np.float64)
        if self.fill:
            values = np.where(np.isnan(values), np.asarray(self.fill), values)
        if self.low:
            values = np.clip(values, np.asarray(self.low), np.asarray(self.high))
        if self.mean and self.condition is None:
            values = (values - np.asarray(self.mean)) / np.asarray(self.deviation)
        elif self.condition is not None:
            levels = self.condition.places(values[..., self.place])
            mean, deviation = (np.reshape(one, (-1, values.shape[-1])) for one in (self.mean, self.deviation))
            values = (values - mean[levels]) / deviation[levels]
        return values.astype(np.float32)

    def _kept(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        renumbered = np.full(max(self.tokens[-1], int(ids.max(initial=0))) + 1, UNKNOWN, dtype=np.float32)
        renumbered[PADDING] = PADDING
        renumbered[list(self.tokens)] = np.arange(FIRST, FIRST + len(self.tokens))
        return renumbered[ids]


def is_asked_for(prepared: Prepared | None, preprocessing: PreprocessingPlan, contract: DataContract) -> bool:
    """Tell whether this is what a plan asks for; nothing where it asks for nothing."""
    if prepared is None or not preprocessing.needs_statistics:
        return prepared is None and not preprocessing.needs_statistics
    most, last = preprocessing.vocabulary or 0, len(feature_names(contract))
    if prepared.condition != preprocessing.condition or prepared.place != _place(preprocessing, contract):
        return False
    if bool(prepared.tokens) != bool(most) or len(prepared.tokens) > most or max(prepared.tokens, default=0) > last:
        return False
    count = len(statistic_names(preprocessing, contract))
    expected = (
        (prepared.fill, preprocessing.missing != "refuse"),
        (prepared.low, preprocessing.clip_quantiles is not None),
        (prepared.mean, preprocessing.standardise != "none"),
    )
    return all(len(numbers) == (count if wanted else 0) for numbers, wanted in expected)


def prepare(merged: Sequence[FeatureSums], preprocessing: PreprocessingPlan, contract: DataContract) -> Prepared:
    """Return what the sites' merged statistics make of the features.

    A feature that is one value everywhere gets the deviation 1.

    Args:
        merged: The sum over the sites, a feature each.
        preprocessing: The plan's.
        contract: The plan's.

    Raises:
        StudyFailed: No site has enough values of a feature, or enough texts with any token.
    """
    if preprocessing.vocabulary is not None:
        return Prepared(tokens=_commonest(merged, preprocessing.vocabulary))
    names, spans = statistic_names(preprocessing, contract), statistic_ranges(preprocessing, contract)
    for name, sums in zip(names, merged, strict=True):
        if not sums.count:
            raise StudyFailed(
                f"No site has values of '{name}' from {preprocessing.minimum_count} units, such as patients or rows "
                "(preprocessing.minimum_count): there is nothing to prepare it by.",
                advice="Leave the column or the condition out of the plan, or ask the sites for more data.",
            )
    merged = _across_conditions(merged, preprocessing, contract)
    clip = preprocessing.clip_quantiles
    numbers = [  # a category's 0 and 1 are clipped to themselves
        (sums.quantile(clip[0], span), sums.quantile(clip[1], span)) if clip and span is not None else (0.0, 1.0)
        for sums, span in zip(merged, spans, strict=True)
    ]
    standardised = preprocessing.standardise != "none"
    return Prepared(
        fill=tuple(_fill(sums, span, preprocessing) for sums, span in zip(merged, spans, strict=True))
        if preprocessing.missing != "refuse"
        else (),
        low=tuple(low for low, _high in numbers) if clip else (),
        high=tuple(high for _low, high in numbers) if clip else (),
        mean=tuple(sums.mean for sums in merged) if standardised else (),
        deviation=tuple(sums.variance**0.5 or 1.0 for sums in merged) if standardised else (),
        condition=preprocessing.condition,
        place=_place(preprocessing, contract),
    )


def _place(preprocessing: PreprocessingPlan, contract: DataContract) -> int:
    """Return which feature tells the condition; 0 without one."""
    return feature_names(contract).index(preprocessing.condition.column) if preprocessing.condition is not None else 0


def _across_conditions(
    merged: Sequence[FeatureSums], preprocessing: PreprocessingPlan, contract: DataContract
) -> Sequence[FeatureSums]:
    """Return the sums with those of the feature that tells the condition put together: it is to go on telling it."""
    if preprocessing.condition is None:
        return merged
    features = len(feature_names(contract))
    own = slice(_place(preprocessing, contract), None, features)
    joined = list(merged)
    joined[own] = [functools.reduce(operator.add, merged[own])] * len(merged[own])
    return joined


def _commonest(merged: Sequence[FeatureSums], wanted: int) -> tuple[int, ...]:
    """Return the ids of the tokens that most texts hold, ascending; of equally many the first in the plan."""
    held = np.asarray([sums.total >> UNIT for sums in merged[1:]], dtype=np.int64)
    ranked = np.argsort(-held, kind="stable")[:wanted]
    kept = np.sort(ranked[held[ranked] > 0]) + FIRST
    if not len(kept):
        raise StudyFailed(
            "No site has a token of data.text.vocabulary in as many texts as preprocessing.minimum_count asks for.",
            advice="Compare the plan's vocabulary with what the texts are: language, spelling, 'tokens'.",
        )
    return tuple(kept.tolist())


def _fill(sums: FeatureSums, span: tuple[float, float] | None, preprocessing: PreprocessingPlan) -> float:
    if preprocessing.missing == "median" and span is not None:
        return sums.quantile(0.5, span)
    return sums.mean
