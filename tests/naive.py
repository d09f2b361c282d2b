"""A second, deliberately naive implementation of the KTPFormer model, its loss, its windows and its test protocols.

It is an oracle for the tests: slow, without any shared code, and written so that every formula can be read off.
Letters: B batch, F frames of a window, J joints, C channels, T frames of a sequence, N number of graph nodes or frames.
"""
import math

import numpy as np
import torch

H36M_PARENTS = [-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 8, 11, 12, 8, 14, 15]
H36M_EDGES = [(joint, parent) for joint, parent in enumerate(H36M_PARENTS) if parent >= 0]
H36M_LEFT, H36M_RIGHT = [4, 5, 6, 11, 12, 13], [1, 2, 3, 14, 15, 16]

# per subject and camera: quaternion (w, x, y, z) rotating camera -> world, place of the camera in the world in mm
H36M_EXTRINSICS = {
    'S1': [((0.14070565, -0.15007018, -0.7552408, 0.62232804), (1841.107, 4955.2847, 1563.4454)),
           ((0.6157188, -0.7648363, -0.14833826, 0.11794741), (1761.2786, -5078.007, 1606.265)),
           ((0.14651473, -0.14647852, 0.76530236, -0.60941756), (-1846.7777, 5215.0464, 1491.9724)),
           ((0.58340085, -0.7853162, 0.14548823, -0.14749594), (-1794.7897, -3722.699, 1574.8927))],
    'S9': [((0.15540588, -0.15548216, -0.75320953, 0.6199595), (2044.4585, 4935.117, 1481.2275)),
           ((0.6187845, -0.7634735, -0.14132239, 0.11933968), (1990.9597, -5123.8105, 1568.8048)),
           ((0.13357827, -0.13671005, 0.76894546, -0.61007386), (-1670.9922, 5211.986, 1528.388)),
           ((0.5879399, -0.7823407, 0.14276144, -0.1479487), (-1696.0435, -3827.0999, 1591.4127))],
    'S11': [((0.15232472, -0.1544232, -0.75475633, 0.619107), (2098.4402, 4926.5547, 1500.2786)),
            ((0.61894494, -0.7600917, -0.15300633, 0.12552583), (2083.1824, -4912.173, 1561.0786)),
            ((0.14943229, -0.15650228, 0.7681234, -0.60263044), (-1609.8153, 5177.336, 1537.8967)),
            ((0.58942515, -0.7818877, 0.13991211, -0.14715362), (-1590.738, -3854.169, 1578.0176))]}
H36M_IMAGE_SIZE = [(1000, 1002), (1000, 1000), (1000, 1000), (1000, 1002)]  # width, height per camera


def adjacency(n, edges):
    """(n, n) float64 array of 0/1 edges, each row divided by its sum, and then a diagonal of ones."""
    a = np.zeros((n, n))
    for i, j in edges:
        a[i, j] = a[j, i] = 1
    for i in range(n):
        a[i] /= max(a[i].sum(), 1)
        a[i, i] = 1
    return a


def linear(s, name, x):
    """(..., Cin) -> (..., Cout) with s[name + '.weight'] (Cout, Cin) and s[name + '.bias'] (Cout,)."""
    return x @ s[name + '.weight'].T + s[name + '.bias']


def layer_norm(s, name, x, eps):
    """(..., C) -> (..., C), normalised over C."""
    x = x - x.mean(-1, keepdim=True)
    return x / torch.sqrt((x ** 2).mean(-1, keepdim=True) + eps) * s[name + '.weight'] + s[name + '.bias']


def batch_norm(s, name, x, train, running):
    """(..., C) -> (..., C); statistics over all leading axes (train) or the stored ones. Fills `running`."""
    if train:
        flat = x.reshape(-1, x.shape[-1])
        centre, variance = flat.mean(0), flat.var(0, unbiased=False)
        if running is not None:
            running[name + '.running_mean'] = (0.9 * s[name + '.running_mean'] + 0.1 * centre).detach()
            spread = flat.var(0, unbiased=True)
            running[name + '.running_var'] = (0.9 * s[name + '.running_var'] + 0.1 * spread).detach()
            running[name + '.num_batches_tracked'] = s[name + '.num_batches_tracked'] + 1
    else:
        centre, variance = s[name + '.running_mean'], s[name + '.running_var']
    return (x - centre) / torch.sqrt(variance + 1e-5) * s[name + '.weight'] + s[name + '.bias']


