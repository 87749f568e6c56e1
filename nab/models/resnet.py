"""Residual networks with a CIFAR stem (He, Zhang, Ren, Sun, CVPR 2016; arXiv:1512.03385).

The stem is one 3 x 3 convolution of stride 1 without pooling, as the authors of NAB use it: 32 x 32 images reach the
last stage as 4 x 4 maps. ``width`` is the number of channels of the first stage (64 in the paper).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


def _conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut; ReLU after the addition."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv_bn(inputs, planes, 3, stride)
        self.conv2 = _conv_bn(planes, planes, 3)
        same_shape = stride == 1 and inputs == planes
        self.shortcut = nn.Identity() if same_shape else _conv_bn(inputs, planes, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.conv1(x), inplace=True)
        return F.relu(self.conv2(out).add_(self.shortcut(x)), inplace=True)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions and a shortcut; four times as many channels out as inside."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        outputs = planes * self.expansion
        self.conv1 = _conv_bn(inputs, planes, 1)
        self.conv2 = _conv_bn(planes, planes, 3, stride)
        self.conv3 = _conv_bn(planes, outputs, 1)
        same_shape = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same_shape else _conv_bn(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.conv1(x), inplace=True)
        out = F.relu(self.conv2(out), inplace=True)
        return F.relu(self.conv3(out).add_(self.shortcut(x)), inplace=True)


class ResNet(nn.Module):
    """A residual network of four stages; it follows the `nab.models.Network` protocol.

    Input: float, N x ``channels`` x H x W, normalized. Output: logits, float, N x ``num_classes``.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        *,
        num_classes: int,
        channels: int = 3,
        width: int = 64,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_conv_bn(channels, width, 3), nn.ReLU(inplace=True))
        stages: list[nn.Module] = []
        inputs = width
        for stage, depth in enumerate(depths):
            planes = width * 2**stage
            parts: list[nn.Module] = []
            for position in range(depth):
                stride = 2 if stage > 0 and position == 0 else 1
                parts.append(block(inputs, planes, stride))
                inputs = planes * block.expansion
            stages.append(nn.Sequential(*parts))
        self.stages = nn.Sequential(*stages)
        self.classifier = nn.Linear(inputs, num_classes)

    @property
    def blocks(self) -> dict[str, nn.Module]:
        """``stem`` and ``stage1`` to ``stage4``."""
        return {"stem": self.stem} | {f"stage{place + 1}": stage for place, stage in enumerate(self.stages)}

    def maps(self, images: Tensor) -> Tensor:
        """What the last stage sees where: float, N x D x h x w, of a height and width an eighth of the input's."""
        maps: Tensor = self.stages(self.stem(images))
        return maps

    def features(self, images: Tensor) -> Tensor:
        """Penultimate features: the last stage's maps, averaged over space; float, N x D."""
        return self.maps(images).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))
