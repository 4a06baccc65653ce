"""What a model architecture is: its options and how to build it; one file of this folder each.

A model's file imports torch inside its ``build`` function only, because the coordinator reads and checks plans and
has no torch in its process. A network that needs a class of its own has it in ``networks``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hansa_common.contract import ArrayContract, ImageContract, TableContract
from hansa_common.models.outputs import PREDICTED, Target
from hansa_common.registry import Registry
from hansa_common.settings import Strict

if TYPE_CHECKING:
    from torch import nn

Contract = ImageContract | ArrayContract | TableContract


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A model that a plan can name.

    Attributes:
        options: The keys that ``[model]`` may have beside ``name``.
        accepts: The kinds of data contract it can learn from.
        build: Makes the freshly initialised module for these options and this contract. It draws its initial weights
            from torch's global generator, which the caller has seeded.
        check: Raises ``ValueError`` when options and contract do not fit together; the message names the option.
        learns: The targets it can learn.
        unsuited_to_privacy: Why it has no gradient of one example alone, which ``kind = "example"`` clips, for these
            options; empty where it has.
    """

    options: type[Strict]
    accepts: frozenset[str]
    build: "Callable[[Any, Contract], nn.Module]"
    check: Callable[[Any, Contract], None] = lambda _options, _contract: None
    learns: frozenset[Target] = PREDICTED
    unsuited_to_privacy: Callable[[Any], str] = lambda _options: ""


ARCHITECTURES: Registry[Architecture] = Registry("model")