def graph_conv(s, name, x, a):
    """Modulated graph convolution (..., N, Cin) -> (..., N, Cout) on the adjacency a (N, N)."""
    g = torch.as_tensor(a).to(x) + s[name + '.adj2']
    g = (g + g.T) / 2
    own = s[name + '.M'] * (x @ s[name + '.W'][0])
    other = s[name + '.M'] * (x @ s[name + '.W'][1])
    nodes = []
    for i in range(len(g)):
        rest = [j for j in range(len(g)) if j != i]
        nodes.append(g[i, i] * own[..., i, :] + (g[i, rest].unsqueeze(-1) * other[..., rest, :]).sum(-2))
    return torch.stack(nodes, dim=-2) + s[name + '.bias']


def attention(s, name, x, heads):
    """Multi-head self-attention over the second-to-last axis, (..., N, C) -> (..., N, C)."""
    c, d = x.shape[-1], x.shape[-1] // heads
    qkv = linear(s, name + '.qkv', x)
    outputs = []
    for h in range(heads):
        q, k, v = [qkv[..., part * c + h * d:part * c + (h + 1) * d] for part in range(3)]
        outputs.append(torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(d), dim=-1) @ v)
    return linear(s, name + '.proj', torch.cat(outputs, dim=-1))


def mlp(s, name, x):
    """(..., C) -> (..., C) through 2C with the exact GELU."""
    x = linear(s, name + '.fc1', x)
    return linear(s, name + '.fc2', x * 0.5 * (1 + torch.erf(x / math.sqrt(2))))


def block(s, name, x, over, heads, drop_path, norm1, eps1):
    """Pre-norm transformer block on x (B, F, J, C); `over` is 'joints' or 'frames', the axis attention runs along."""
    b, f, j, _ = x.shape
    draw = ('frames-of-window', (b, f, 1, 1)) if over == 'joints' else ('joint-tracks', (b, 1, j, 1))
    drop_path = drop_path or (lambda *_: 1)
    y = layer_norm(s, norm1, x, eps1)
    if over == 'joints':
        y = attention(s, name + '.attn', y, heads)
    else:
        y = attention(s, name + '.attn', y.transpose(1, 2), heads).transpose(1, 2)
    x = x + drop_path(name + '.attn', *draw) * y
    y = mlp(s, name + '.mlp', layer_norm(s, name + '.norm2', x, 1e-6))
    return x + drop_path(name + '.mlp', *draw) * y


