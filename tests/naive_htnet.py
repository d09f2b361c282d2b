"""A second, deliberately naive implementation of the HTNet model and of its refinement.

It is an oracle for the tests: slow, without any code shared with the package, and written so that every formula can be
read off. Letters: B batch, F frames, N = B·F single frames, J joints, C channels, D hidden width of the MLPs.
"""
import math

import torch
from naive import attention, graph_conv, layer_norm, linear

H36M_LIMBS = [[1, 2, 3], [4, 5, 6], [11, 12, 13], [14, 15, 16]]
# ((child, parent) on the left, (child, parent) on the right)
H36M_BONE_PAIRS = [((4, 0), (1, 0)),      # pelvis–hip
                   ((5, 4), (2, 1)),      # thigh
                   ((6, 5), (3, 2)),      # shin
                   ((11, 8), (14, 8)),    # thorax–shoulder
                   ((12, 11), (15, 14)),  # upper arm
                   ((13, 12), (16, 15))]  # forearm
dropout_rate = 0.1


def drop_path_rates(depth):
    """Rates of the blocks 0 ... depth - 1, evenly spaced from 0.1 to 0.3; a single block has 0.1."""
    return [0.1 + 0.2 * i / max(depth - 1, 1) for i in range(depth)]


def gelu(x):
    """Exact GELU."""
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def mlp(s, name, x, scale):
    """(N, tokens, C) -> (N, tokens, C) through D hidden units."""
    x = scale(name + '.hidden', 'dropout', gelu(linear(s, name + '.fc1', x)))
    return scale(name + '.out', 'dropout', linear(s, name + '.fc2', x))


def conv_token(s, name, x, joints):
    """One token (N, C/3) of a convolution with one kernel tap for each of `joints`, from x (N, J, C/3)."""
    token = s[name + '.bias']
    for tap, joint in enumerate(joints):
        token = token + x[:, joint] @ s[name + '.weight'][:, :, tap].T
    return token


def part_branch(s, name, number, u, groups, places, scale):
    """One branch of IPC, u (N, J, C/3) -> (N, J, C/3).

    number: 1 or 2, the suffix of its keys. groups: for each limb the joints the convolution reads, in the order of its
    kernel taps. places: for each limb the joints that the limb's token replaces.
    """
    v = layer_norm(s, f'{name}.norm_conv{number}', u, 1e-5)
    tokens = torch.stack([conv_token(s, f'{name}.conv{number}', v, joints) for joints in groups], dim=1)
    tokens = scale(f'{name}.conv{number}', 'droppath', gelu(tokens))                       # (N, limbs, C/3)
    place = f'{name}.mlp_down_{number}'
    y = mlp(s, place, layer_norm(s, f'{name}.norm_conv{number}_mlp', tokens, 1e-5), scale)
    tokens = tokens + scale(place, 'droppath', y)
    joints = [v[:, joint] for joint in range(v.shape[1])]
    for limb, replaced in enumerate(places):
        for joint in replaced:
            joints[joint] = tokens[:, limb]
    return torch.stack(joints, dim=1)


def local_joints(s, name, x, a, scale):
    """LJC, (N, J, C/3) -> (N, J, C/3)."""
    y = gelu(graph_conv(s, name + '.gcn1', layer_norm(s, name + '.norm_gcn1', x, 1e-5), a))
    y = layer_norm(s, name + '.norm_gcn2', graph_conv(s, name + '.gcn2', y, a), 1e-5)
    return x + scale(name, 'droppath', y)


def inter_part(s, name, u, limbs, scale):
    """IPC, the sum u (N, J, C/3) of the two first parts -> the new x_i (N, J, C/3)."""
    v3 = part_branch(s, name, 1, u, limbs, [[b, c] for _, b, c in limbs], scale)
    v2 = part_branch(s, name, 2, u, [[b, c] for _, b, c in limbs], [[c] for _, _, c in limbs], scale)
    return v3 + v2 + u


def global_body(s, name, w, heads, scale):
    """GBI, the sum w (N, J, C/3) of x_g and the new x_i -> the new x_g (N, J, C/3)."""
    y = attention(s, name + '.attn', layer_norm(s, name + '.norm_attn', w, 1e-5), heads)
    return w + scale(name, 'droppath', scale(name + '.attn.proj', 'dropout', y))


