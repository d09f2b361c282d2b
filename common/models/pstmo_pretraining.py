"""P-STMO's first stage: keypoints and frames are hidden, and all keypoints are to be told from those that are not.

It trains the encoder and the first transformer of `pstmo` on 2D keypoints alone. Source: Shan, Liu, Zhang, Wang, Ma and
Gao, "P-STMO: Pre-trained Spatial Temporal Many-to-One Model for 3D Human Pose Estimation", ECCV 2022 (arXiv
2203.07628). Letters: B windows, F frames, V frames that are not hidden, K keypoints, C channels. Parameter names are
those of the public checkpoints, which therefore load as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from common.augment import Batch
from common.models.annotated import SampleNorm
from common.models.lifter import Criterion, Lifter, check_sizes, shape_in, usual_heads
from common.models.pstmo import SpatialEncoder
from common.models.strided_parts import Stack, Vanilla, head, sizes_in, vanilla_blocks
from common.recipe import KEYPOINTS, Recipe
from common.skeleton import Skeleton

TEST_SEED = 0  # of the masks at test, the same for all windows, so that epochs are judged on the same task
DEPTH = (0, 1)  # what makes coordinates in the picture poses at depth 0


@dataclass(frozen=True)
class PSTMOPretrainingConfig:
    """The sizes of P-STMO's first stage, and how much it hides. Raises ValueError for what cannot be.

    `hidden` is the width of the feed-forward layers, `masked_frames` the share of the frames that is hidden,
    `masked_keypoints` how many keypoints of each frame are; `spacing` is that of `pstmo`.
    """

    frames: int = 243
    channels: int = 256
    depth: int = 3
    hidden: int = 512
    heads: int = 8
    spacing: int = 2
    masked_frames: float = 0.8
    masked_keypoints: int = 2

    not_in_a_file: ClassVar[tuple[str, ...]] = ('heads', 'spacing', 'masked_frames', 'masked_keypoints')

    def __post_init__(self) -> None:
        check_sizes(self, 'frames', 'channels', 'depth', 'hidden', 'heads', 'spacing')
        if self.frames % 2 == 0:
            raise ValueError(f'{self.frames} frames have none in their middle: take an odd number')
        if self.channels % (2 * self.heads):
            raise ValueError(f'{self.channels} channels cannot be halved and then divided among {self.heads} heads')
        if self.depth < 2 or self.hidden < 2:
            raise ValueError(f'depth is {self.depth} and hidden is {self.hidden}, expected at least 2: the decoder has '
                             f'a block less, half as wide')
        if not 0 <= self.masked_frames < 1:
            raise ValueError(f'masked_frames is {self.masked_frames}, expected a share from 0 up to less than 1')
        if self.masked_keypoints < 0:
            raise ValueError(f'masked_keypoints is {self.masked_keypoints}, expected at least 0')

    @property
    def hidden_frames(self) -> int:
        """Return how many frames of a window are hidden."""
        return int(self.frames * self.masked_frames)

    @classmethod
    def from_state(cls, state: dict[str, torch.Tensor]) -> 'PSTMOPretrainingConfig':
        """Read the sizes from the shapes of a public state dict, which does not tell heads, spacing and masks.

        Raises ValueError when the weights are not those of P-STMO's first stage.
        """
        shape_in(state, 'encoder.fc_1.weight', 3)
        shape_in(state, 'mask_token', 3)
        sizes = sizes_in(state)
        return cls(**sizes | {'heads': usual_heads(sizes['channels'] // 2)})  # its decoder is half as wide


class Decoder(nn.Module):
    """The blocks behind the encoder, under the names that they have in public files."""

    def __init__(self, depth: int, channels: int, hidden: int, heads: int, rate: float):
        super().__init__()
        self.model = Stack(vanilla_blocks(depth, channels, hidden, heads, rate), channels)


class PSTMOPretraining(Lifter):
    """(B, F, K, 2) normalised screen coordinates, of which it hides some -> (B, 1, K, 3) the centre's, at depth 0.

    It learns to tell the keypoints of all frames. At test it hides the centre, if it hides any frame, and is judged on
    what it tells of it.
    """

    title = 'P-STMO, first stage'
    Config = PSTMOPretrainingConfig
    recipe = Recipe(epochs=79, batch=160, optimizer='amsgrad', lr=1e-4, lr_decay=0.97, dropout=0.1, loss='mpjpe',
                    objective='plain', root='predicted', seed=1, joints=KEYPOINTS)
    public_keys = ('encoder.fc_1.weight', 'mask_token')
    paper = 'Shan et al., ECCV 2022'

    def __init__(self, config: PSTMOPretrainingConfig, skeleton: Skeleton, layout: Skeleton, dropout: float = 0.1):
        """Build the model with fresh weights.

        Args:
            dropout: rate in the encoder and the transformers.

        Raises ValueError for more hidden keypoints than a frame has but its last one, which is never hidden.
        """
        super().__init__(config)
        self.config, self.keypoints = config, len(layout)
        self._masks: tuple[torch.Tensor, torch.Tensor] | None = None  # of a step, drawn before it
        if config.masked_keypoints >= self.keypoints:
            raise ValueError(f'masked_keypoints is {config.masked_keypoints}, expected at most {self.keypoints - 1}: '
                             f'the last of {self.keypoints} keypoints is never hidden')
        frames, channels, heads, narrow = config.frames, config.channels, config.heads, config.channels // 2
        self.encoder = SpatialEncoder(self.keypoints, channels, dropout)
        self.Transformer = Vanilla(frames, config.depth, channels, config.hidden, heads, dropout)
        self.encoder_LN = SampleNorm(channels)
        self.encoder_to_decoder = nn.Linear(channels, narrow, bias=False)
        self.Transformer_dec = Decoder(config.depth - 1, narrow, config.hidden // 2, heads, dropout)
        self.fcn_dec = head(narrow, 2 * self.keypoints)
        self.spatial_mask_token = nn.Parameter(torch.randn(1, 1, 2))
        self.mask_token = nn.Parameter(torch.randn(1, 1, narrow))
        self.dec_pos_embedding = nn.Parameter(torch.randn(1, frames, narrow))

    @classmethod
    def keypoints_of(cls, state: Mapping[str, torch.Tensor]) -> int:
        """Return for how many keypoints a public state dict was made: two coordinates each."""
        return super().keypoints_of(state) // 2

    @classmethod
    def window(cls, config: PSTMOPretrainingConfig) -> tuple[int, range]:
        """Return the frames of a window, and its middle one as the one that comes out."""
        middle = (config.frames - 1) // 2
        return config.frames, range(middle, middle + 1)

    def begin_step(self, seed: int, windows: int, part: slice) -> None:
        """Draw the masks of a training step, which all its windows share, in whichever process they are."""
        self._masks = self._draw(torch.Generator().manual_seed(seed))

    def forward(self, keypoints: torch.Tensor, every: bool = False) -> torch.Tensor:
        """Tell the centre's keypoints of (B, F, K, 2), hiding the same of each window: (B, 1, K, 3) at depth 0.

        Of `every` frame, (B, F, K, 3), where that is asked for. Training draws anew each time, tests hide always the
        same. Raises ValueError for another F or K.
        """
        told = self._told(keypoints)
        return told if every else told[:, self.answers.start:self.answers.stop]

    def loss(self, batch: Batch, criterion: Criterion) -> torch.Tensor:
        """Return the criterion of the keypoints of all frames, hidden or not: no pose is read."""
        return criterion(self(batch.keypoints, every=True), F.pad(batch.keypoints, DEPTH))

    def _told(self, keypoints: torch.Tensor) -> torch.Tensor:
        """Return what it tells of (B, F, K, 2) with masks drawn here: (B, F, K, 3)."""
        if keypoints.shape[1:] != (self.frames, self.keypoints, 2):
            raise ValueError(f'expected keypoints (B, {self.frames}, {self.keypoints}, 2), got '
                             f'{tuple(keypoints.shape)}')
        if not self.training:
            masks = self._draw(torch.Generator().manual_seed(TEST_SEED), self.answers.start)
        else:
            masks = self._masks or self._draw()
        return F.pad(self.complete(keypoints, *masks), DEPTH)

    def _draw(self, generator: torch.Generator | None = None,
              sure: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return masks of a window: see `draw_masks`."""
        return draw_masks(self.frames, self.config.hidden_frames, self.keypoints, self.config.masked_keypoints,
                          generator, sure)

    def complete(self, keypoints: torch.Tensor, hidden_frames: torch.Tensor,
                 hidden_keypoints: torch.Tensor) -> torch.Tensor:
        """Tell all keypoints (B, F, K, 2) from those that are not hidden.

        Args:
            keypoints: (B, F, K, 2).
            hidden_frames: (F,) True where a frame is hidden. hidden_keypoints: (F, K) True where a keypoint is. Both
                lie on the CPU, so that nothing waits for the device to tell how many there are.
        """
        device = keypoints.device
        x = torch.where(hidden_keypoints[..., None].to(device), self.spatial_mask_token, keypoints)
        # Hidden frames take part in the statistics of the encoder's batch norms, as in the published code.
        x = self.encoder(x.flatten(2).mT).mT + self.Transformer.pos_embedding  # (B, F, C)
        seen = (~hidden_frames).nonzero()[:, 0].to(device)  # (V,)
        x = x[:, seen].to(self.tokens or x.dtype)
        for block in self.Transformer.model.layers:
            x = self.through(block, x)
        x = F.linear(self.encoder_LN(x), self.encoder_to_decoder.weight.to(x.dtype))  # (B, V, C / 2)
        # The published code puts the seen frames before the hidden ones; nothing from here on knows an order.
        tokens = self.mask_token.to(x.dtype).expand(len(x), self.frames, -1).index_copy(1, seen, x)
        tokens = tokens + self.dec_pos_embedding.to(x.dtype)
        for block in self.Transformer_dec.model.layers:
            tokens = self.through(block, tokens)
        return self.fcn_dec(tokens.to(keypoints.dtype).mT).mT.unflatten(-1, (self.keypoints, 2))


def draw_masks(frames: int, hidden_frames: int, keypoints: int, hidden_keypoints: int,
               generator: torch.Generator | None = None, sure: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw which frames of a window are hidden, (F,) bool, and which keypoints of each frame, (F, K) bool.

    Args:
        frames, keypoints: F and K. hidden_frames: how many of the frames. hidden_keypoints: how many of each frame's
            keypoints, of which the last one is never hidden.
        generator: torch's default one where None.
        sure: a frame that is among the hidden ones, if there are any.
    """
    order = torch.randperm(frames, generator=generator)
    if sure is not None:
        order = torch.cat([order[order == sure], order[order != sure]])
    hidden = torch.zeros(frames, dtype=torch.bool)
    hidden[order[:hidden_frames]] = True
    order = torch.rand(frames, keypoints - 1, generator=generator).argsort(dim=1)
    points = torch.zeros(frames, keypoints, dtype=torch.bool)
    return hidden, points.scatter(1, order[:, :hidden_keypoints], True)
