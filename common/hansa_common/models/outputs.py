"""What a contract wants learned, and how many outputs that takes: the one place where models ask for it."""

from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from hansa_common.models.registry import Contract

Target = Literal["classes", "number", "survival", "reconstruction"]
PREDICTED: Final[frozenset[Target]] = frozenset({"classes", "number", "survival"})
"""What a model with one layer of outputs can learn: a logit for each class, a number, a log hazard."""


def target_kind(contract: "Contract") -> Target:
    """Return what is learned from data of this contract."""
    target: Any = getattr(contract, "target", None)
    kind: Target = "classes" if target is None else target.kind
    return kind


def outputs(contract: "Contract") -> int:
    """Return how many numbers a model predicts for one example: K for classes, 1 for a number or a hazard."""
    return len(contract.classes) if target_kind(contract) == "classes" else 1