def htnet(state, x, *, adjacency_joints, limbs, heads=8, scale=None):
    """HTNet (ICASSP 2023) as a function: x (B, F, J, 2) -> (B, F, J, 3).

    state: public-layout state dict of arrays or tensors, whose dtype is the one computed in. adjacency_joints: (J, J).
    limbs: four lists of three joints, from the trunk outwards, in the order of the convolution.
    scale: None (eval mode), or (place, kind, value) -> value times a mask, called where training drops something.
    value is (B·F, tokens, channels), tokens being J joints or 4 limbs. With P = 'Hiremixer.blocks.<i>', the places are
    in kind 'droppath' (one draw for each of the B·F frames)
        P.lgc                                the branch of LJC, after its second norm
        P.ipc.conv1, P.ipc.conv2             limb tokens after the GELU of the convolution
        P.ipc.mlp_down_1, P.ipc.mlp_down_2   branch of the MLP over the limb tokens
        P.gbi                                branch of the attention, after the dropout on its projection
        P.mlp                                branch of the block's MLP
    in kind 'dropout' (one draw for each element)
        <m>.hidden, <m>.out                  after the GELU and after the second Linear of every MLP <m> among
                                             P.ipc.mlp_down_1, P.ipc.mlp_down_2 and P.mlp
        P.gbi.attn.proj                      after the projection of the attention
    """
    s = {key: torch.as_tensor(value) for key, value in state.items()}
    scale = scale or (lambda place, kind, value: value)
    x = torch.as_tensor(x).to(s['fcn.weight'])
    b, f, j, _ = x.shape
    c = s['fcn.weight'].shape[1]
    depth = sum(1 for key in s if key.startswith('Hiremixer.blocks.') and key.endswith('.norm_mlp.weight'))

    x = linear(s, 'patch_embed', x.reshape(b * f, j, 2)) + s['pos_embed']              # (N, J, C)
    for i in range(depth):
        name = f'Hiremixer.blocks.{i}'
        x_l, x_i, x_g = x[..., :c // 3], x[..., c // 3:2 * c // 3], x[..., 2 * c // 3:]
        x_l = local_joints(s, name + '.lgc', x_l, adjacency_joints, scale)
        x_i = inter_part(s, name + '.ipc', x_i + x_l, limbs, scale)
        x_g = global_body(s, name + '.gbi', x_g + x_i, heads, scale)
        x = torch.cat([x_l, x_i, x_g], dim=-1)
        y = mlp(s, name + '.mlp', layer_norm(s, name + '.norm_mlp', x, 1e-6), scale)
        x = x + scale(name + '.mlp', 'droppath', y)
    return linear(s, 'fcn', layer_norm(s, 'Hiremixer.Temporal_norm', x, 1e-6)).reshape(b, f, j, 3)


def back_project(predicted, keypoints, camera, root_depth, root=0):
    """Poses (B, F, J, 3), root-relative with root 0, on the rays of `keypoints` at the depths of `predicted`.

    predicted (B, F, J, 3), keypoints (B, F, J, 2) normalised, camera (B, 9) intrinsic vectors, of which focal lengths
    (0, 1) and centre (2, 3) are used and the distortion is not; root_depth (B, F), metres in camera space.
    """
    joints = []
    for j in range(predicted.shape[2]):
        z = root_depth if j == root else predicted[:, :, j, 2] + root_depth            # (B, F)
        x = (keypoints[:, :, j, 0] - camera[:, None, 2]) * z / camera[:, None, 0]
        y = (keypoints[:, :, j, 1] - camera[:, None, 3]) * z / camera[:, None, 1]
        joints.append(torch.stack([x, y, z], dim=-1))
    return torch.stack([joint - joints[root] for joint in joints], dim=2)


def refine_trained(state, predicted, keypoints, camera, root_depth, root=0):
    """Refined poses (B, F, J, 3) in eval mode, the root as it comes; the arguments are those of `back_project`.

    The root is that of the prediction, x and y times their share s: this is what the loss sees and the golden holds.
    state: tensors or arrays under the keys 'post_refine.0.*' (6J -> 1024) and 'post_refine.3.*' (1024 -> 2J).
    """
    s = {key: torch.as_tensor(value) for key, value in state.items()}
    predicted, keypoints, camera, root_depth = [
        torch.as_tensor(value).to(s['post_refine.0.weight']) for value in (predicted, keypoints, camera, root_depth)]
    projected = back_project(predicted, keypoints, camera, root_depth, root)
    columns = []
    for j in range(predicted.shape[2]):
        columns += [predicted[:, :, j], projected[:, :, j]]
    hidden = torch.relu(linear(s, 'post_refine.0', torch.cat(columns, dim=-1)))         # (B, F, 1024)
    share = torch.sigmoid(linear(s, 'post_refine.3', hidden))                           # (B, F, 2J)
    joints = []
    for j in range(predicted.shape[2]):
        own = share[..., 2 * j:2 * j + 2]
        xy = own * predicted[:, :, j, :2] + (1 - own) * projected[:, :, j, :2]
        joints.append(torch.cat([xy, predicted[:, :, j, 2:]], dim=-1))
    return torch.stack(joints, dim=2)


def refine(state, predicted, keypoints, camera, root_depth, root=0):
    """`refine_trained` with the root set to 0, as at test: (B, F, J, 3)."""
    refined = refine_trained(state, predicted, keypoints, camera, root_depth, root)
    joints = [refined[:, :, j] * (j != root) for j in range(refined.shape[2])]
    return torch.stack(joints, dim=2)


def mpjpe(p, y):
    """Mean distance of the joints of two tensors (B, F, J, 3), in their unit."""
    return torch.linalg.vector_norm(p - y, dim=-1).mean()


def bone_symmetry(pose, pairs):
    """Sum over `pairs` of the mean absolute difference of the two bones' lengths in pose (B, F, J, 3)."""
    total = 0
    for (left, left_parent), (right, right_parent) in pairs:
        a = torch.linalg.vector_norm(pose[:, :, left] - pose[:, :, left_parent], dim=-1)
        b = torch.linalg.vector_norm(pose[:, :, right] - pose[:, :, right_parent], dim=-1)
        total = total + (a - b).abs().mean()
    return total


def refinement_loss(base, refined, target, pairs=H36M_BONE_PAIRS):
    """Loss of base and refinement trained together; all poses (B, F, J, 3) in metres."""
    return mpjpe(base, target) + mpjpe(refined, target) + 0.01 * bone_symmetry(refined, pairs)


def mirror_camera(camera):
    """Intrinsic vectors (..., 9) [fx, fy, cx, cy, k1, k2, k3, p1, p2] of the mirrored image: cx and p1 negated."""
    mirrored = camera.clone()
    mirrored[..., 2], mirrored[..., 7] = -camera[..., 2], -camera[..., 7]
    return mirrored
