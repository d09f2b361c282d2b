"""MHFormer against the golden outputs, against a naive second implementation, and part by part."""

import copy
import functools
import json
from dataclasses import asdict

import naive_mhformer
import numpy as np
import pytest
import torch
from test_ktpformer import relative
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import set_checkpoint_early_stop
from torch.utils.flop_counter import FlopCounterMode

from common.augment import Batch, Mirror, mirror
from common.errors import FileError
from common.losses import mean_mpjpe
from common.models import build_model, computing, layers, load_lifter, mhformer
from common.models.layers import JOINTS, WINDOWS, Attention, Block, DropPath, LayerNorm, Mlp, draw, dropped
from common.models.loading import recognise
from common.models.mhformer import MHFormerConfig
from common.skeleton import COCO, H36M, HUMANEVA15, MPI_INF_3DHP

CASES = ('mhformer', 'mhformer_odd')
SIZES = {'frames': 9, 'channels': 16, 'depth': 2, 'hidden': 20}
# Gradients that are rounding alone: of biases of keys and of the norms in front of them, and before a batch norm.
ZERO_IN_THEORY = ('linear_k.bias', 'norm3_12.bias', 'norm3_22.bias', 'norm3_32.bias', 'hypothesis.norm.bias',
                  'hypothesis.norm.weight', 'embedding_1.0.bias', 'embedding_2.0.bias', 'embedding_3.0.bias')


@pytest.fixture(scope='module', params=CASES)
def goldens(request, golden):
    folder = golden / 'zoo'
    return (np.load(folder / f'{request.param}.npz'), json.loads((folder / f'{request.param}.json').read_text()),
            json.loads((folder / f'{request.param}_keys.json').read_text()))


def sizes_of(goldens):
    return {size: value for size, value in goldens[1]['config'].items() if size != 'joints'}


@pytest.fixture
def golden_model(goldens, fill):
    model = build_model('mhformer', sizes_of(goldens), H36M, H36M, 0.0, dropout=0.0)
    model.load_state_dict(fill(goldens[2]))
    return model


def test_public_key_names_and_shapes(goldens):
    model = build_model('mhformer', sizes_of(goldens), H36M, H36M)
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == goldens[2]


@pytest.mark.parametrize('mode', ['eval', 'train'])
def test_golden_forward(goldens, golden_model, mode):
    """All frames, and the centre of them, which is what the model answers for."""
    data, x = goldens[0], torch.from_numpy(goldens[0]['x'])
    golden_model.train(mode == 'train')
    expected = data[f'out_{mode}']
    assert relative(golden_model.every_frame(x), expected) < 2e-6
    if mode == 'train':
        buffers = {key.removeprefix('after_step/'): data[key] for key in data.files if key.startswith('after_step/')}
        assert buffers.keys() == {key for key in goldens[2] if 'running_' in key or key.endswith('num_batches_tracked')}
        for key, value in buffers.items():
            assert relative(golden_model.state_dict()[key], value) < 2e-6, key
    centre = (x.shape[1] - 1) // 2
    assert (golden_model.frames, golden_model.answers) == (x.shape[1], range(centre, centre + 1))
    assert golden_model.supervised == range(x.shape[1])
    out = golden_model(x)
    assert out.shape == (len(x), 1, 17, 3)
    assert relative(out, expected[:, centre:centre + 1]) < 3e-6


def test_golden_loss_gradients_and_a_step(goldens, golden_model):
    data, expected, _ = goldens
    batch = Batch(torch.from_numpy(data['x']), torch.from_numpy(data['y']))
    optimizer = torch.optim.Adam(golden_model.parameters(), 1e-3, amsgrad=True)
    loss = golden_model.train().loss(batch, mean_mpjpe)
    assert loss.item() == pytest.approx(expected['loss'], rel=1e-6)
    loss.backward()
    norms = {name: p.grad.norm().item() for name, p in golden_model.named_parameters()}
    golden_norms = expected['grad_norm']
    assert norms.keys() == golden_norms.keys()
    for name, norm in norms.items():
        if name.endswith(ZERO_IN_THEORY):
            assert norm < 1e-4 * max(golden_norms.values()), name
        else:
            assert norm == pytest.approx(golden_norms[name], rel=1e-5), name
    optimizer.step()
    assert relative(golden_model.every_frame(batch.keypoints), data['out_train_after_step']) < 1e-5


