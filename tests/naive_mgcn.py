"""A second, deliberately naive implementation of Modulated GCN.

It is an oracle for the tests: slow, without any code shared with the package, and written so that every formula can be
read off. Letters: N single frames, J joints, C channels.
"""
import torch
from naive import batch_norm, graph_conv

# The joints of the 16-joint body, whose neck Human3.6M's 17 have between thorax and head.
H36M16_PARENTS = [-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 8, 10, 11, 8, 13, 14]
BONES = [(0, 4, 0, 1), (4, 5, 1, 2), (5, 6, 2, 3), (8, 11, 8, 14), (11, 12, 14, 15), (12, 13, 15, 16)]


def unchanged(name, x):
    """What is done to the output of a layer without dropout."""
    return x


def graph_layer(s, name, x, a, train, running, scale):
    """(N, J, C_in) -> (N, J, C): convolution, batch norm, ReLU, and what `scale` does in place of dropout."""
    x = graph_conv(s, name + '.gconv', x, a)
    return scale(name, torch.relu(batch_norm(s, name + '.bn', x, train, running)))


def non_local(s, x, train, running):
    """(N, J, C) -> (N, J, C): each joint takes what it looks at, and adds it."""
    def convolve(name, values):
        return values @ s[f'non_local.{name}.weight'][:, :, 0, 0].T + s[f'non_local.{name}.bias']
    frames = []
    for frame in x:
        theta, phi, g = (convolve(name, frame) for name in ('theta', 'phi', 'g'))
        joints = []
        for query in theta:
            looks = torch.stack([(query * key).sum() for key in phi]).exp()
            joints.append((looks[:, None] * g).sum(0) / looks.sum())
        frames.append(torch.stack(joints))
    return x + batch_norm(s, 'non_local.W.1', convolve('W.0', torch.stack(frames)), train, running)


def mgcn(s, x, a, a_out=None, train=False, running=None, scale=unchanged):
    """(N, K, 2) keypoints -> (N, J, 3) poses. `a` (K, K) and `a_out` (J, J) are graphs; `running` collects buffers."""
    x = graph_layer(s, 'gconv_input.0', x, a, train, running, scale)
    layer = 0
    while f'gconv_layers.{layer}.gconv1.gconv.W' in s:
        y = x
        for part in ('gconv1', 'gconv2'):
            y = graph_layer(s, f'gconv_layers.{layer}.{part}', y, a, train, running, scale)
        x = x + y
        layer += 1
    if 'non_local.g.weight' in s:
        x = non_local(s, x, train, running)
    if 'correspondence' in s:
        x = s['correspondence'] @ x
    return graph_conv(s, 'gconv_output', x, a if a_out is None else a_out)


def symmetry(poses, signed):
    """The difference in length of left and right bones (N, 17, 3); `signed` as published, where both sides cancel."""
    total = 0
    for left, left_end, right, right_end in BONES:
        difference = (poses[:, left] - poses[:, left_end]).norm(dim=-1) \
            - (poses[:, right] - poses[:, right_end]).norm(dim=-1)
        total = total + (difference if signed else difference.abs()).mean()
    return total


def base_loss(predicted, target):
    """The published loss of 17 joints (N, 17, 3): 0.99 of the MPJPE, 0.01 of the mean absolute coordinate."""
    return 0.99 * (predicted - target).norm(dim=-1).mean() + 0.01 * (predicted - target).abs().mean()


def base16_loss(predicted, target):
    """The published loss of 16 joints (N, 16, 3): 0.9 of the mean square, 0.1 of the mean absolute coordinate."""
    return 0.9 * (predicted - target).square().mean() + 0.1 * (predicted - target).abs().mean()