def ktpformer(state, x, *, heads=8, adjacency_joints, drop_path=None, train=False, kpa=True, tpa=True, running=None):
    """KTPFormer (CVPR 2024) as a function: x (B, F, J, 2) -> (B, F, J, 3).

    state: public-layout state dict of arrays or tensors, whose dtype is the one computed in. adjacency_joints: (J, J).
    drop_path: None, or (name, where, shape) -> multiplicative mask, where name is e.g. 'STEblocks.0.mlp', where is
    'frames-of-window' with shape (B, F, 1, 1) or 'joint-tracks' with shape (B, 1, J, 1). train: BatchNorm takes the
    statistics of the batch; `running`, if given a dict, then receives the BatchNorm buffers after the update.
    kpa=False: a linear layer in the place of KPA. tpa=False: nothing in the place of TPA.
    """
    s = {key: torch.as_tensor(value) for key, value in state.items()}
    x = torch.as_tensor(x).to(s['head.1.weight'])
    depth = sum(1 for key in s if key.startswith('STEblocks.') and key.endswith('.norm1.weight'))
    adjacency_frames = adjacency(x.shape[1], [(t, t - 1) for t in range(1, x.shape[1])])

    name = 'kpattention.attn.kpa'
    if kpa:
        x = graph_conv(s, name + '.gconv', x, adjacency_joints)
        x = torch.relu(batch_norm(s, name + '.bn', x, train, running))
    else:
        x = linear(s, name, x)
    x = x + s['kpattention.attn.Spatial_pos_embed']                    # (1, J, C)
    x = block(s, 'kpattention', x, 'joints', heads, drop_path, 'kpattention.attn.norm1', 1e-5)
    x = layer_norm(s, 'Spatial_norm', x, 1e-6)

    if tpa:
        y = x.transpose(1, 2)                                          # (B, J, F, C)
        for name in ('tpattention.attn.tpa.gconv1', 'tpattention.attn.tpa.gconv2'):
            y = graph_conv(s, name + '.gconv', y, adjacency_frames)
            y = torch.relu(batch_norm(s, name + '.bn', y, train, running))
        x = x + y.transpose(1, 2)
    x = x + s['tpattention.attn.Temporal_pos_embed'].unsqueeze(2)      # (1, F, 1, C)
    x = block(s, 'tpattention', x, 'frames', heads, drop_path, 'tpattention.attn.norm1', 1e-5)
    x = layer_norm(s, 'Temporal_norm', x, 1e-6)

    for i in range(depth):
        x = block(s, f'STEblocks.{i}', x, 'joints', heads, drop_path, f'STEblocks.{i}.norm1', 1e-6)
        x = layer_norm(s, 'Spatial_norm', x, 1e-6)
        x = block(s, f'TTEblocks.{i}', x, 'frames', heads, drop_path, f'TTEblocks.{i}.norm1', 1e-6)
        x = layer_norm(s, 'Temporal_norm', x, 1e-6)
    return linear(s, 'head.1', layer_norm(s, 'head.0', x, 1e-5))


def h36m_weights():
    """The 17 published loss weights, in the Human3.6M joint order."""
    return [1, 1, 2.5, 2.5, 1, 2.5, 2.5, 1, 1, 1, 1.5, 1.5, 4, 4, 1.5, 4, 4]


def loss_parts(p, y, weights):
    """Predictions and targets (B, F, J, 3), J weights -> dict of four scalars; differences of one frame count 0."""
    p, y = torch.as_tensor(p), torch.as_tensor(y)
    b, f, j, _ = p.shape
    position = smooth = velocity = (p * 0).sum()
    for t in range(f):
        for k in range(j):
            position = position + float(weights[k]) * torch.linalg.vector_norm(p[:, t, k] - y[:, t, k], dim=-1).sum()
            if t + 1 < f:
                dp, dy = p[:, t + 1, k] - p[:, t, k], y[:, t + 1, k] - y[:, t, k]
                smooth = smooth + float(weights[k]) * (dp ** 2).sum()
                velocity = velocity + torch.linalg.vector_norm(dp - dy, dim=-1).sum()
    position = position / (b * f * j)
    smooth = smooth / (b * max(f - 1, 1) * j * 3)
    velocity = velocity / (b * max(f - 1, 1) * j)
    return {'weighted_mpjpe': position, 'temporal_consistency': smooth, 'mpjve': velocity,
            'total': position + 0.5 * smooth + 2.0 * velocity}


def frames_of(a):
    """(..., J, 3) array or tensor -> (N, J, 3) float64 array."""
    a = np.asarray(a.detach().cpu() if torch.is_tensor(a) else a, dtype=np.float64)
    return a.reshape(-1, *a.shape[-2:])


def weighted(pairs):
    """[(value or None, weight)] -> weighted mean without the None entries; None when nothing is left."""
    pairs = [(value, weight) for value, weight in pairs if value is not None]
    return sum(v * w for v, w in pairs) / sum(w for _, w in pairs) if pairs else None


def mean(values):
    """Plain mean of the values that are not None; None when nothing is left."""
    return weighted([(value, 1) for value in values])