@pytest.mark.parametrize('frames, parameters', [
    (9, 19_090_233), (27, 19_184_517), (81, 19_837_545), (243, 25_165_077), (351, 31_516_125)])
def test_parameter_count_and_sizes_of_the_published_models(frames, parameters):
    sizes = {} if frames == 351 else {'frames': frames}
    model = build_model('mhformer', sizes, H36M, H36M)
    assert sum(p.numel() for p in model.parameters()) == parameters
    state = model.state_dict()
    assert MHFormerConfig.from_state(state) == MHFormerConfig(frames, 512, 3, 8, 1024)
    assert recognise(state) == 'mhformer'


@pytest.mark.parametrize('frames, millions', [(9, 172), (27, 523), (81, 1_624)])
def test_arithmetic_of_the_published_models(frames, millions):
    """Multiply-adds for one predicted frame, products of attention counted."""
    model = build_model('mhformer', {'frames': frames}, H36M, H36M).eval()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, frames, 17, 2))
    assert round(counter.get_total_flops() / 2e6) == millions


def random_model(layout=H36M, skeleton=None, drop_path=0.0, dropout=0.0, seed=0, **config):
    """Make a float64 model in training, none of whose parameters or statistics is at a special value."""
    model = build_model('mhformer', SIZES | config, skeleton or layout, layout, drop_path, dropout=dropout).double()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value += 0.1 * torch.randn(value.shape, generator=random, dtype=value.dtype).abs()
    return model


def naive_output(model, x, **how):
    state = {key: value.clone() for key, value in model.state_dict().items()}
    return naive_mhformer.mhformer(state, x, **how)


LAYOUTS = [(H36M, H36M), (HUMANEVA15, HUMANEVA15), (MPI_INF_3DHP, MPI_INF_3DHP), (COCO, H36M), (COCO, HUMANEVA15)]


@pytest.mark.parametrize('train', [False, True], ids=['eval', 'train'])
@pytest.mark.parametrize('layout, skeleton', LAYOUTS, ids=lambda s: s.name)
def test_naive_forward_in_every_layout(layout, skeleton, train):
    """Keypoints and joints may differ in number. Small inputs and weights, so that a wrong eps shows."""
    model = random_model(layout, skeleton).train(train)
    x = 1e-3 * torch.randn(3, 9, len(layout), 2).double()
    expected = naive_output(model, x, train=train)
    assert expected.shape == (3, 9, len(skeleton), 3)
    assert relative(model.every_frame(x), expected) < 1e-9
    assert model(x).shape == (3, 1, len(skeleton), 3)


@pytest.mark.parametrize('config', [{'frames': 27}, {'frames': 45}, {'frames': 63, 'depth': 1},
                                    {'channels': 12, 'heads': 3, 'depth': 4}], ids=str)
@pytest.mark.parametrize('batch', [1, 2])
def test_naive_forward_at_other_sizes(config, batch):
    """A single window is enough for a step, and a single block over time is the one of CHI."""
    model = random_model(**config)
    x = torch.randn(batch, model.frames, 17, 2).double()
    expected = naive_output(model, x, train=True, heads=config.get('heads', 8))
    assert relative(model.every_frame(x), expected) < 1e-9


@pytest.mark.parametrize('frames', [9, 45])
def test_naive_gradients_and_statistics(frames):
    model = random_model(frames=frames)
    x, y = torch.randn(2, frames, 17, 2).double(), torch.randn(2, frames, 17, 3).double()
    state = {key: value.clone().requires_grad_(value.is_floating_point() and 'running' not in key)
             for key, value in model.state_dict().items()}
    running = {}
    predicted = naive_mhformer.mhformer(state, x, train=True, running=running)
    (predicted - y).square().sum(-1).sqrt().mean().backward()
    model.loss(Batch(x, y), mean_mpjpe).backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, state[name].grad, rtol=1e-7, atol=1e-10, msg=name)
    assert len(running) == (12 if frames == 9 else 3)
    for name, value in running.items():
        torch.testing.assert_close(model.state_dict()[name], value, msg=name)


# ---- what is drawn -----------------------------------------------------------------------------------------------


