"""VideoPose3D: 2D keypoints of a window to the 3D pose of one of its frames, by dilated convolutions over time.

Source: Pavllo, Feichtenhofer, Grangier and Auli, "3D human pose estimation in video with temporal convolutions and
semi-supervised training", CVPR 2019. Letters: B windows, R receptive field, T frames of a window, A = T - R + 1 frames
that it answers for, K keypoints in, J joints out, C channels. Parameter names are those of the public checkpoints,
which therefore load as they are.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from common.flag import listed
from common.models.layers import dropout
from common.models.lifter import Lifter, check_sizes, shape_in
from common.recipe import Published, Recipe
from common.skeleton import Skeleton

USUAL_FRAMES, MOST_FRAMES = 243, 10_000
FIRST_MOMENTUM, MOMENTUM_FALL = 0.1, 100  # of the batch norms: 0.1 in the first epoch, and towards a hundredth of it


@dataclass(frozen=True)
class VideoPose3DConfig:
    """The sizes of a VideoPose3D.

    Attributes:
        frames: R, the receptive field: the product of the widths. Where it is left out they tell it.
        widths: of the convolutions over time, odd: the first one's, then each block's. Left out, they are threes.
        causal: whether a window ends with the frame that it answers for; else that is its middle.
        dense: whether a block's convolution reads all frames between those that a dilated one reads.

    Raises ValueError for sizes that cannot be.
    """

    frames: int = 0
    channels: int = 1024
    widths: tuple[int, ...] = ()
    causal: bool = False
    dense: bool = False

    not_in_a_file = ('causal', 'dense')

    def __post_init__(self) -> None:
        check_sizes(self, 'channels')
        if self.frames < 0:
            raise ValueError(f'frames is {self.frames}, expected at least 1')
        widths = tuple(self.widths) or _threes(self.frames or USUAL_FRAMES)
        for width in widths:
            if not isinstance(width, int) or width < 1 or width % 2 == 0:
                raise ValueError(f'a width of the convolutions is {width}, expected odd numbers')
        field = math.prod(widths)
        if field > MOST_FRAMES:
            raise ValueError(f'{len(widths)} convolutions of such widths read more than {MOST_FRAMES:,} frames')
        if self.frames not in (0, field):
            raise ValueError(f'{self.frames} frames are not those of the widths {listed(widths)}, whose product is '
                             f'{field}')
        object.__setattr__(self, 'widths', widths)
        object.__setattr__(self, 'frames', field)

    @property
    def dilations(self) -> tuple[int, ...]:
        """Return for each block how far apart the frames are that its convolution reads."""
        return tuple(math.prod(self.widths[:block]) for block in range(1, len(self.widths)))

    @classmethod
    def from_state(cls, state: Mapping[str, torch.Tensor], causal: bool = False,
                   dense: bool = False) -> 'VideoPose3DConfig':
        """Read the sizes from the shapes of a public state dict, which does not tell `causal` and `dense`.

        Raises ValueError when the weights are not VideoPose3D's, and for those that read a score of each keypoint.
        """
        channels, inputs, width = shape_in(state, 'expand_conv.weight', 3)
        shape_in(state, 'shrink.weight', 3)
        if inputs % 2:
            raise ValueError(f'it reads {inputs} numbers of a frame, expected an x and a y of each keypoint: a score '
                             f'of each keypoint, which early files read too, cannot be given to this model')
        widths = [width]
        for block in range(sum(key.startswith('layers_conv.') for key in state) // 2):
            kernel, dilation = shape_in(state, f'layers_conv.{2 * block}.weight', 3)[2], math.prod(widths)
            reach, rest = divmod(kernel - 1, dilation) if dense else (kernel - 1, 0)
            if rest:
                raise ValueError(f'block {block + 1} has a kernel of {kernel} frames, which no dense model has behind '
                                 f'the widths {listed(widths)}')
            widths.append(reach + 1)
        return cls(math.prod(widths), channels, tuple(widths), causal, dense)


def _threes(frames: int) -> tuple[int, ...]:
    """Return the threes whose product is `frames`. Raises ValueError where there are none."""
    widths = (3,) * round(math.log(frames, 3)) or (1,)
    if math.prod(widths) != frames:
        raise ValueError(f'{frames} frames are no power of 3: say the widths of the convolutions, odd numbers whose '
                         f'product they are')
    return widths


class Convolution(nn.Conv1d):
    """A convolution over time without a bias, in the dtype of its input."""

    def __init__(self, channels: int, width: int, dilation: int = 1):
        super().__init__(channels, channels, width, dilation=dilation, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve x (B, C, n) -> (B, C, n')."""
        return F.conv1d(x, self.weight.to(x.dtype), dilation=self.dilation)


