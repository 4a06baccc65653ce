"""What a contract wants learned, and how many outputs that takes: the one place where models ask for it."""

from typing import TYPE_CHECKING, Any, Final, Literal

from hansa_common.contract import outputs

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


__all__ = ["PREDICTED", "Target", "outputs", "target_kind"]