def place_of(name):
    """Return what the naive model calls the place of our drop path of this name."""
    block, _, drop = name.rpartition('.drop_')
    return f'{block}.{drop}' if drop in ('attn', 'mlp') else f'{block}.attn_{drop}'


def dropout_places(depth):
    """Return the places of our own dropout by the naive model's names, in the order of the computation."""
    h, places = 'Transformer_hypothesis', []
    for n in (1, 2, 3):
        places.append(f'Transformer_encoder_{n}.pos')
        places += [f'Transformer_encoder_{n}.blocks.{i}.{part}' for i in range(4)
                   for part in ('attn.proj', 'mlp.hidden', 'mlp.out')]
    places.append(f'{h}.pos')
    blocks = [*(f'{h}.SHR_blocks.{i}' for i in range(depth - 1)), f'{h}.CHI_blocks.0']
    return places + [f'{block}.{part}' for block in blocks for part in (
        'attn_1.proj', 'attn_2.proj', 'attn_3.proj', 'mlp.hidden', 'mlp.out')]


@pytest.mark.parametrize('frames', [9, 45])
def test_granularity_and_places_of_dropout_and_drop_path(monkeypatch, frames):
    """The masks that ours draws, put into the naive model at the places they are for, give the same output: a drop path
    is one draw for a window and branch, dropout one for a value; nothing else is random."""
    model = random_model(frames=frames, drop_path=0.6, dropout=0.4, depth=3)
    masks, elements = {}, []

    def record_path(name, module, args, kwargs, out):
        branch = out - kwargs['beside']
        kept = (branch != 0).flatten(1).any(-1)  # (B,)
        torch.testing.assert_close(branch, args[0] * kept[:, None, None, None] / (1 - module.rate))
        masks[place_of(name), 'droppath'] = kept.double()[:, None, None] / (1 - module.rate)

    def record_embedding(name, module, args, out):
        kept = (out != 0) | (args[0] == 0)
        torch.testing.assert_close(out, args[0] * kept / (1 - module.p))
        masks[name.rpartition('.')[0], 'dropout'] = kept.double().mT / (1 - module.p)
    for name, module in model.named_modules():
        if isinstance(module, DropPath):
            module.register_forward_hook(functools.partial(record_path, name), with_kwargs=True)
        elif isinstance(module, torch.nn.Dropout):
            module.register_forward_hook(functools.partial(record_embedding, name))

    def recorded(x, rate):
        mask = dropped(x, rate)
        elements.append((mask, rate))
        return mask
    monkeypatch.setattr(layers, 'dropped', recorded)
    torch.manual_seed(1)
    x = torch.randn(8, frames, 17, 2).double()
    state = copy.deepcopy(model)
    ours = model.every_frame(x)
    for place, (mask, rate) in zip(dropout_places(3), elements, strict=True):
        assert rate == 0.4
        assert mask.double().mean() == pytest.approx(0.4, abs=0.06)
        kept = (~mask).double().squeeze(2 if 'hypothesis' in place else 1) / (1 - rate)
        masks |= {(f'{place}_{n + 1}', 'dropout'): part for n, part in enumerate(kept.chunk(3, -1))} \
            if place.endswith('hypothesis.pos') else {(place, 'dropout'): kept}
    draws = [mask.flatten().tolist() for (_, kind), mask in masks.items() if kind == 'droppath']
    assert len(draws) == 3 * 4 * 2 + 3 * 4
    assert any(len(set(draw)) == 2 for draw in draws)  # windows draw by themselves
    mixed = [tuple(draw) for draw in draws if len(set(draw)) == 2]
    assert len(set(mixed)) > len(mixed) / 2  # and places too

    def scale(place, kind, value):
        mask = masks.pop((place, kind))
        assert mask.shape == (value.shape if kind == 'dropout' else (len(value), 1, 1))
        return mask * value
    assert relative(ours, naive_output(state, x, train=True, scale=scale)) < 1e-9
    assert not masks