def distance(p, y):
    """Mean over joints of the Euclidean distance of two poses (J, 3)."""
    return sum(math.sqrt(sum((p[j] - y[j]) ** 2)) for j in range(len(p))) / len(p)


def mpjpe(p, y):
    """Mean distance over all frames of (..., J, 3)."""
    return mean([distance(a, b) for a, b in zip(frames_of(p), frames_of(y), strict=True)])


def procrustes(p, y):
    """Pose p (J, 3) moved, turned and scaled so as to come closest to y (J, 3)."""
    p0, y0 = p - p.mean(0), y - y.mean(0)
    u, sigma, vt = np.linalg.svd(p0.T @ y0)
    if np.linalg.det(u @ vt) < 0:
        u[:, -1] = -u[:, -1]
        sigma[-1] = -sigma[-1]
    return sigma.sum() / (p0 ** 2).sum() * p0 @ (u @ vt) + y.mean(0)


def p_mpjpe(p, y):
    """Mean distance over all frames of (..., J, 3), each predicted pose aligned with its target first."""
    return mean([distance(procrustes(a, b), b) for a, b in zip(frames_of(p), frames_of(y), strict=True)])


def n_mpjpe(p, y):
    """Mean distance over all frames of (..., J, 3), each predicted pose scaled by its best factor first."""
    return mean([distance((a * b).sum() / (a * a).sum() * a, b)
                 for a, b in zip(frames_of(p), frames_of(y), strict=True)])


def mpjve_flat(p, y):
    """Mean error of the first differences over the flattened frames of (..., J, 3); None for a single frame."""
    p, y = frames_of(p), frames_of(y)
    return mean([distance(p[t + 1] - p[t], y[t + 1] - y[t]) for t in range(len(p) - 1)])


