"""The data contract: what every site's data must look like before a study trains on it.

Shapes: ``N`` examples, ``C`` channels, ``H`` height, ``W`` width, ``F`` features, ``K`` classes.
"""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from hansa_common.settings import Strict

Text = Annotated[str, Field(min_length=1, max_length=200)]
Size = Annotated[int, Field(ge=1, le=65_536)]
Classes = Annotated[tuple[Text, ...], Field(min_length=2, max_length=10_000)]


class _Labelled(Strict):
    classes: Classes
    """Names of the K classes; a label is an index into this list, or the name itself in a table."""
    minimum_examples: Annotated[int, Field(ge=1)] = 10
    """A site with fewer examples does not fulfil the contract."""

    @model_validator(mode="after")
    def _classes_are_distinct(self) -> Self:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes: a class is named twice; each needs a name of its own.")
        return self


class ImageContract(_Labelled):
    """Images of one size, ``uint8 [N, H, W, C]``; the model gets ``float32 [N, C, H, W]`` in 0..1."""

    kind: Literal["image"]
    channels: Annotated[int, Field(ge=1, le=64)]
    height: Size
    width: Size

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of one example as the model gets it: ``(C, H, W)``."""
        return (self.channels, self.height, self.width)


class ArrayContract(_Labelled):
    """Numeric arrays of one shape, ``float32 [N, *shape]``."""

    kind: Literal["array"]
    shape: Annotated[tuple[Size, ...], Field(min_length=1, max_length=4)]
    minimum: float | None = None
    maximum: float | None = None

    @model_validator(mode="after")
    def _range_is_ordered(self) -> Self:
        _check_range("", self.minimum, self.maximum)
        return self

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.shape


class Column(Strict):
    """One feature column of a table."""

    name: Text
    type: Literal["float", "int", "category"] = "float"
    minimum: float | None = None
    maximum: float | None = None
    categories: tuple[Text, ...] = ()
    """Allowed values of a ``category`` column; each becomes one feature (one-hot, in this order)."""
    missing: Literal["refuse", "drop"] = "refuse"
    """A row without this value breaks the contract (``refuse``) or is left out (``drop``)."""

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if (self.type == "category") != bool(self.categories):
            raise ValueError(f"column '{self.name}': 'categories' goes with type 'category', and only with it.")
        if self.type == "category" and (self.minimum is not None or self.maximum is not None):
            raise ValueError(f"column '{self.name}': a category has no minimum or maximum.")
        if len(set(self.categories)) != len(self.categories):
            raise ValueError(f"column '{self.name}': a category is named twice.")
        _check_range(f"column '{self.name}': ", self.minimum, self.maximum)
        return self

    @property
    def width(self) -> int:
        """How many features this column becomes."""
        return len(self.categories) or 1


class TableContract(_Labelled):
    """A table with named columns; the model gets ``float32 [N, F]``, columns in the contract's order."""

    kind: Literal["table"]
    label: Text
    """The column that holds the class name."""
    columns: Annotated[tuple[Column, ...], Field(min_length=1, max_length=10_000)]
    standardise: Literal["none", "site"] = "none"
    """``site``: subtract the mean and divide by the standard deviation of the site's own training split."""

    @model_validator(mode="after")
    def _names_are_distinct(self) -> Self:
        names = [column.name for column in self.columns]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"columns: named twice: {', '.join(twice)}.")
        if self.label in names:
            raise ValueError(f"label: '{self.label}' is a feature column too; a label cannot predict itself.")
        return self

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of one example: ``(F,)``."""
        return (sum(column.width for column in self.columns),)


DataContract = Annotated[ImageContract | ArrayContract | TableContract, Field(discriminator="kind")]


def _check_range(prefix: str, minimum: float | None, maximum: float | None) -> None:
    if minimum is not None and maximum is not None and not minimum < maximum:
        raise ValueError(f"{prefix}minimum {minimum:g} is not below maximum {maximum:g}.")


def feature_count(contract: "ImageContract | ArrayContract | TableContract") -> int:
    """Return how many numbers one example has."""
    return math.prod(contract.feature_shape)