def test_rates_are_the_published_ones():
    """Drop path rises from 0 in the encoders and over time, where the last rate is that of CHI."""
    recipe = mhformer.MHFormer.recipe
    model = build_model('mhformer', {**SIZES, 'depth': 3}, H36M, H36M, recipe.drop_path, dropout=recipe.dropout)

    def paths(block):
        return [module.rate for module in block.modules() if isinstance(module, DropPath)]
    encoders = [model.Transformer_encoder_1, model.Transformer_encoder_2, model.Transformer_encoder_3]
    for encoder in encoders:
        assert [paths(block) for block in encoder.blocks] == [
            pytest.approx([rate] * 2) for rate in naive_mhformer.rising(naive_mhformer.drop_path_rate, 4)]
    over_time = model.Transformer_hypothesis
    assert [paths(block) for block in (*over_time.SHR_blocks, *over_time.CHI_blocks)] == [
        pytest.approx([rate] * 4) for rate in naive_mhformer.rising(naive_mhformer.drop_path_rate, 3)]
    assert {module.over for module in model.modules() if isinstance(module, DropPath)} == {WINDOWS}
    rates = [module.dropout for module in model.modules() if hasattr(module, 'dropout')]
    assert set(rates) == {naive_mhformer.dropout_rate}
    assert len(rates) == 3 * (1 + 4 * 2) + 1 + 3 * 4
    embeddings = [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    assert embeddings == [naive_mhformer.embedding_dropout_rate] * 3


@pytest.mark.parametrize('dropout, behind_embedding', [(0.0, 0.0), (0.05, 0.25), (0.4, 0.4)])
def test_dropout_behind_the_embedding_of_short_windows(dropout, behind_embedding):
    model = build_model('mhformer', SIZES, H36M, H36M, dropout=dropout)
    assert model.embedding_2[3].p == behind_embedding


@pytest.mark.parametrize('frames', [9, 45])
def test_nothing_is_drawn_at_test(frames):
    model = random_model(frames=frames, drop_path=0.6, dropout=0.4).eval()
    x = torch.randn(2, frames, 17, 2).double()
    state = torch.get_rng_state()
    assert relative(model.every_frame(x), naive_output(model, x)) < 1e-9
    assert torch.equal(torch.get_rng_state(), state)


def test_draws_of_a_share_of_windows_are_those_of_a_whole_step():
    """Draws for tokens (B, 1, 2K, F) and (B, F, 1, C) come from the sizes of the keypoints, of which none depends."""
    paths = [DropPath(0.5, WINDOWS) for _ in range(3)]
    whole = []
    for part in (slice(None), slice(0, 2), slice(2, 5), slice(5, 5), slice(5, 8)):
        draw(paths, 8, 9, 17, torch.Generator().manual_seed(3), part)
        kept = [path.kept for path in paths]
        whole = whole or kept
        assert all(mine.shape[1:] == (1, 1, 1) for mine in kept)
        assert all(torch.equal(mine, all_of_it[part]) for mine, all_of_it in zip(kept, whole, strict=True))
    assert len({tuple(kept.flatten().tolist()) for kept in whole}) == 3
    paths[0].kept = torch.tensor([True, False]).view(2, 1, 1, 1)
    for shape in ((2, 1, 34, 9), (2, 9, 1, 48)):
        twice, dropped_one = paths[0](torch.ones(shape))
        assert (twice == 2).all() and not dropped_one.any()


def test_processes_with_a_share_of_the_windows_drop_what_one_would():
    """As the training loop draws, with batch norms that know nothing of the batch; one share is empty."""
    model = random_model(frames=27, drop_path=0.6)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.eval()
    paths = [module for module in model.modules() if isinstance(module, DropPath) and module.rate]
    x = torch.randn(7, 27, 17, 2).double()

    def lifted(part):
        draw(paths, 7, 27, 17, torch.Generator().manual_seed(0), part)
        assert all(path.kept.shape == (len(x[part]), 1, 1, 1) for path in paths)
        return model.every_frame(x[part])
    whole = lifted(slice(None))
    parts = [lifted(slice(*ends)) for ends in ((0, 3), (3, 3), (3, 7))]
    torch.testing.assert_close(torch.cat(parts), whole)
    assert not torch.allclose(whole, model.eval().every_frame(x))


def test_a_block_draws_over_what_it_is_told():
    attention, norms = Attention(18, 9, JOINTS), [LayerNorm(18), LayerNorm(18)]
    for told, over in ((None, JOINTS), (WINDOWS, WINDOWS)):
        block = Block(attention, *norms, Mlp(18, 36), 0.5, told)
        assert (block.drop_attn.over, block.drop_mlp.over) == (over, over)
        assert block.drop_attn.rate == block.drop_mlp.rate == 0.5


def test_a_process_without_windows_has_gradients():
    """Batch norms aside, which the engine makes global. What is never asked, it takes as 0: queries and keys of CHI."""
    model = random_model(frames=45, drop_path=0.2, dropout=0.1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.eval()
    out = model.every_frame(torch.zeros(0, 45, 17, 2).double())
    assert out.shape == (0, 45, 17, 3)
    out.sum().backward()
    missing = {name.split('.')[-2] for name, p in model.named_parameters() if p.grad is None}
    assert missing == {'linear_q', 'linear_k', *(f'norm3_{n}{place}' for n in (1, 2, 3) for place in (1, 2))}
    assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)


# ---- where it starts, what it depends on ---------------------------------------------------------------------------


@pytest.mark.parametrize('frames', [27, 45])
def test_weights_start_as_published(frames):
    """Position embeddings at 0, norms at 1 and 0, all else as PyTorch makes it: uniform up to 1/√(what goes in)."""
    torch.manual_seed(0)
    model = build_model('mhformer', {'frames': frames, 'channels': 48, 'hidden': 64}, H36M, H36M)
    state = model.state_dict()
    seen = 0
    for name, module in model.named_modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv1d)):
            bound = module.weight[0].numel() ** -0.5
            for value in (module.weight, module.bias):
                assert value.abs().max() <= bound, name
            assert module.weight.std().item() == pytest.approx(bound / 3 ** 0.5, rel=0.1), name
            seen += 2
        elif isinstance(module, (torch.nn.LayerNorm, torch.nn.BatchNorm1d)):
            assert (module.weight == 1).all() and (module.bias == 0).all(), name
            seen += 2
    positions = [value for key, value in state.items() if 'pos_embed' in key]
    assert len(positions) == 6
    assert not any(value.any() for value in positions)
    assert seen + 6 == len(list(model.parameters()))
    weights = [value for key, value in state.items() if value.ndim > 1 and 'pos_embed' not in key]
    assert not any(a.shape == b.shape and torch.equal(a, b) for i, a in enumerate(weights) for b in weights[:i])


