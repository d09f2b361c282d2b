"""Parts of DSTformer and MotionAGFormer: two streams that look at the same tokens, and what is made of both.

Source: Zhu et al., "MotionBERT: A Unified Perspective on Learning Human Motion Representations", ICCV 2023, whose
input, fusion, head, loss and training windows Mehraban, Adeli and Taati, "MotionAGFormer", WACV 2024, share. Letters: B
windows, F frames, K keypoints in, J joints out, C channels, R channels of the representation.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from common.models.layers import LayerNorm, joints_from_keypoints
from common.models.lifter import Lifter
from common.skeleton import Skeleton
from common.windows import fitting_starts

STEPS_OF_A_WINDOW = 3  # training windows start a third of a window apart
# The remark of published figures of these models.
SCALED = 'in 2.5D, scaled by the true depth of the root'


class Fusion(nn.Module):
    """The mean of two streams, weighed anew at each token by what both have there; equally, to begin with."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, 2 * channels))
        self.bias = nn.Parameter(torch.full((2,), 0.5))

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Return w₀ a + w₁ b with (w₀, w₁) = softmax(Linear([a, b])): (..., C) twice -> (..., C)."""
        # Of two weights that add up to 1, the first depends on the difference of their logits alone.
        of_a, of_b = (self.weight[0] - self.weight[1]).to(a.dtype).chunk(2)
        bias = (self.bias[:1] - self.bias[1:]).to(a.dtype)
        return torch.lerp(b, a, torch.sigmoid(F.linear(a, of_a[None], bias) + F.linear(b, of_b[None])))


class Representation(nn.Module):
    """tanh(Linear(C, R)), under the name that the layer has in public files."""

    def __init__(self, channels: int, representation: int):
        super().__init__()
        self.fc = nn.Linear(channels, representation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x (..., C) -> (..., R)."""
        return torch.tanh(self.fc(x))


class TwoStreams(Lifter):
    """(B, F, K, 3) normalised screen coordinates and confidence -> (B, F, J, 3), relative to the root.

    In metres and camera axes where it was trained on such poses; public files predict other targets (`public_data`).
    """

    needs = frozenset({'confidence'})
    public_data = 'motion3d'
    mirrored_at_random = True

    def __init__(self, config: Any, skeleton: Skeleton, layout: Skeleton, eps: float):
        """Make what is around the streams.

        Args:
            config: with channels and representation. eps: of the norm behind the streams.
        """
        super().__init__(config)
        self.keypoints, channels = len(layout), config.channels
        self.joints_embed = nn.Linear(3, channels)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.keypoints, channels))
        self.norm = LayerNorm(channels, eps)
        self.correspondence = joints_from_keypoints(skeleton, layout)
        self.head = nn.Linear(config.representation, 3)

    def training_starts(self, length: int, answered: int, step: int | None = None) -> np.ndarray:
        """Return where training windows start: every third of a window, as long as they fit into the sequence."""
        return fitting_starts(length, answered, step or max(1, answered // STEPS_OF_A_WINDOW))

    def streams(self, x: torch.Tensor) -> torch.Tensor:
        """Put tokens through all blocks: x (B, F, K, C) -> (B, F, K, C)."""
        raise NotImplementedError

    def represent(self, x: torch.Tensor) -> torch.Tensor:
        """Make the representation of normalised tokens: x (B, F, J, C) -> (B, F, J, R)."""
        raise NotImplementedError

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Embed keypoints with confidence (B, F, K, 3) as tokens (B, F, K, C). Raises ValueError for other shapes."""
        if x.ndim != 4 or x.shape[2:] != (self.keypoints, 3):
            raise ValueError(f'expected keypoints with confidence (B, F, {self.keypoints}, 3), got {tuple(x.shape)}')
        return self.joints_embed(x) + self.pos_embed

    def representation(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the network knows of each joint, from keypoints (B, F, K, 3) -> (B, F, J, R)."""
        tokens = self.embed(x)
        tokens = self.norm(self.streams(tokens.to(self.tokens or tokens.dtype))).to(tokens.dtype)
        if self.correspondence is not None:
            tokens = torch.matmul(self.correspondence, tokens)  # (J, K) @ (B, F, K, C)
        return self.represent(tokens)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Lift keypoints with confidence (B, F, K, 3) -> (B, F, J, 3)."""
        return self.head(self.representation(x))
