"""What a contract wants learned, in words that a model's entry in the registry can list."""

from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from hansa_common.models.registry import Contract

Target = Literal["classes", "number", "survival", "reconstruction"]
PREDICTED: Final[frozenset[Target]] = frozenset({"classes", "number", "survival"})
"""What a model with one layer of outputs can learn: a logit for each class, a number, a log hazard."""


def target_kind(contract: "Contract") -> Target:
    """Return what is learned from data of this contract."""
    return "classes" if contract.target is None else contract.target.kind