def test_norms_have_the_published_eps():
    """The goldens show a wrong eps only just, where variances are small."""
    model = build_model('mhformer', SIZES, H36M, H36M)
    for name, module in model.named_modules():
        if isinstance(module, (torch.nn.LayerNorm, torch.nn.BatchNorm1d)):
            before_encoders = name in ('norm_1', 'norm_2', 'norm_3')
            assert module.eps == (1e-5 if before_encoders or isinstance(module, torch.nn.BatchNorm1d) else 1e-6), name
        if isinstance(module, torch.nn.BatchNorm1d):
            assert module.momentum == 0.1


def test_a_window_knows_nothing_of_the_others_and_all_of_itself():
    model = random_model(frames=27).eval()
    x = torch.randn(3, 27, 17, 2).double().requires_grad_()
    out = model(x)
    torch.testing.assert_close(torch.cat([model(one[None]) for one in x]), out)
    (slope,) = torch.autograd.grad(out[1].sum(), x)
    assert not slope[[0, 2]].any()
    assert slope[1].abs().min() > 0  # every coordinate of every frame has a say in the centre


def test_coordinates_are_tokens_whose_order_lies_in_the_embeddings_alone():
    """Keypoints in another order, and their rows of the weights with them, give the same poses."""
    model = random_model(frames=27).eval()
    x = torch.randn(2, 27, 17, 2).double()
    expected = model(x)
    order = torch.randperm(17, generator=torch.Generator().manual_seed(0))
    rows = (2 * order[:, None] + torch.tensor([0, 1])).flatten()
    with torch.no_grad():
        for n in (1, 2, 3):
            position = getattr(model, f'Transformer_encoder_{n}').pos_embed
            position.copy_(position[:, rows])
            weight = getattr(model, f'embedding_{n}')[0].weight
            weight.copy_(weight[:, rows])
    torch.testing.assert_close(model(x[:, :, order]), expected)


