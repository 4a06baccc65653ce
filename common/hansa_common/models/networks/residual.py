"""Residual networks of basic blocks (He et al., CVPR 2016, figure 5 left).

Shapes: ``N`` examples, ``C`` channels, ``H`` height, ``W`` width.
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from hansa_common.models.initialisation import glorot


class Residual(nn.Module):
    """A stem, stages of basic blocks that double the channels and halve the size, mean over all places, a linear layer.

    Convolutions start normal with variance 2 / (outputs * kernel size) (He et al., ICCV 2015, equation 14), scales of
    normalisation 1, the linear layer Glorot uniform.

    Args:
        channels: Of the images.
        width: Channels of the first stage.
        blocks: How many each stage has.
        has_large_stem: 7x7 with stride 2 and max-pooling, else 3x3.
        projects: A shortcut that changes shape is a 1x1 convolution (option B), else padding with zeros (option A).
        groups: Of GroupNorm; ``None`` for BatchNorm.
        outputs: Of the linear layer.
    """

    def __init__(
        self,
        *,
        channels: int,
        width: int,
        blocks: Sequence[int],
        has_large_stem: bool,
        projects: bool,
        groups: int | None,
        outputs: int,
    ) -> None:
        super().__init__()
        size, stride = (7, 2) if has_large_stem else (3, 1)
        self.conv1 = nn.Conv2d(channels, width, size, stride=stride, padding=size // 2, bias=False)
        self.bn1 = _norm(width, groups)
        self._has_large_stem = has_large_stem
        incoming = width
        stages: OrderedDict[str, nn.Module] = OrderedDict()
        for stage, count in enumerate(blocks):
            outgoing = width << stage
            sequence: list[nn.Module] = []
            for block in range(count):
                step = 2 if stage and not block else 1
                sequence.append(BasicBlock(incoming, outgoing, stride=step, projects=projects, groups=groups))
                incoming = outgoing
            stages[f"layer{stage + 1}"] = nn.Sequential(*sequence)
        for name, layer in stages.items():
            self.add_module(name, layer)
        self._stages = tuple(stages)
        self.fc = nn.Linear(incoming, outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        glorot(self.fc)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map ``float32 [N, C, H, W]`` to ``[N, outputs]``."""
        values = functional.relu(self.bn1(self.conv1(inputs)))
        if self._has_large_stem:
            values = functional.max_pool2d(values, 3, stride=2, padding=1)
        for name in self._stages:
            values = self.get_submodule(name)(values)
        answers: Tensor = self.fc(values.mean((2, 3)))
        return answers


class BasicBlock(nn.Module):
    """``relu(norm(conv(relu(norm(conv(x))))) + shortcut(x))``, both convolutions 3x3."""

    def __init__(self, incoming: int, outgoing: int, *, stride: int, projects: bool, groups: int | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(incoming, outgoing, 3, stride=stride, padding=1, bias=False)
        self.bn1 = _norm(outgoing, groups)
        self.conv2 = nn.Conv2d(outgoing, outgoing, 3, padding=1, bias=False)
        self.bn2 = _norm(outgoing, groups)
        self._stride, self._added = stride, outgoing - incoming
        self.downsample: nn.Sequential | None = None
        if projects and (stride != 1 or self._added):
            convolution = nn.Conv2d(incoming, outgoing, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(convolution, _norm(outgoing, groups))

    def forward(self, inputs: Tensor) -> Tensor:
        """Map ``[N, C, H, W]`` to ``[N, C', H / stride, W / stride]``."""
        values = functional.relu(self.bn1(self.conv1(inputs)))
        values = self.bn2(self.conv2(values))
        return functional.relu(values + self._shortcut(inputs))

    def _shortcut(self, inputs: Tensor) -> Tensor:
        if self.downsample is not None:
            projected: Tensor = self.downsample(inputs)
            return projected
        if self._stride == 1 and not self._added:
            return inputs
        before = self._added // 2
        thinned = inputs[:, :, :: self._stride, :: self._stride]
        return functional.pad(thinned, (0, 0, 0, 0, before, self._added - before))


def _norm(channels: int, groups: int | None) -> nn.Module:
    return nn.BatchNorm2d(channels) if groups is None else nn.GroupNorm(groups, channels)
