"""The data contract: what every site's data must look like before a study trains on it.

What is learned is part of it: one of K classes where the contract names them, else what ``target`` says. How examples
are made of texts (``texts``) and of long series (``series``) is part of it too, for it must be the same at every site.

Shapes: ``N`` examples, ``C`` channels, ``H`` height, ``W`` width, ``F`` features, ``K`` classes.
"""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from hansa_common.series import WindowsContract
from hansa_common.settings import Strict
from hansa_common.texts import FIRST, ROW, TextContract

Text = Annotated[str, Field(min_length=1, max_length=200)]
Size = Annotated[int, Field(ge=1, le=65_536)]
_FEWEST_CLASSES = 2


class NumberTarget(Strict):
    """Regression: each example has a number. The model predicts ``number / scale``."""

    kind: Literal["number"]
    unit: Annotated[str, Field(max_length=40)] = ""
    """For people: ``cycles``, ``mg/dl``."""
    scale: Annotated[float, Field(gt=0.0, lt=1e30)] = 1.0
    """A typical size of the number. Losses are of ``number / scale``, and so is the fixed point in which errors are
    counted: an error of more than 32,768 scales counts as so much."""
    minimum: float | None = None
    maximum: float | None = None
    loss: Literal["squared", "huber"] = "squared"
    """``huber``: squared up to an error of one scale, linear above (Huber, Annals of Mathematical Statistics 1964)."""
    score: Literal["none", "cmapss"] = "none"
    """``cmapss``: the asymmetric score of remaining life in cycles (Saxena et al., PHM 2008, equation 1)."""

    @model_validator(mode="after")
    def _range_is_ordered(self) -> Self:
        _check_range("", self.minimum, self.maximum)
        return self


class SurvivalTarget(Strict):
    """Time to an event, or to the end of watching; the model predicts the logarithm of the relative hazard."""

    kind: Literal["survival"]
    time: Text
    """The column, or the array of an archive, with the time: a number of at least 0."""
    event: Text
    """The column or array that is 1 where the event was seen at that time and 0 where watching ended before it."""

    @model_validator(mode="after")
    def _are_two(self) -> Self:
        if self.time == self.event:
            raise ValueError(f"event: time and event are both '{self.time}'; each needs a column of its own.")
        return self


class ReconstructionTarget(Strict):
    """The example itself: a model learns what is usual, and what it reconstructs badly is an anomaly."""

    kind: Literal["reconstruction"]
    anomaly: Text | None = None
    """A column or array that tells normal examples from anomalies. It is looked at to leave anomalies out of training
    and to evaluate. Left out: nobody knows, and all examples are trained on."""
    normal: Annotated[tuple[Text, ...], Field(min_length=1, max_length=100)] = ("0",)
    """Values of that column for a normal example."""
    anomalous: Annotated[tuple[Text, ...], Field(min_length=1, max_length=100)] = ("1",)

    @model_validator(mode="after")
    def _values_are_distinct(self) -> Self:
        values = (*self.normal, *self.anomalous)
        if len(set(values)) != len(values):
            raise ValueError("anomalous: a value is named twice among normal and anomalous.")
        return self


Target = Annotated[NumberTarget | SurvivalTarget | ReconstructionTarget, Field(discriminator="kind")]


class _Labelled(Strict):
    classes: Annotated[tuple[Text, ...], Field(max_length=10_000)] = ()
    """Names of the K classes; a label is an index into this list, or the name itself in a table."""
    target: Target | None = None
    """What is learned where it is not one of K classes."""
    minimum_examples: Annotated[int, Field(ge=1)] = 10
    """A site with fewer examples does not fulfil the contract."""

    @model_validator(mode="after")
    def _says_what_is_learned(self) -> Self:
        if self.target is not None and self.classes:
            raise ValueError(f"classes: target.kind = '{self.target.kind}' has no classes; leave one of the two out.")
        if self.target is None and len(self.classes) < _FEWEST_CLASSES:
            raise ValueError(
                f"classes: found {len(self.classes)}; allowed is at least {_FEWEST_CLASSES}, or a 'target' instead."
            )
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
    text: TextContract | None = None
    """The array holds ids of the tokens of a text."""
    windows: WindowsContract | None = None
    """The array ``[T, F]`` holds rows of a series that follow each other."""
    standardise: Literal["none", "site"] = "none"
    """``site``: as of a table, along the last axis."""

    @model_validator(mode="after")
    def _range_is_ordered(self) -> Self:
        _check_range("", self.minimum, self.maximum)
        return self

    @model_validator(mode="after")
    def _holds_tokens(self) -> Self:
        if self.text is None:
            return self
        if self.target is not None or len(self.shape) != 1:
            raise ValueError(
                "text: the shape of data.text is [steps], and what is learned are classes, without a 'target'."
            )
        if self.windows is not None or self.standardise != "none":
            raise ValueError("text: token ids are no numbers; leave 'windows' and 'standardise' out.")
        if self.text.learn == "next":
            self.text.require_tokens(self.classes, key="classes")
        last = len(self.tokens) + FIRST - 1
        if self.minimum != 0 or self.maximum != last:
            raise ValueError(
                f"text: set minimum = 0 and maximum = {last}: 0 stands for no token, 1 for an unknown one, and "
                f"{len(self.tokens):,} have an id of their own."
            )
        return self

    @model_validator(mode="after")
    def _holds_windows(self) -> Self:
        if self.windows is None:
            return self
        features = len(self.windows.columns)
        if self.shape[1:] != (features,):
            raise ValueError(
                f"shape: found {list(self.shape)}; allowed is [steps, {features}], for so many are in windows.columns."
            )
        if self.windows.remaining and (self.target is None or self.target.kind != "number"):
            raise ValueError("windows.remaining: is a number of rows; set target.kind = 'number'.")
        if (self.windows.label is None) == (_has_label(self) and not self.windows.remaining):
            raise ValueError(
                "windows.label: goes with classes and numbers that a column says; other targets have none."
            )
        if self.target is not None and self.target.kind == "survival":
            raise ValueError(
                "windows: a survival time is of a person, not of a window; give arrays of another adapter."
            )
        return self

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.shape

    @property
    def cut_from(self) -> str | None:
        """The column that says which series or text an example is a part of; ``None`` where it is whole."""
        if self.windows is not None:
            return self.windows.unit
        return ROW if self.text is not None and self.text.learn == "next" else None

    @property
    def tokens(self) -> tuple[str, ...]:
        """The tokens that have an id of their own; none where the array holds no text."""
        if self.text is None:
            return ()
        return self.classes if self.text.learn == "next" else self.text.vocabulary