class VideoPose3D(Lifter):
    """(B, T, K, 2) normalised screen coordinates -> (B, T - R + 1, J, 3) metres, root-relative, camera axes."""

    title = 'VideoPose3D'
    Config = VideoPose3DConfig
    paper = 'Pavllo et al., CVPR 2019'
    recipe = Recipe(epochs=80, batch=1024, optimizer='amsgrad', lr=1e-3, lr_decay=0.95, dropout=0.25, loss='mpjpe',
                    objective='plain', root='predicted', select='last', seed=1234)
    public_keys = ('expand_conv.weight', 'expand_bn.weight', 'shrink.weight')
    results = (
        Published('cpn_ft_h36m_dbb', 243, 46.8, 36.5, 'readme'),
        Published('CPN, true boxes', 243, 47.1, 36.8, 'readme'),
        Published('CPN, true boxes', 81, 47.7, 37.2, 'readme'),
        Published('CPN, true boxes', 27, 48.8, 38.0, 'readme'),
        Published('detectron_ft_h36m', 243, 51.6, 40.3, 'readme'),
        Published('gt', 243, 37.2, 27.2, 'readme'),
        Published('gt', 243, 42.6, 32.8, 'issue', 'trained on CPN'),
        Published('cpn_ft_h36m_dbb', 243, 49.0, None, 'issue', 'causal'),
        Published('cpn_ft_h36m_dbb', 1, 51.8, None, 'issue'),
    )
    fewest = 2  # for one answer, the last batch norms see one position of each window
    semi_supervised = True

    def __init__(self, config: VideoPose3DConfig, skeleton: Skeleton, layout: Skeleton, dropout: float = 0.25):
        """Build the model with fresh weights.

        Args:
            dropout: rate of single values after every ReLU.
        """
        super().__init__(config)
        channels, self.widths, self.dilations = config.channels, config.widths, config.dilations
        self.keypoints, self.joints, self.dropout = len(layout), len(skeleton), dropout
        self.causal, self.dense = config.causal, config.dense
        self.expand_conv = nn.Conv1d(2 * self.keypoints, channels, self.widths[0], bias=False)
        self.expand_bn = nn.BatchNorm1d(channels)
        convolutions: list[Convolution] = []
        for width, dilation in zip(self.widths[1:], self.dilations, strict=True):
            reach = (width - 1) * dilation
            kernel, spacing = (reach + 1, 1) if self.dense else (width, dilation)
            convolutions += [Convolution(channels, kernel, spacing), Convolution(channels, 1)]
        self.layers_conv = nn.ModuleList(convolutions)
        self.layers_bn = nn.ModuleList(nn.BatchNorm1d(channels) for _ in convolutions)
        self.shrink = nn.Conv1d(channels, 3 * self.joints, 1)

    @classmethod
    def window(cls, config: VideoPose3DConfig) -> tuple[int, range]:
        """Return the receptive field, and its middle frame, or its last one, as the one that comes out."""
        at = config.frames - 1 if config.causal else (config.frames - 1) // 2
        return config.frames, range(at, at + 1)

    def window_for(self, count: int) -> tuple[int, range]:
        """Return how many frames a window reads that answers for `count` neighbouring ones, and which these are."""
        at = self.answers.start
        return self.frames + count - 1, range(at, at + count)

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Set how much the batch norms' running statistics move in a step of this epoch, of so many, from 1."""
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.momentum = FIRST_MOMENTUM * MOMENTUM_FALL ** (-(epoch - 1) / epochs)

    @classmethod
    def config_of(cls, state: Mapping[str, torch.Tensor], told: Mapping[str, Any] | None = None) -> VideoPose3DConfig:
        """Return the Config of a public state dict that is told to be causal, or dense."""
        return VideoPose3DConfig.from_state(state, **(told or {}))

    @classmethod
    def keypoints_of(cls, state: Mapping[str, torch.Tensor]) -> int:
        """Return for how many keypoints a public state dict was made: half the numbers that it reads of a frame."""
        return state['expand_conv.weight'].shape[1] // 2

    def forward(self, keypoints: torch.Tensor) -> torch.Tensor:
        """Lift keypoints (B, T, K, 2) -> (B, T - R + 1, J, 3).

        For a single answer each convolution has a stride in place of its dilation and computes what the answer needs
        alone. That is faster, and in training it decides over which positions the batch norms take their statistics.
        Raises ValueError for another K than the model's and for fewer than R frames.
        """
        if keypoints.ndim != 4 or keypoints.shape[2:] != (self.keypoints, 2) or keypoints.shape[1] < self.frames:
            raise ValueError(f'expected keypoints (B, at least {self.frames} frames, {self.keypoints}, 2), got '
                             f'{tuple(keypoints.shape)}')
        strided = keypoints.shape[1] == self.frames and not self.dense
        x = keypoints.flatten(2).mT  # (B, 2*K, T); channels come before frames from here on
        x = F.conv1d(x, self.expand_conv.weight, stride=self.widths[0] if strided else 1)
        x = self._activate(self.expand_bn(x))
        x = x.to(self.tokens or x.dtype)
        for block in range(len(self.dilations)):
            x = self._block(block, x, strided)  # not `through`: computed twice, its batch norms would count twice
        return self.shrink(x.to(keypoints.dtype)).mT.unflatten(-1, (self.joints, 3))

    def _block(self, block: int, x: torch.Tensor, strided: bool) -> torch.Tensor:
        """Apply a residual block to x (B, C, n), which becomes shorter by what its convolution reads around a frame."""
        over_time, within = cast('nn.Conv1d', self.layers_conv[2 * block]), self.layers_conv[2 * block + 1]
        width, dilation = self.widths[block + 1], self.dilations[block]
        before = width - 1 if self.causal else width // 2  # entries read before the one that the result stands beside
        if strided:
            kept, y = x[..., before::width], F.conv1d(x, over_time.weight.to(x.dtype), stride=width)
        else:
            y = over_time(x)
            kept = x[..., before * dilation:][..., :y.shape[-1]]
        y = self._activate(self.layers_bn[2 * block](y))
        return kept + self._activate(self.layers_bn[2 * block + 1](within(y)))

    def _activate(self, x: torch.Tensor) -> torch.Tensor:
        """Return ReLU and, in training, dropout of x."""
        return dropout(x.relu(), self.dropout) if self.training else x.relu()