def test_lifting_is_the_mean_of_plain_and_mirrored_back_centres():
    model = random_model(frames=27).eval()
    x, order = torch.randn(2, 27, 17, 2).double(), torch.tensor(H36M.mirror)
    lifted = model.lift(Batch(x), Mirror(order, order))
    assert list(lifted) == ['predicted']
    expected = (model.every_frame(x) + mirror(model.every_frame(mirror(x, order)), order))[:, 13:14] / 2
    torch.testing.assert_close(lifted['predicted'], expected)
    torch.testing.assert_close(model.lift(Batch(x), None)['predicted'], model.every_frame(x)[:, 13:14])


# ---- how it computes -----------------------------------------------------------------------------------------------


def test_bf16_is_near_fp32_and_stays_inside():
    """Tokens alone are bfloat16: keypoints, hypotheses, poses, weights and gradients are float32."""
    torch.manual_seed(0)
    model = build_model('mhformer', SIZES | {'frames': 27, 'channels': 40}, H36M, H36M, dropout=0.0).train()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.05 * torch.randn_like(p)
    batch = Batch(0.5 * torch.randn(4, 27, 17, 2), torch.randn(4, 27, 17, 3))
    seen, results = set(), []
    for precision in ('fp32', 'bf16'):
        model.zero_grad()
        with computing.computing_in(model, precision):
            out = model.every_frame(batch.keypoints)
            mean_mpjpe(out, batch.truth).backward()
        grads = {name: p.grad for name, p in model.named_parameters() if not name.endswith(ZERO_IN_THEORY)}
        assert {g.dtype for g in grads.values()} == {out.dtype} == {torch.float32}
        results.append((out, torch.cat([g.flatten() for g in grads.values()])))
        for module in model.modules():
            if isinstance(module, (Block, DropPath, mhformer.SHR, mhformer.CHI)):
                module.register_forward_hook(lambda module, args, out: seen.add(out.dtype))
    (exact, slopes), (rounded, rounded_slopes) = results
    assert seen == {torch.bfloat16}
    assert 1e-5 < relative(rounded, exact) < 0.03
    assert torch.cosine_similarity(slopes, rounded_slopes, dim=0) > 0.995


def test_bf16_does_not_round_the_screen():
    """Where encoders add nothing, all three hypotheses are the keypoints to the last digit."""
    model, seen = random_model(frames=27).float(), []
    x = torch.randn(2, 27, 17, 2)
    for n in (1, 2, 3):
        for p in getattr(model, f'Transformer_encoder_{n}').norm.parameters():
            torch.nn.init.zeros_(p)
        getattr(model, f'embedding_{n}').register_forward_hook(lambda module, args, out: seen.append(args[0]))
    with computing.computing_in(model, 'bf16'):
        model(x)
    assert len(seen) == 3
    assert all(torch.equal(hypothesis, x.flatten(2).mT) for hypothesis in seen)


@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_recomputing_blocks_changes_nothing(precision):
    results = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model, calls = random_model(frames=27, drop_path=0.5, dropout=0.3).float(), []
        for module in model.modules():
            if isinstance(module, DropPath):
                module.register_forward_hook(lambda module, args, out, calls=calls: calls.append(module))
        if recompute:
            computing.recompute_blocks(model)
        batch = Batch(torch.randn(4, 27, 17, 2), torch.randn(4, 27, 17, 3))
        with computing.computing_in(model, precision), set_checkpoint_early_stop(False):  # whole blocks, to be counted
            torch.manual_seed(1)
            loss = model.loss(batch, mean_mpjpe)
            loss.backward()
        buffers = {key: value for key, value in model.state_dict().items() if 'running' in key}
        results.append((loss, [p.grad for p in model.parameters()], buffers, len(calls)))
    kept, recomputed = results
    assert recomputed[3] == 2 * kept[3]  # blocks of the encoders and over time
    torch.testing.assert_close(kept[:3], recomputed[:3], rtol=0, atol=0)


@pytest.mark.slow
def test_the_loss_of_training_is_compiled_in_one_graph():
    """Without a break, dropout, drop path and the centre's cut included."""
    model, graphs = random_model(drop_path=0.1, dropout=0.1, depth=1).float(), []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward
    torch._dynamo.reset()
    model.compile(dynamic=False, backend=count)
    x = torch.randn(2, 9, 17, 2)
    model.loss(Batch(x, torch.randn(2, 9, 17, 3)), mean_mpjpe)
    assert len(graphs) == 1
    model.eval()(x)
    assert len(graphs) == 2


