"""A second, deliberately naive implementation of STCFormer in both published forms, and of its training windows.

It is an oracle for the tests: slow, without any code shared with the package, and written so that every formula can be
read off. Letters: B batch, F frames, K keypoints, J joints, C channels, H heads, E = C / 2, e = E / H.
"""
import math

import torch
from naive import layer_norm, linear

dropout_rate, part_rate = 0.1, 0.5
# by joint, in the order of Human3.6M and of MPI-INF-3DHP
H36M_PARTS = [0, 1, 1, 1, 2, 2, 2, 0, 0, 0, 0, 3, 3, 3, 4, 4, 4]
OF_3DHP_PARTS = [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 0, 0, 0]
NAMES = {
    'stcformer': {'block': 'stcformer.stc_block', 'att': 'stc_att', 'spatial': 'sep2_s', 'temporal': 'sep2_t',
                  'norm': 'layer_norm', 'mlp': 'mlp', 'head': 'regress_head'},
    'stcformer_3dhp': {'block': 'mlpmixer.mixerblocks', 'att': 'cross_att', 'spatial': 'gate_s', 'temporal': 'gate_t',
                       'norm': 'layer_norm1', 'mlp': 'mlp1', 'head': 'pose_lift'}}


def gelu(x):
    """Exact GELU."""
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def local_term(s, name, v):
    """(B, F, K, E) -> (B, F, K, E): each channel's own 3 x 3 weights over frames and joints, zeros outside."""
    b, f, k, e = v.shape
    around = torch.zeros(b, f + 2, k + 2, e, dtype=v.dtype)
    around[:, 1:-1, 1:-1] = v
    weight, out = s[name + '.weight'], torch.zeros_like(v)
    for df in range(3):
        for dk in range(3):
            out = out + around[:, df:df + f, dk:dk + k] * weight[:, 0, df, dk]
    return out + s[name + '.bias']


def criss_cross(s, name, x, kind, heads, parts, part_scale):
    """(B, F, K, C) -> (B, F, K, C), the input not added."""
    c = x.shape[-1]
    half = c // 2
    e = half // heads
    qkv = linear(s, name + '.qkv', layer_norm(s, name + '.layer_norm', x, 1e-5))
    q, k, v = qkv[..., 0::3], qkv[..., 1::3], qkv[..., 2::3]
    root = math.sqrt(half) if kind == 'stcformer' else math.sqrt(c)
    table = torch.stack([s[name + '.emb.weight'][part] for part in parts])                  # (K, e)
    local_s = local_term(s, f'{name}.{NAMES[kind]["spatial"]}', v[..., :half])
    local_t = local_term(s, f'{name}.{NAMES[kind]["temporal"]}', v[..., half:])
    pieces = []
    for h in range(heads):
        mine, its = slice(h * e, (h + 1) * e), slice(half + h * e, half + (h + 1) * e)
        over_joints = torch.softmax(torch.einsum('bfic,bfjc->bfij', q[..., mine], k[..., mine]) / root, dim=-1)
        spatial = torch.einsum('bfij,bfjc->bfic', over_joints, v[..., mine]) + local_s[..., mine]
        spatial = spatial + 1e-4 * part_scale(name, 'spatial') * table
        over_frames = torch.softmax(torch.einsum('bikc,bjkc->bkij', q[..., its], k[..., its]) / root, dim=-1)
        temporal = torch.einsum('bkij,bjkc->bikc', over_frames, v[..., its]) + local_t[..., mine]
        if kind == 'stcformer':
            temporal = temporal + 1e-9 * part_scale(name, 'temporal') * table
        pieces += [spatial, temporal]
    return linear(s, name + '.proj', torch.cat(pieces, dim=-1))


def stcformer(state, x, *, parts, kind='stcformer', heads=8, to_joints=None, scale=None, part_scale=None):
    """STCFormer (CVPR 2023) as a function: x (B, F, K, 2) -> (B, F, J, 3), the poses of all frames.

    state: public-layout state dict, whose dtype is the one computed in. kind: a key of NAMES. parts: of each keypoint.
    to_joints: (J, K), what makes joints of keypoints.
    scale: None, or (place, value) -> value times a mask, called where training drops single values, at `<mlp>.hidden`
    and `<mlp>.out`. part_scale: None, or (attention, way) -> the factor of what is known of parts of the body.
    """
    scale = scale or (lambda place, value: value)
    part_scale = part_scale or (lambda name, way: 1)
    names = NAMES[kind]
    x = gelu(torch.as_tensor(x) @ state['pose_emb.weight'].T)
    at = len(names['block'].split('.'))
    for i in range(len({key.split('.')[at] for key in state if key.startswith(names['block'] + '.')})):
        p = f'{names["block"]}.{i}'
        x = x + criss_cross(state, f'{p}.{names["att"]}', x, kind, heads, parts, part_scale)
        y, mlp = layer_norm(state, f'{p}.{names["norm"]}', x, 1e-5), f'{p}.{names["mlp"]}'
        y = scale(f'{mlp}.hidden', gelu(y @ state[f'{mlp}.fc1.weight'].T))
        x = x + scale(f'{mlp}.out', y @ state[f'{mlp}.fc2.weight'].T)
    if to_joints is not None:
        x = torch.einsum('jk,bfkc->bfjc', to_joints, x)
    return x @ state[names['head'] + '.weight'].T


def training_windows(length, frames, spacing, step):
    """The frames of each training window of a sequence, a list of lists.

    As the published generator goes: blocks of `step` frames cover the sequence, with what is too much on both sides.
    For a step of 1 the window lies around the block; otherwise it ends with the block, were its frames neighbours.
    """
    blocks = math.ceil(length / step)
    too_many = blocks * step - length
    begin, half, windows = -(too_many // 2), (frames - 1) // 2, []
    for _ in range(blocks):
        centre = begin if step == 1 else begin + step - 1 - half
        windows.append([min(max(centre + spacing * i, 0), length - 1) for i in range(-half, half + 1)])
        begin += step
    return windows
