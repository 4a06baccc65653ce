"""ResNet: residual networks for images, with GroupNorm in place of BatchNorm.

He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016: 8 to 56 layers as in section 4.2 (three
stages of 16, 32 and 64 channels, shortcuts without parameters), 18 and 34 layers as in table 1 (four stages of 64 to
512 channels, 1x1 convolutions where a shortcut changes shape). Statistics of a batch differ between sites, and their
mean describes none of them (Hsieh et al., "The Non-IID Data Quagmire of Decentralized Machine Learning", ICML 2020), so
the default is GroupNorm (Wu and He, ECCV 2018), which has as many parameters.

Tensors are named as in published weight files (``conv1``, ``bn1``, ``layer1.0.conv1``, ``fc``), whatever normalises.
"""

from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import Field

from hansa_common.contract import outputs
from hansa_common.models.registry import ARCHITECTURES, Architecture, Contract
from hansa_common.settings import Strict

if TYPE_CHECKING:
    from torch import nn

_DEEP: Final = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}  # blocks of each stage; table 1


class ResNetOptions(Strict):
    """Options of the ResNet."""

    depth: Literal[8, 14, 18, 20, 32, 34, 44, 56] = 18
    """Layers with weights; 18 and 34 are the wide ones for large images."""
    stem: Literal["small", "large"] = "small"
    """The first convolution: 3x3, or with depth 18 and 34 also 7x7 with stride 2 and max-pooling, for large images."""
    normalisation: Literal["group", "batch"] = "group"
    groups: Annotated[int, Field(ge=1, le=64)] = 8
    """Groups of channels that GroupNorm takes together."""


def check(options: ResNetOptions, contract: Contract) -> None:
    """Refuse what no published network has."""
    del contract
    width = 64 if options.depth in _DEEP else 16
    if options.normalisation == "group" and width % options.groups:
        raise ValueError(f"groups: found {options.groups}; allowed is a divisor of {width}, the least channels.")
    if options.stem == "large" and options.depth not in _DEEP:
        raise ValueError(f"stem: 'large' is for depth 18 and 34; depth is {options.depth}.")


def unsuited_to_privacy(options: ResNetOptions) -> str:
    """Say why BatchNorm has no gradient of one example."""
    if options.normalisation == "group":
        return ""
    return "BatchNorm mixes the examples of a batch: use normalisation = 'group'"


def build(options: ResNetOptions, contract: Contract) -> "nn.Module":
    """Return the network: ``float32 [N, C, H, W]`` to ``[N, outputs]``."""
    from hansa_common.models.networks.residual import Residual

    is_deep = options.depth in _DEEP
    return Residual(
        channels=contract.feature_shape[0],
        width=64 if is_deep else 16,
        blocks=_DEEP[options.depth] if is_deep else ((options.depth - 2) // 6,) * 3,
        has_large_stem=options.stem == "large",
        projects=is_deep,
        groups=options.groups if options.normalisation == "group" else None,
        outputs=outputs(contract),
    )


ARCHITECTURES.register("resnet")(
    Architecture(
        options=ResNetOptions,
        accepts=frozenset({"image"}),
        build=build,
        check=check,
        unsuited_to_privacy=unsuited_to_privacy,
    )
)
