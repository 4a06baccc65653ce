"""``[evaluation.explain]``: what the sites work out about why the last model answers as it does.

An attribution says how much each input of one example raised or lowered the score of the example's own class, or the
one number that is predicted. What leaves a site is only their sum over the examples of a class, group by group: columns
of a table, cells of an image, features and time steps of an array. Pictures and rows of single examples stay there.

Shapes: ``K`` scores, one for each class or one in all, ``G`` groups of all views together.
"""

from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import Field

from hansa_common.contract import ArrayContract, ImageContract, NumberTarget, SurvivalTarget, TableContract
from hansa_common.models.registry import Contract
from hansa_common.privacy_plan import PrivacyPlan
from hansa_common.settings import Strict

MOST_EXPLAINED: Final = 100_000  # examples of one site
MOST_SUMS: Final = 1 << 20  # numbers of one site: 8 MiB
MOST_CELLS: Final = 16  # a side of the grid that an image is divided into
MOST_PLAYERS: Final = 256  # groups of which Shapley values are sampled: each costs a pass of the model


class ExplainPlan(Strict):
    """``[evaluation.explain]``: attributions of the last model on examples of each site."""

    method: Literal["integrated_gradients", "grad_cam", "shapley"]
    split: Literal["validation", "test"] = "test"
    """Which examples are explained; none was trained on."""
    examples: Annotated[int, Field(ge=1, le=MOST_EXPLAINED)] = 200
    """At most so many at each site, drawn with the plan's seed."""
    minimum_examples: Annotated[int, Field(ge=2, le=MOST_EXPLAINED)] = 10
    """A site keeps a class with fewer explained examples to itself."""
    steps: Annotated[int, Field(ge=8, le=1_000)] = 50
    """Points of the path of integrated gradients; permutations of Shapley values."""
    baseline: Literal["zero", "mean"] = "zero"
    """What an input is compared with: 0, or its mean over the site's own training split."""
    kept_examples: Annotated[int, Field(ge=0, le=100)] = 8
    """So many examples of each site are kept there with their attributions, for its own people."""
    show_examples: bool = False
    """A simulation's kept pictures come into its report; a real site's never leave it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One way of grouping inputs.

    Attributes:
        name: ``columns``, ``features``, ``steps`` or ``cells``.
        labels: Of the groups.
        rows: Of the grid in which the groups lie; 0 where they have no place.
    """

    name: Literal["columns", "features", "steps", "cells"]
    labels: tuple[str, ...]
    rows: int = 0


def views_of(contract: Contract) -> tuple[View, ...]:
    """Return in which groups attributions of a study's examples are summed.

    A table has its columns. An image has cells, at most 16 x 16. An array's last axis holds its features; the axes
    before it are steps, in one row.
    """
    if isinstance(contract, TableContract):
        return (View(name="columns", labels=tuple(column.name for column in contract.columns)),)
    if isinstance(contract, ImageContract):
        rows, columns = grid_of(contract)
        labels = tuple(f"row {row + 1}, column {column + 1}" for row in range(rows) for column in range(columns))
        return (View(name="cells", labels=labels, rows=rows),)
    *before, last = contract.shape
    features = View(name="features", labels=tuple(f"feature {number + 1}" for number in range(last)))
    steps = 1
    for length in before:
        steps *= length
    if not before:
        return (features,)
    return (features, View(name="steps", labels=tuple(f"step {number + 1}" for number in range(steps)), rows=1))


def scores_of(contract: Contract) -> tuple[str, ...]:
    """Return the names of the ``K`` scores that are explained: of each class its logit, else what is predicted."""
    match contract.target:
        case NumberTarget():
            return ("number",)
        case SurvivalTarget():
            return ("log hazard",)
    return contract.classes


def grid_of(contract: ImageContract) -> tuple[int, int]:
    """Return rows and columns of the grid that an image is divided into."""
    return min(contract.height, MOST_CELLS), min(contract.width, MOST_CELLS)


def num_groups(contract: Contract) -> int:
    """Return ``G``."""
    return sum(len(view.labels) for view in views_of(contract))


def check_explain(explain: ExplainPlan | None, contract: Contract, privacy: PrivacyPlan, *, validation: float) -> None:
    """Refuse what cannot be explained so.

    Args:
        explain: What is asked; nothing is checked where nothing is.
        contract: Of the data.
        privacy: Of the plan.
        validation: Share of the validation split.

    Raises:
        ValueError: With the key and the reason.
    """
    if explain is None:
        return
    where = "evaluation.explain"
    if privacy.differential is not None:
        raise ValueError(
            f"{where}: sums of attributions have no noise in them, and [privacy.differential] promises that nothing "
            "leaves without; leave out one of the two."
        )
    if contract.target is not None and contract.target.kind == "reconstruction":
        raise ValueError(
            f"{where}: a model that reconstructs its input has no score to explain; leave the section out."
        )
    if isinstance(contract, ArrayContract) and contract.text is not None:
        raise ValueError(f"{where}: token ids are names, not numbers that an answer could be attributed to.")
    if explain.split == "validation" and not validation:
        raise ValueError(f"{where}.split: evaluation.validation is 0; there is no validation split.")
    if explain.method == "grad_cam" and contract.kind != "image":
        raise ValueError(f"{where}.method: 'grad_cam' is for images; data.kind is '{contract.kind}'.")
    players = 0 if isinstance(contract, ImageContract) else len(views_of(contract)[0].labels)
    flat = isinstance(contract, TableContract) or len(contract.feature_shape) == 1
    if explain.method == "shapley" and not (flat and players <= MOST_PLAYERS):
        raise ValueError(
            f"{where}.method: 'shapley' is for tables, and arrays of one axis, with at most {MOST_PLAYERS} columns; "
            "take 'integrated_gradients'."
        )
    sums = len(scores_of(contract)) * (1 + 2 * num_groups(contract))
    if sums > MOST_SUMS:
        raise ValueError(f"{where}: {sums:,} sums of classes times groups; allowed are {MOST_SUMS:,}.")
