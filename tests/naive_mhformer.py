"""A second, deliberately naive implementation of the MHFormer model.

It is an oracle for the tests: slow, without any code shared with the package, and written so that every formula can be
read off. Letters: B batch, F frames, K keypoints, J joints, C channels of a hypothesis.
"""
import math

import torch
from naive import attention, batch_norm, layer_norm, linear

ENCODER_HEADS = 9
dropout_rate, embedding_dropout_rate, drop_path_rate = 0.1, 0.25, 0.2


def rising(highest, count):
    """`count` rates evenly spaced from 0 to the highest."""
    return [highest * i / max(count - 1, 1) for i in range(count)]


def gelu(x):
    """Exact GELU."""
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def mlp(s, name, x, scale):
    """(B, tokens, C) -> (B, tokens, C) through the hidden units."""
    x = scale(name + '.hidden', 'dropout', gelu(linear(s, name + '.fc1', x)))
    return scale(name + '.out', 'dropout', linear(s, name + '.fc2', x))


def cross_attention(s, name, q, k, v, heads):
    """Multi-head attention of (B, F, C) three times -> (B, F, C)."""
    q, k, v = linear(s, name + '.linear_q', q), linear(s, name + '.linear_k', k), linear(s, name + '.linear_v', v)
    width, outputs = q.shape[-1] // heads, []
    for h in range(heads):
        mine = slice(h * width, (h + 1) * width)
        scores = q[..., mine] @ k[..., mine].transpose(-1, -2) / math.sqrt(width)
        outputs.append(torch.softmax(scores, dim=-1) @ v[..., mine])
    return linear(s, name + '.proj', torch.cat(outputs, dim=-1))


def encoder(s, name, x, scale):
    """The tokens (B, 2K, F) of a hypothesis -> (B, 2K, F)."""
    x = scale(name + '.pos', 'dropout', x + s[name + '.pos_embed'])
    for i in range(4):
        p = f'{name}.blocks.{i}'
        y = attention(s, p + '.attn', layer_norm(s, p + '.norm1', x, 1e-6), ENCODER_HEADS)
        x = x + scale(p + '.attn', 'droppath', scale(p + '.attn.proj', 'dropout', y))
        x = x + scale(p + '.mlp', 'droppath', mlp(s, p + '.mlp', layer_norm(s, p + '.norm2', x, 1e-6), scale))
    return layer_norm(s, name + '.norm', x, 1e-6)


def embedding(s, name, x, train, running, scale):
    """The coordinates (B, 2K, F) of a hypothesis -> (B, F, C); up to 27 frames with a batch norm."""
    x = x.transpose(1, 2)
    if x.shape[1] > 27:
        return x @ s[name + '.weight'][:, :, 0].T + s[name + '.bias']
    x = x @ s[name + '.0.weight'][:, :, 0].T + s[name + '.0.bias']
    x = batch_norm(s, name + '.1', x, train, running)
    return scale(name, 'dropout', x * (x > 0))


def mixed(s, p, x, scale):
    """The MLP over three hypotheses (B, F, C) of a block p -> the three, (B, F, C) each."""
    z = torch.cat(x, dim=-1)
    z = z + scale(p + '.mlp', 'droppath', mlp(s, p + '.mlp', layer_norm(s, p + '.norm2', z, 1e-6), scale))
    c = z.shape[-1] // 3
    return [z[..., :c], z[..., c:2 * c], z[..., 2 * c:]]


def refined(s, p, x, heads, scale):
    """SHR: three hypotheses (B, F, C) -> three."""
    moved = []
    for n in (1, 2, 3):
        y = attention(s, f'{p}.attn_{n}', layer_norm(s, f'{p}.norm1_{n}', x[n - 1], 1e-6), heads)
        moved.append(x[n - 1] + scale(f'{p}.attn_{n}', 'droppath', scale(f'{p}.attn_{n}.proj', 'dropout', y)))
    return mixed(s, p, moved, scale)


def interacting(s, p, x, heads, scale):
    """CHI: three hypotheses (B, F, C) -> three."""
    x = list(x)
    for n, (q, k) in ((1, (2, 3)), (2, (1, 3)), (3, (1, 2))):
        parts = [layer_norm(s, f'{p}.norm3_{n}{place}', x[of - 1], 1e-6) for place, of in ((1, q), (2, k), (3, n))]
        y = scale(f'{p}.attn_{n}.proj', 'dropout', cross_attention(s, f'{p}.attn_{n}', *parts, heads))
        x[n - 1] = x[n - 1] + scale(f'{p}.attn_{n}', 'droppath', y)
    return mixed(s, p, x, scale)


def mhformer(state, x, *, heads=8, train=False, running=None, scale=None):
    """MHFormer (CVPR 2022) as a function: x (B, F, K, 2) -> (B, F, J, 3), the poses of all frames.

    state: public-layout state dict of arrays or tensors, whose dtype is the one computed in. train: batch norms take
    the batch's statistics, and `running`, a dict, is filled with what they are updated to.
    scale: None, or (place, kind, value) -> value times a mask, called where training drops something; value is
    (B, tokens, channels). With E = 'Transformer_encoder_<n>', H = 'Transformer_hypothesis' and B one of
    H.SHR_blocks.<i> and H.CHI_blocks.0, the places are
    in kind 'droppath' (one draw for each of the B windows)
        E.blocks.<i>.attn, B.attn_<n>            branch of an attention, after the dropout on its projection
        E.blocks.<i>.mlp, B.mlp                  branch of an MLP
    in kind 'dropout' (one draw for each element)
        E.pos, H.pos_<n>                         after the position embedding
        embedding_<n>                            after the ReLU, for F up to 27; of another rate than the others
        E.blocks.<i>.attn.proj, B.attn_<n>.proj  after the projection of an attention
        <m>.hidden, <m>.out                      after the GELU and after the second Linear of every MLP <m>
    """
    s = {key: torch.as_tensor(value) for key, value in state.items()}
    scale = scale or (lambda place, kind, value: value)
    h = 'Transformer_hypothesis'
    x = torch.as_tensor(x).to(s['norm_1.weight'])
    b, f, k, _ = x.shape
    x = x.reshape(b, f, 2 * k).transpose(1, 2)                                            # (B, 2K, F)
    hypotheses = []
    for n in (1, 2, 3):
        x = x + encoder(s, f'Transformer_encoder_{n}', layer_norm(s, f'norm_{n}', x, 1e-5), scale)
        tokens = embedding(s, f'embedding_{n}', x, train, running, scale)
        hypotheses.append(scale(f'{h}.pos_{n}', 'dropout', tokens + s[f'{h}.pos_embed_{n}']))
    refining = {key.split('.')[2] for key in s if key.startswith(f'{h}.SHR_blocks.')}
    for i in range(len(refining)):
        hypotheses = refined(s, f'{h}.SHR_blocks.{i}', hypotheses, heads, scale)
    hypotheses = interacting(s, f'{h}.CHI_blocks.0', hypotheses, heads, scale)
    z = layer_norm(s, f'{h}.norm', torch.cat(hypotheses, dim=-1), 1e-6)                   # (B, F, 3C)
    z = batch_norm(s, 'regression.0', z, train, running)
    z = z @ s['regression.1.weight'][:, :, 0].T + s['regression.1.bias']                  # (B, F, 3J)
    return z.reshape(b, f, -1, 3)
