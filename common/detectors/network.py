"""MoveNet SinglePose by Google, as a torch module that reads the weights of its published graph.

https://www.tensorflow.org/hub/tutorials/movenet; weights and graph: `common/detectors/weights/` (see its NOTICE). A
MobileNetV2, features brought back to a quarter of the picture's size, and four heads there: where a person's middle
is, where the keypoints lie from it, how likely each keypoint is at each place, and what each place is off by.

Letters: B pictures, S their side in pixels, G = S / 4 the side of the grid of the heads, K = 17 keypoints (COCO's).
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from common.storage.files import read_regular, readable

FOLDER = Path(__file__).parent / 'weights'
KEYPOINTS = 17
DTYPES: dict[str, np.dtype[Any]] = {'int32': np.dtype('<i4'), 'float32': np.dtype('<f4'), 'float16': np.dtype('<f2')}
GRAPH = 'StatefulPartitionedCall/'
FEATURES = f'{GRAPH}center_net_mobile_net_v2fpn_feature_extractor/model_1/'
# Each has a separable convolution and a plain one, which the graph numbers from 3 and from 4 in this order.
HEADS = {'center': 'center_0', 'heatmap': 'kpt_heatmap_0', 'regress': 'kpt_regress_0', 'offset': 'kpt_offset_0'}
HALVING = (1, 3, 6, 13)  # blocks of the backbone that halve the picture, after its first convolution
TAPS = (2, 5, 9)  # blocks whose features are kept, before the picture is halved again
NEAR = 1.8  # cells: how far a keypoint may be from where its person says it is, before that counts against it


class Convolution(nn.Module):
    """A convolution with TensorFlow's padding `SAME`, and what follows it.

    TensorFlow adds the odd row and column behind the picture, torch both before and behind it.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, stride: int = 1, depthwise: bool = False,
                 most: float | None = None):
        """Take weights (height, width, in, out), or (height, width, channels, 1) of a depthwise one.

        Args:
            most: the largest output, of a ReLU that has one; infinite for a plain one, None for no ReLU.
        """
        super().__init__()
        order = (2, 3, 0, 1) if depthwise else (3, 2, 0, 1)
        self.weight = nn.Parameter(weight.permute(*order).contiguous(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.stride, self.most = stride, most
        self.groups = weight.shape[2] if depthwise else 1
        self.side = weight.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, H, W) to (B, out, H / stride, W / stride)."""
        before, behind = same_padding(x.shape[-1], self.side, self.stride)
        if before != behind:
            x, before = functional.pad(x, (before, behind, before, behind)), 0
        x = functional.conv2d(x, self.weight, self.bias, self.stride, before, groups=self.groups)
        if self.most is None:
            return x
        return x.relu_() if self.most == math.inf else x.clamp_(0, self.most)


def same_padding(size: int, side: int, stride: int) -> tuple[int, int]:
    """Return the zeros before and behind `size` pixels with which a kernel of `side` gives ceil(size / stride)."""
    total = max(0, (math.ceil(size / stride) - 1) * stride + side - size)
    return total // 2, total - total // 2


class MoveNet(nn.Module):
    """MoveNet of either size, Lightning or Thunder: the weights say which."""

    def __init__(self, weights: dict[str, Tensor]):
        """Build the network of weights by their names in the graph. Raises KeyError where one is missing."""
        super().__init__()
        self._weights = weights
        self.first = self._folded('Conv1', stride=2, most=6)
        self.blocks = nn.ModuleList(self._block(number) for number in range(17))
        self.last = self._folded('Conv_1', most=6)
        self.sides = nn.ModuleList(self._plain(f'{FEATURES}conv2d{nth}/') for nth in ('', '_1', '_2', '_3'))
        self.mixed = nn.ModuleList(self._separable(f'{FEATURES}separable_conv2d{nth}/') for nth in ('', '_1', '_2'))
        self.heads = nn.ModuleDict({
            name: nn.Sequential(self._separable(f'{GRAPH}{scope}/separable_conv2d_{3 + index}/'),
                                self._plain(f'{GRAPH}{scope}/conv2d_{4 + index}/'))
            for index, (name, scope) in enumerate(HEADS.items())})
        self.central: Tensor  # (G, G): the weight of each place, most in the middle
        self.register_buffer('central', weights[f'ConstantFolding/{GRAPH}truediv_2_recip'][..., 0])
        del self._weights

    @property
    def side(self) -> int:
        """Return S, the side of its pictures in pixels."""
        return 4 * len(self.central)

    def _folded(self, name: str, stride: int = 1, most: float | None = None, depthwise: bool = False) -> Convolution:
        """Return a convolution of the backbone, into which its batch norm has been folded."""
        start = f'{FEATURES}model/{name}/{"depthwise" if depthwise else "Conv2D"}'
        return Convolution(self._weights[f'{start}_weights'], self._weights[f'{start}_bn_offset'], stride, depthwise,
                           most)

    def _block(self, number: int) -> nn.Sequential:
        """Return an inverted residual of MobileNetV2: wider, over space, narrower."""
        name = f'block_{number}_' if number else 'expanded_conv_'
        wider = [self._folded(f'{name}expand', most=6)] if number else []
        return nn.Sequential(*wider, self._folded(f'{name}depthwise', 2 if number in HALVING else 1, 6, depthwise=True),
                             self._folded(f'{name}project'))

    def _plain(self, scope: str) -> Convolution:
        return Convolution(self._weights[f'{scope}Conv2D/ReadVariableOp'],
                           self._weights[f'{scope}BiasAdd/ReadVariableOp'])

    def _separable(self, scope: str) -> nn.Sequential:
        """Return a convolution over space and one over channels, with a ReLU behind."""
        inner = f'{scope}separable_conv2d'
        names = f'{inner}_weights', f'{inner}_bn_offset'  # where a batch norm has been folded into it
        if names[0] not in self._weights:
            names = f'{inner}/ReadVariableOp_1', f'{scope}BiasAdd/ReadVariableOp'
        over_channels, bias = (self._weights[name] for name in names)
        return nn.Sequential(Convolution(self._weights[f'{inner}/ReadVariableOp'], None, depthwise=True),
                             Convolution(over_channels, bias, most=math.inf))

    def forward(self, pictures: Tensor) -> Tensor:
        """Return y, x in shares of the picture and a score, (B, K, 3) float32, of (B, S, S, 3) uint8 RGB."""
        x = pictures.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
        x, kept = self.first(x), []
        for number, block in enumerate(self.blocks):
            y = block(x)
            x = y.add_(x) if y.shape == x.shape else y
            if number in TAPS:
                kept.append(x)
        x = self.sides[0](self.last(x))
        for side, mixed, tap in zip(self.sides[1:], self.mixed, reversed(kept), strict=True):
            x = mixed(side(tap) + functional.interpolate(x, scale_factor=2, mode='bilinear', align_corners=False))
        return self._decoded(**{name: head(x).flatten(2) for name, head in self.heads.items()})

    def _decoded(self, center: Tensor, heatmap: Tensor, regress: Tensor, offset: Tensor) -> Tensor:
        """Return (B, K, 3) of what the heads say of the G² places of the grid, row by row.

        Args:
            center: (B, 1, G²). heatmap: (B, K, G²). regress, offset: (B, 2 K, G²), y and x of each keypoint.
        """
        batch, side = len(center), len(self.central)
        middle = (center.sigmoid() * self.central.flatten()).argmax(-1)  # (B, 1)
        far = regress.gather(2, middle[..., None].expand(-1, 2 * KEYPOINTS, 1)).view(batch, KEYPOINTS, 2)
        expected = far + torch.stack([middle // side, middle % side], -1)  # (B, K, 2) cells
        cells = torch.arange(side, dtype=torch.float32, device=center.device)
        away = ((cells[:, None] - expected[..., :1, None]) ** 2 + (cells - expected[..., 1:, None]) ** 2).sqrt()
        scores = heatmap.sigmoid()
        best = (scores / (away.flatten(2) + NEAR)).argmax(-1, keepdim=True)  # (B, K, 1)
        beside = offset.view(batch, KEYPOINTS, 2, -1).gather(3, best[..., None].expand(-1, -1, 2, 1))[..., 0]
        places = torch.cat([best // side, best % side], -1) + beside
        return torch.cat([places / side, scores.gather(2, best)], -1)


def load_movenet(name: str = 'thunder', folder: Path = FOLDER) -> MoveNet:
    """Return the network of `movenet-NAME.json` and `.bin`. Raises FileError for a file that is missing or damaged."""
    path = folder / f'movenet-{name}.json'
    with readable(path, 'graph of MoveNet'):
        weights = _weights(json.loads(read_regular(path)), read_regular(path.with_suffix('.bin')))
        return MoveNet(weights).eval()


def _weights(graph: dict, data: bytes) -> dict[str, Tensor]:
    """Return the weights by name, float32, which lie one behind the other in the order of the graph's manifest.

    Raises ValueError where the bytes are not as many as the manifest says.
    """
    found, at = {}, 0
    for entry in (entry for group in graph['weightsManifest'] for entry in group['weights']):
        dtype = DTYPES[entry['quantization']['dtype'] if 'quantization' in entry else entry['dtype']]
        values = np.frombuffer(data, dtype, math.prod(entry['shape']), at).reshape(entry['shape'])
        at += values.nbytes
        found[entry['name']] = torch.from_numpy(values.astype(np.float32))
    if at != len(data):
        raise ValueError(f'its weights have {len(data):,} bytes, expected {at:,}')
    return found