# ---- sizes and files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize('config, message', [
    ({'frames': 243 + 9}, '252 frames, expected an odd multiple of 9, for 9 heads and a centre: take 243 or 261'),
    ({'frames': 100}, 'take 99 or 117'), ({'frames': 1}, 'take 9'), ({'frames': 17}, 'take 9 or 27'),
    ({'frames': 0}, 'frames is 0, expected at least 1'), ({'channels': 30}, '30 channels cannot be divided among 8'),
    ({'depth': 0}, 'depth is 0'), ({'hidden': 0}, 'hidden is 0'), ({'heads': 0}, 'heads is 0')])
def test_impossible_sizes_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        build_model('mhformer', config, H36M, H36M)


def test_frames_that_are_named_would_do():
    for frames in range(1, 400):
        try:
            MHFormerConfig(frames=frames)
        except ValueError as error:
            near = [int(word) for word in str(error).rpartition('take ')[2].split(' or ')]
            assert all(MHFormerConfig(frames=other).frames for other in near)
            assert min(abs(other - frames) for other in near) <= 9
        else:
            assert frames % 9 == 0 and frames % 2 == 1


def test_other_windows_are_refused():
    model = build_model('mhformer', SIZES, H36M, H36M)
    for shape in ((2, 10, 17, 2), (2, 9, 16, 2), (2, 9, 17, 3), (9, 17, 2)):
        with pytest.raises(ValueError, match=r'expected keypoints \(B, 9, 17, 2\), got \(' + f'{shape[0]}, {shape[1]}'):
            model(torch.zeros(shape))


def test_config_is_read_from_shapes(goldens, fill):
    state = fill(goldens[2])
    assert recognise(state) == 'mhformer'
    assert asdict(MHFormerConfig.from_state(state)) == sizes_of(goldens) | {'heads': 8}
    for key, value, message in (
            ('norm_1.weight', None, 'norm_1.weight is missing'), ('norm_1.weight', torch.ones(20), '20 frames'),
            ('norm_1.weight', torch.ones(1, 27), 'has 2 dimensions, expected 1'),
            ('Transformer_encoder_1.pos_embed', torch.zeros(1, 35, 27), '35 rows, expected two for each keypoint'),
            ('Transformer_encoder_1.pos_embed', None, 'is missing'),
            ('Transformer_hypothesis.pos_embed_1', None, 'is missing'),
            ('Transformer_hypothesis.CHI_blocks.0.mlp.fc1.weight', None, 'is missing')):
        broken = {name: other for name, other in state.items() if name != key} | ({} if value is None else {key: value})
        with pytest.raises(ValueError, match=message):
            MHFormerConfig.from_state(broken)


def test_a_public_file_is_loaded_as_it_is(goldens, fill, tmp_path):
    """By its keys; the number of keypoints is half of an axis. A file that fits in part is refused, not taken."""
    state = fill(goldens[2])
    torch.save(state, tmp_path / 'model_3_4590.pth')
    lifter = load_lifter(tmp_path / 'model_3_4590.pth')
    assert (lifter.name, lifter.config) == ('mhformer', sizes_of(goldens) | {'heads': 8})
    x = torch.from_numpy(goldens[0]['x'])
    with torch.no_grad():
        assert relative(lifter.model.every_frame(x), goldens[0]['out_eval']) < 2e-6
    torch.save({key: state[key] for key in state if not key.startswith('regression.0')}, tmp_path / 'part.pth')
    with pytest.raises(FileError, match=r'regression\.0'):
        load_lifter(tmp_path / 'part.pth')
    small = build_model('mhformer', SIZES, HUMANEVA15, HUMANEVA15)
    assert small.keypoints_of(small.state_dict()) == 15
    torch.save(small.state_dict(), tmp_path / 'small.pth')
    with pytest.raises(FileError, match='takes 15 keypoints, but layout h36m has 17'):
        load_lifter(tmp_path / 'small.pth')
    assert load_lifter(tmp_path / 'small.pth', layout=HUMANEVA15, skeleton=HUMANEVA15).model.keypoints == 15


def test_two_models_share_nothing():
    a, b = (build_model('mhformer', SIZES, H36M, H36M) for _ in range(2))
    pointers = {t.data_ptr() for t in (*a.parameters(), *a.buffers())}
    assert not pointers & {t.data_ptr() for t in (*b.parameters(), *b.buffers())}
