"""GraFormer and 3d-pose-baseline a second time, from their equations, for tests: loops and plain tensors, no modules.

Letters: N frames, K keypoints or nodes, J joints, C channels. `scale(place, value)` is asked wherever dropout may act.
"""

import torch


def unscaled(place, value):
    return value


def chebyshev(n, edges):
    """Return T_0, T_1, T_2 of a graph in float64, (3, n, n), entry by entry."""
    neighbours = [{i} for i in range(n)]
    for i, j in edges:
        neighbours[i].add(j)
        neighbours[j].add(i)
    p = torch.zeros(n, n, dtype=torch.float64)
    for i in range(n):
        for j in neighbours[i]:
            p[i, j] = 1 / len(neighbours[i])
    t1 = torch.eye(n).double() - p
    return torch.stack([torch.eye(n).double(), t1, 2 * t1 @ t1 - torch.eye(n).double()])


def cheb_conv(state, name, x, polynomials):
    """x (N, K, C_in) -> (N, K, C_out)."""
    return sum(t @ x @ w[0] for t, w in zip(polynomials, state[f'{name}.weight'], strict=True)) + state[f'{name}.bias']


def sample_norm(state, name, x):
    centred = x - x.mean(-1, keepdim=True)
    std = (centred.square().sum(-1, keepdim=True) / (x.shape[-1] - 1)).sqrt()
    return state[f'{name}.a_2'] * centred / (std + 1e-6) + state[f'{name}.b_2']


def attention(state, name, x, heads, scale):
    q, k, v = (x @ state[f'{name}.linears.{i}.weight'].T + state[f'{name}.linears.{i}.bias'] for i in range(3))
    width, weights = x.shape[-1] // heads, []
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        weights.append((q[..., part] @ k[..., part].mT / width ** 0.5).softmax(-1))
    weights = scale(f'{name}.weights', torch.stack(weights, 1))  # (N, heads, K, K)
    out = torch.cat([weights[:, h] @ v[..., h * width:(h + 1) * width] for h in range(heads)], -1)
    return out @ state[f'{name}.linears.3.weight'].T + state[f'{name}.linears.3.bias']


def learned_graph(state, name, x):
    a = state[f'{name}.A_hat']
    degree = [(sum(a[i, j] for i in range(len(a))) + 1e-5) ** -0.5 for j in range(len(a))]
    graph = torch.stack([torch.stack([degree[i] * a[i, j] * degree[j] for j in range(len(a))]) for i in range(len(a))])
    for layer in ('gconv1', 'gconv2'):
        x = graph @ x @ state[f'{name}.{layer}.fc.weight'].T + state[f'{name}.{layer}.fc.bias']
        x = x.relu() if layer == 'gconv1' else x
    return x


def graformer(state, x, heads, polynomials, polynomials_out, scale=unscaled):
    """x (N, K, 2) -> (N, J, 3)."""
    x = cheb_conv(state, 'gconv_input', x, polynomials)
    depth = 1 + max(int(key.split('.')[1]) for key in state if key.startswith('atten_layers.'))
    for n in range(depth):
        name = f'atten_layers.{n}'
        normed = sample_norm(state, f'{name}.sublayer.0.norm', x)
        x = x + scale(f'{name}.sublayer.0', attention(state, f'{name}.self_attn', normed, heads, scale))
        normed = sample_norm(state, f'{name}.sublayer.1.norm', x)
        x = x + scale(f'{name}.sublayer.1', learned_graph(state, f'{name}.feed_forward', normed))
        branch = x
        for layer in ('gconv1', 'gconv2'):
            name = f'gconv_layers.{n}.{layer}'
            branch = scale(name, cheb_conv(state, f'{name}.gconv', branch, polynomials).relu())
        x = x + branch
    if 'correspondence' in state:
        x = torch.stack([sum(w * x[:, k] for k, w in enumerate(row)) for row in state['correspondence']], 1)
    return cheb_conv(state, 'gconv_output', x, polynomials_out)


def batch_norm(state, name, x, training):
    mean, variance = state[f'{name}.running_mean'], state[f'{name}.running_var']
    if training:
        mean, variance = x.mean(0), (x - x.mean(0)).square().mean(0)
    return (x - mean) / (variance + 1e-5).sqrt() * state[f'{name}.weight'] + state[f'{name}.bias']


def martinez(state, keypoints, root, training=False, scale=unscaled):
    """Keypoints (N, K, 2) without neck -> (N, J, 3)."""
    def layer(linear, norm, x):
        x = x @ state[f'{linear}.weight'].T + state[f'{linear}.bias']
        return scale(linear, batch_norm(state, norm, x, training).clamp(min=0))
    x = ((keypoints - state['keypoints_mean']) / state['keypoints_std']).reshape(len(keypoints), -1)
    x = layer('w1', 'batch_norm1', x)
    for n in range(1 + max(int(key.split('.')[1]) for key in state if key.startswith('linear_stages.'))):
        name = f'linear_stages.{n}'
        x = x + layer(f'{name}.w2', f'{name}.batch_norm2', layer(f'{name}.w1', f'{name}.batch_norm1', x))
    x = (x @ state['w2.weight'].T + state['w2.bias']).reshape(len(x), -1, 3)
    joints = list((x * state['poses_std'] + state['poses_mean']).unbind(1))
    joints.insert(root, torch.zeros_like(joints[0]))
    return torch.stack(joints, 1)