def chunk_starts(T, F):
    """First frames of the training windows of a sequence of T frames; they may lie outside it at both ends."""
    n = math.ceil(T / F)
    return [k * F - (n * F - T) // 2 for k in range(n)]


def test_starts(T, F):
    """First frames of the test windows: 0, F, 2F, ..., and a last one that ends at frame T."""
    starts = [start for start in range(0, T, F) if start + F <= T] or [0]
    if starts[-1] + F < T:
        starts.append(T - F)
    return starts


test_starts.__test__ = False  # keep pytest from collecting it


def take(array, start, F):
    """(T, ...) -> (F, ...): frames start ... start + F - 1, the first or last frame standing in for those outside."""
    return np.stack([array[min(max(t, 0), len(array) - 1)] for t in range(start, start + F)])


def epoch_windows(lengths, F):
    """[(sequence, start, flip)]: for each sequence all its windows, then all of them flipped."""
    return [(sequence, start, flip)
            for sequence, T in enumerate(lengths) for flip in (False, True) for start in chunk_starts(T, F)]


def epoch_order(n, epoch_index):
    """Permutation of n windows in epoch 0, 1, ... of a run."""
    random = np.random.RandomState(1234)
    return [random.permutation(n) for _ in range(epoch_index + 1)][epoch_index]


def mirror(a, left, right):
    """(..., J, 2 or 3) array -> the mirrored one: x negated, left and right joints swapped."""
    flipped = a.copy()
    for i, j in zip(left, right, strict=True):
        flipped[..., i, :], flipped[..., j, :] = a[..., j, :], a[..., i, :]
    flipped[..., 0] *= -1
    return flipped


def predict(model, sequence, F, kp_left, kp_right, joints_left, joints_right):
    """[(start, p, y)] over the test windows, p the average of plain and flipped prediction; p and y (F, J, 3) in mm."""
    windows = []
    for start in test_starts(len(sequence['poses']), F):
        x, y = take(sequence['keypoints'], start, F), take(sequence['poses'], start, F)
        with torch.no_grad():
            plain = model(torch.as_tensor(x)[None])[0].cpu().double().numpy()
            flipped = model(torch.as_tensor(mirror(x, kp_left, kp_right))[None])[0].cpu().double().numpy()
        p = (plain + mirror(flipped, joints_left, joints_right)) / 2
        windows.append((start, 1000 * p, 1000 * y.astype(np.float64)))
    return windows


def evaluate(model, sequences, F, kp_left, kp_right, joints_left, joints_right):
    """Both test protocols, in mm: {'paper' | 'exact': {action or 'average': {mpjpe, p_mpjpe, n_mpjpe, mpjve}}}.

    model: (1, F, J, 2) -> (1, F, J, 3) tensors. sequences: dicts with action, keypoints (T, J, 2), poses (T, J, 3).
    """
    metrics = {'mpjpe': mpjpe, 'p_mpjpe': p_mpjpe, 'n_mpjpe': n_mpjpe, 'mpjve': mpjve_flat}
    collected = {'paper': {}, 'exact': {}}                             # action -> metric -> [(value, weight)]
    for sequence in sequences:
        action = sequence['action'].split(' ')[0]
        every, once = [], {}                                           # all frames of all windows; frame -> its first
        for start, p, y in predict(model, sequence, F, kp_left, kp_right, joints_left, joints_right):
            for i in range(F):
                every.append((p[i], y[i]))
                if start + i < len(sequence['poses']) and start + i not in once:
                    once[start + i] = (p[i], y[i])
        for protocol, frames in (('paper', every), ('exact', [once[t] for t in sorted(once)])):
            p, y = np.stack([a for a, _ in frames]), np.stack([b for _, b in frames])
            for metric, function in metrics.items():
                weight = len(p) - 1 if (protocol, metric) == ('exact', 'mpjve') else len(p)
                collected[protocol].setdefault(action, {}).setdefault(metric, []).append((function(p, y), weight))
    for table in collected.values():
        for action in table:
            table[action] = {metric: weighted(table[action][metric]) for metric in metrics}
        table['average'] = {metric: mean([row[metric] for row in table.values()]) for metric in metrics}
    return collected


def validation_figures(model, sequences, F, kp_left, kp_right, joints_left, joints_right):
    """(valid_mpjpe, valid_mpjve) in mm, pooled over all test windows; the second inside windows, None for F = 1."""
    windows = [(p, y) for sequence in sequences
               for _, p, y in predict(model, sequence, F, kp_left, kp_right, joints_left, joints_right)]
    return mean([mpjpe(p, y) for p, y in windows]), mean([mpjve_flat(p, y) for p, y in windows])


def rotate(q, v):
    """Rotate the vectors v (..., 3) by the unit quaternion q = (w, x, y, z)."""
    u = np.asarray(q[1:])
    return v + 2 * (q[0] * np.cross(u, v) + np.cross(u, np.cross(u, v)))


def tiny_sequences(folder, keypoints, subjects):
    """Sequences of a folder in the Human3.6M layout, in the order subject, action of the 2D file, camera.

    Each is a dict(subject, action, camera, keypoints (T, 17, 2) normalised, poses (T, 17, 3) metres, root 0), float32.
    """
    keep = [0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27]
    world = np.load(f'{folder}/data_3d_h36m.npz', allow_pickle=True)['positions_3d'].item()
    screen = np.load(f'{folder}/data_2d_h36m_{keypoints}.npz', allow_pickle=True)['positions_2d'].item()
    sequences = []
    for subject in subjects:
        for action, cameras in screen[subject].items():
            for camera, pixels in enumerate(cameras):
                (w, x, y, z), place = H36M_EXTRINSICS[subject][camera]
                joints = rotate((w, -x, -y, -z), world[subject][action][:, keep] - np.array(place) / 1000)
                poses = joints - joints[:, :1]
                width, height = H36M_IMAGE_SIZE[camera]
                uv = pixels[:len(poses), :, :2].astype(np.float64) * 2 / width - [1, height / width]
                sequences.append({'subject': subject, 'action': action, 'camera': camera,
                                  'keypoints': uv.astype(np.float32), 'poses': poses.astype(np.float32)})
    return sequences