class Column(Strict):
    """One feature column of a table."""

    name: Text
    type: Literal["float", "int", "category"] = "float"
    minimum: float | None = None
    maximum: float | None = None
    categories: tuple[Text, ...] = ()
    """Allowed values of a ``category`` column; each becomes one feature (one-hot, in this order)."""
    missing: Literal["refuse", "drop", "fill"] = "refuse"
    """A row without this value breaks the contract (``refuse``), is left out (``drop``), or gets the federation's mean
    or median for it (``fill``, with ``preprocessing.missing``)."""

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if (self.type == "category") != bool(self.categories):
            raise ValueError(f"column '{self.name}': 'categories' goes with type 'category', and only with it.")
        if self.type == "category" and (self.minimum is not None or self.maximum is not None):
            raise ValueError(f"column '{self.name}': a category has no minimum or maximum.")
        if self.type == "category" and self.missing == "fill":
            raise ValueError(f"column '{self.name}': a category has no mean; missing = 'fill' is for numbers.")
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
    label: Annotated[str, Field(max_length=200)] = ""
    """The column that holds the class name, or the number; a survival or reconstruction target names its own."""
    columns: Annotated[tuple[Column, ...], Field(min_length=1, max_length=10_000)]
    standardise: Literal["none", "site"] = "none"
    """``site``: subtract the mean and divide by the standard deviation of the site's own training split."""

    @model_validator(mode="after")
    def _names_are_distinct(self) -> Self:
        names = [column.name for column in self.columns]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"columns: named twice: {', '.join(twice)}.")
        if _has_label(self) != bool(self.label):
            fault = "this key is required and missing" if _has_label(self) else "the target names its own columns"
            raise ValueError(f"label: {fault}.")
        for name in target_columns(self):
            if name in names:
                raise ValueError(f"label: '{name}' is a feature column too; a label cannot predict itself.")
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


def outputs(contract: "ImageContract | ArrayContract | TableContract") -> int:
    """Return how many numbers a model gives for one example.

    One logit for each of K classes; one for a number and for a hazard; as many as the example has to reconstruct it.
    """
    match contract.target:
        case None:
            return len(contract.classes)
        case ReconstructionTarget():
            return feature_count(contract)
    return 1


def label_names(contract: "ImageContract | ArrayContract | TableContract") -> tuple[str, ...]:
    """Return what kinds of examples there are, for people: what a site's examples are counted by."""
    match contract.target:
        case None:  # a blank and a line feed are classes where the next character is learned
            return tuple(name if name.strip() else repr(name) for name in contract.classes)
        case SurvivalTarget():
            return ("no event", "event")
        case ReconstructionTarget(anomaly=str()):
            return ("normal", "anomaly")
    return ("examples",)


def target_columns(contract: "ImageContract | ArrayContract | TableContract") -> tuple[str, ...]:
    """Return the columns of a table, or arrays of an archive, that the target reads; the first is that of ``label``."""
    match contract.target:
        case SurvivalTarget() as target:
            return (target.time, target.event)
        case ReconstructionTarget() as target:
            return (target.anomaly,) if target.anomaly is not None else ()
    return (contract.label,) if isinstance(contract, TableContract) else ()


def _has_label(contract: "_Labelled") -> bool:
    return contract.target is None or contract.target.kind == "number"
