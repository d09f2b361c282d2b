"""A second, deliberately naive implementation of StridedTransformer and of both stages of P-STMO.

An oracle for the tests: slow, without any shared code. `drop(place, value)` stands wherever the published code has a
dropout; the tests put masks there. Letters: B windows, L tokens, C channels.
"""

import math

import torch

HEADS = 8


def kept(place, value):
    return value


def linear(state, prefix, x):
    y = x @ state[f'{prefix}.weight'].reshape(len(state[f'{prefix}.weight']), -1).T
    return y + state[f'{prefix}.bias'] if f'{prefix}.bias' in state else y


def batch_norm(state, prefix, x, training):
    """x (B, L, C): over windows and tokens together."""
    mean, variance = state[f'{prefix}.running_mean'], state[f'{prefix}.running_var']
    if training:
        mean = x.mean(dim=(0, 1))
        variance = (x - mean).square().mean(dim=(0, 1))
    return (x - mean) / (variance + 1e-5).sqrt() * state[f'{prefix}.weight'] + state[f'{prefix}.bias']


def sample_norm(state, prefix, x):
    mean = x.mean(-1, keepdim=True)
    s = ((x - mean).square().sum(-1, keepdim=True) / (x.shape[-1] - 1)).sqrt()
    return state[f'{prefix}.a_2'] * (x - mean) / (s + 1e-6) + state[f'{prefix}.b_2']


def attention(state, prefix, x, drop):
    q, k, v = (linear(state, f'{prefix}.linears.{part}', x) for part in range(3))
    width = x.shape[-1] // HEADS
    of_head = [slice(width * head, width * (head + 1)) for head in range(HEADS)]
    scores = torch.stack([q[..., part] @ k[..., part].mT for part in of_head], dim=1) / math.sqrt(width)
    weights = drop(f'{prefix}.weights', scores.exp() / scores.exp().sum(-1, keepdim=True))
    joined = torch.cat([weights[:, head] @ v[..., part] for head, part in enumerate(of_head)], dim=-1)
    return linear(state, f'{prefix}.linears.3', joined)


def feed_forward(state, prefix, x, stride, drop):
    hidden = drop(f'{prefix}.hidden', linear(state, f'{prefix}.w_1', x).clamp(min=0))
    if stride is None:
        return linear(state, f'{prefix}.w_2', hidden)
    weight = state[f'{prefix}.w_2.weight']  # (C, D, 3)
    outside = torch.zeros_like(hidden[:, 0])
    out = []
    for centre in range(0, x.shape[1], stride):
        taps = [hidden[:, t] if 0 <= t < x.shape[1] else outside for t in (centre - 1, centre, centre + 1)]
        out.append(sum(tap @ weight[..., i].T for i, tap in enumerate(taps)) + state[f'{prefix}.w_2.bias'])
    return torch.stack(out, dim=1)


def block(state, prefix, x, stride, drop):
    x = x + drop(f'{prefix}.attention', attention(
        state, f'{prefix}.self_attn', sample_norm(state, f'{prefix}.sublayer.0.norm', x), drop))
    y = feed_forward(state, f'{prefix}.feed_forward', sample_norm(state, f'{prefix}.sublayer.1.norm', x), stride, drop)
    beside = x if stride is None else torch.stack([x[:, t] for t in range(0, x.shape[1], stride)], dim=1)
    return beside + drop(f'{prefix}.feed_forward', y)


def count(state, prefix):
    return len({key[len(prefix):].split('.')[0] for key in state if key.startswith(prefix)})


def vanilla(state, prefix, x, drop):
    for index in range(count(state, f'{prefix}.model.layers.')):
        x = block(state, f'{prefix}.model.layers.{index}', x, None, drop)
    return x


def strided_encoder(state, x, training, drop):
    return drop('encoder', batch_norm(state, 'encoder.1', linear(state, 'encoder.0', x), training).clamp(min=0))


def leaky(x):
    return torch.where(x > 0, x, 0.2 * x)


def spatial_encoder(state, x, training, drop):
    x = drop('encoder.bn_1', leaky(batch_norm(state, 'encoder.bn_1', linear(state, 'encoder.fc_1', x), training)))
    y = x
    for part in (1, 2):
        y = linear(state, f'encoder.layers.0.w{part}', y)
        norm = f'encoder.layers.0.batch_norm{part}'
        y = drop(norm, leaky(batch_norm(state, norm, y, training)))
    return linear(state, 'encoder.fc_2', x + y)


def head(state, prefix, x, training):
    out = linear(state, f'{prefix}.1', batch_norm(state, f'{prefix}.0', x, training))
    return torch.stack([out[..., c::3] for c in range(3)], dim=-1)


def lifted(state, keypoints, strides, encoder, training=False, drop=kept):
    """Return all frames' poses and the centre's; `encoder` is one of the two above."""
    x = torch.cat([keypoints[:, :, joint] for joint in range(keypoints.shape[2])], dim=-1)  # joint by joint
    x = vanilla(state, 'Transformer', encoder(state, x, training, drop) + state['Transformer.pos_embedding'], drop)
    every = head(state, 'fcn_1', x, training)
    for index, stride in enumerate(strides):
        if index < 3:
            x = x + state[f'Transformer_reduce.model.pos_embedding_{index + 1}'][:, :x.shape[1]]
        x = block(state, f'Transformer_reduce.model.layers.{index}', x, stride, drop)
    return every, head(state, 'fcn', x, training)


def completed(state, keypoints, hidden_frames, hidden_keypoints, training=False, drop=kept):
    """Return all keypoints in the order of the published code: those of visible frames, then of hidden ones."""
    x = keypoints.clone()
    for frame, joint in hidden_keypoints.nonzero().tolist():
        x[:, frame, joint] = state['spatial_mask_token'][0, 0]
    x = spatial_encoder(state, x.flatten(2), training, drop) + state['Transformer.pos_embedding']
    visible = [frame for frame, hidden in enumerate(hidden_frames.tolist()) if not hidden]
    hidden = [frame for frame, hidden in enumerate(hidden_frames.tolist()) if hidden]
    x = vanilla(state, 'Transformer', x[:, visible], drop)
    x = sample_norm(state, 'encoder_LN', x) @ state['encoder_to_decoder.weight'].T
    places = state['dec_pos_embedding']
    guesses = (state['mask_token'] + places[:, hidden]).expand(len(x), -1, -1)
    x = vanilla(state, 'Transformer_dec', torch.cat([x + places[:, visible], guesses], dim=1), drop)
    out = linear(state, 'fcn_dec.1', batch_norm(state, 'fcn_dec.0', x, training))
    return torch.stack([out[..., 0::2], out[..., 1::2]], dim=-1)
