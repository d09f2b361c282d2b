"""Checkpoints that contradict themselves: every fact that cannot be is refused in one line, by whatever reads it."""

import copy
import os
import random
import shutil

import numpy as np
import pytest
import torch
from conftest import SMALL

from common.errors import FileError
from common.models import build_model
from common.models.loading import identify
from common.skeleton import H36M
from common.storage import checkpoint
from common.storage.contents import DIGEST, FIELDS
from common.storage.runlog import is_run_folder
from common.training.resumed import check_progress, check_settings, restore_optimizer

MANY = 10 ** 400


@pytest.fixture(scope='module')
def saved(trained):
    """Return the content of a finished run's last.bin, without the digest; not to be changed."""
    stored = torch.load(trained[0] / 'last.bin', weights_only=True)
    del stored[DIGEST]
    return stored


def load_all(path):
    """Read a checkpoint as --resume does, before the data are there."""
    loaded = checkpoint.load(path)
    check_settings(loaded)
    check_progress(loaded)
    identify(loaded)
    return loaded


def changed(saved, path, *where_and_value):
    """Write a file in which the fact at a place is another one; a place is a chain of keys."""
    *where, last, value = where_and_value
    stored = copy.deepcopy(saved)
    part = stored
    for key in where:
        part = part[key]
    part[last] = value
    torch.save(stored, path)
    return path


def assert_refused(path, *parts):
    with pytest.raises(FileError) as caught:
        load_all(path)
    message = str(caught.value)
    assert message.isprintable() and len(message) - len(str(path)) < 400, message
    for part in (str(path), *parts):
        assert part in message, message


def test_what_was_trained_is_accepted(saved, tmp_path):
    torch.save(saved, tmp_path / 'a.bin')
    assert load_all(tmp_path / 'a.bin').epoch == 2


@pytest.mark.parametrize('name, value', [
    ('loss', 'x'), ('objective', 'x'), ('schedule', 'x'), ('select', 'x'), ('precision', 'x'), ('optimizer', 'x'),
    ('root', 'x'), ('dataset', 'x'), ('loss', None), ('loss', ['weighted']), ('loss', 1), ('optimizer', 'AdamW'),
    ('downsample', 0), ('stride', 0), ('stride', 1.5), ('stride', '9'), ('stride', True), ('batch', -1), ('batch',
    MANY),
    ('actions', 5), ('actions', 'Walking'), ('actions', ['a', 'a']), ('actions', [1]), ('subjects_test', {'S9': 1}),
    ('subjects_train', ['a\nb']), ('subset', 0.0), ('subset', 2), ('subset', float('nan')), ('seed', -1), ('seed', 1.0),
    ('seed', 2 ** 32), ('lr', 0.0), ('lr', float('inf')), ('lr', '1e-3'), ('lr_decay', None), ('epochs', 0),
    ('augment', 1), ('augment', None), ('eval', 'yes'), ('ema', 1.0), ('clip', -1.0), ('drop_path', 1.0),
    ('warmup', -1), ('keypoints', ''), ('keypoints', 'a\x1b[31m'), ('window_step', 0),
    ('compile', 'no'), ('model', 'x'), ('refine', 1), ('checkpoint_frequency', 0), ('save_every_steps', 'x' * 10 ** 5),
    ('lr_drop_every', [1]), ('weight_decay', -0.1), ('subjects_valid', torch.zeros(2)),
])
def test_settings_that_no_flag_could_have_given(saved, tmp_path, name, value):
    assert_refused(changed(saved, tmp_path / 'a.bin', 'settings', name, value), 'is not a complete checkpoint', name)


@pytest.mark.parametrize('where, value', [
    (('format',), torch.zeros(2)), (('format',), '1\n2'), (('format',), True), (('format',), 2),
    (('skeleton', 'parents'), torch.zeros(17)), (('skeleton', 'joints'), list(range(17))), (('skeleton',), [1]),
    (('skeleton', 'parents'), [0] * 17), (('skeleton', 'parents'), [-1] + [99] * 16),
    (('skeleton', 'parents'), [-1] + [MANY] * 16), (('skeleton', 'joints'), ['a'] * 17), (('layout', 'name'), 'a\nb'),
    (('layout', 'joints'), ['left_a', *map(str, range(16))]), (('layout', 'joints'), ['\x1b[31m', *map(str,
    range(16))]),
    (('epoch',), -3), (('epoch',), 1.0), (('epoch',), True), (('epoch',), MANY), (('epoch',), 10 ** 9), (('step',), -3),
    (('step',), None), (('loss_sum',), float('nan')), (('loss_sum',), 'x'), (('lr',), '1'), (('base_lr',),
    float('inf')),
    (('base_lr',), None), (('lr_since',), 0), (('lr_since',), 99), (('first_epoch',), 99), (('first_epoch',), 'x'),
    (('metrics',), {'x': 'y'}), (('metrics',), {'x': 1.0}), (('best',), {}), (('best',), {'epoch': 1}), (('best',), 5),
    (('model',), 'a\nb'), (('model',), 'x' * 10 ** 6), (('model',), 'mixste'), (('model',), 5), (('run',), 5),
    (('run',), 'a\0b'), (('run_id',), None), (('optimizer',), None), (('training_state',), 5), (('dataset',), ['x']),
    (('keypoints',), 'a\nb'), (('settings',), None), (('settings',), {1: 2}), (('config',), []),
    (('config', 'frames'), 10 ** 9), (('config', 'frames'), MANY), (('config', 'frames'), 27), (('config', 'frames'),
    9.0),
    (('config', 'frames'), '9'), (('config', 'frames'), True), (('config', 'frames'), -1), (('config', 'depth'),
    10 ** 6),
    (('config', 'depth'), 2), (('config', 'channels'), 10 ** 8), (('config', 'channels'), 64), (('config', 'heads'), 0),
    (('config', 'heads'), 10 ** 9), (('config', 'heads'), None), (('config', 'mlp_ratio'), float('nan')),
    (('config', 'mlp_ratio'), 1e300), (('config', 'mlp_ratio'), 'x'), (('config', 'kpa'), 1), (('config', 'tpa'),
    False),
    (('config', 'other'), 5), (('config', 'x' * 10 ** 6), 5), (('config', 'refine'), 'no'), (('config', 'refine'),
    True),
], ids=lambda value: None if isinstance(value, tuple) else 'v')
def test_facts_that_cannot_be(saved, tmp_path, where, value):
    assert_refused(changed(saved, tmp_path / 'a.bin', *where, value))


VALUES = [None, True, 0, -1, 1.5, MANY, -MANY, 2 ** 63, float('nan'), float('inf'), '', 'x', 'a\nb', '\x1b[2J',
          'x' * 99999,
          b'x', [], [[]], {}, {'x': 1}, {1: 2}, (), torch.zeros(0), torch.zeros(3), torch.tensor(1j), set(), [MANY]]


@pytest.mark.parametrize('count', [150, pytest.param(5000, marks=pytest.mark.slow)])
def test_random_facts_end_in_one_line_or_are_harmless(saved, tmp_path, count):
    """Seeded: any value in the place of any fact, of any depth. Nothing but FileError comes out."""
    chance, refused = random.Random(7), 0
    light = {**saved, 'optimizer': {}}
    for _ in range(count):
        stored = copy.deepcopy(light)
        for _ in range(chance.choice((1, 1, 2))):
            part, key = stored, chance.choice([*FIELDS, 'format', 'model_pos', 'skeleton', 'layout', 'versions'])
            while isinstance(part.get(key), dict) and part[key] and chance.random() < 0.7:
                part = part[key]
                key = chance.choice(list(part))
            part[key] = chance.choice(VALUES)
        torch.save(stored, tmp_path / 'a.bin')
        try:
            load_all(tmp_path / 'a.bin')
        except FileError as error:
            refused += 1
            check_line(error, tmp_path)
    assert refused > count / 2


def check_line(error, folder):
    assert str(error).isprintable() and len(str(error)) - len(str(folder)) < 600, error


# ---- the optimizer ----------------------------------------------------------------------------------------------


@pytest.fixture(params=[False, True], ids=['adamw', 'amsgrad'])
def optimised(request):
    """(model, optimizer, its state dict after a step)."""
    model = build_model('ktpformer', {'frames': 3, 'channels': 8, 'depth': 1}, H36M, H36M)

    def make():
        if request.param:
            return torch.optim.Adam(model.parameters(), 1e-3, amsgrad=True, fused=True)
        return torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    optimizer = make()
    model(torch.randn(2, 3, 17, 2)).square().sum().backward()
    optimizer.step()
    return model, make(), optimizer.state_dict()


def test_a_state_comes_back_in_memory_of_its_own(optimised, tmp_path):
    model, optimizer, stored = optimised
    expected = copy.deepcopy(stored)
    restore_optimizer(tmp_path, optimizer, stored)
    got = optimizer.state_dict()
    assert got['param_groups'] == expected['param_groups']
    places = set()
    for index, state in expected['state'].items():
        for name, value in state.items():
            assert torch.equal(got['state'][index][name], value)
            places.add(got['state'][index][name].data_ptr())
            assert got['state'][index][name].data_ptr() != stored['state'][index][name].data_ptr()
    assert len(places) == sum(map(len, expected['state'].values()))
    optimizer.step()
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_states_of_a_torch_that_knew_less_are_taken(optimised, tmp_path):
    _, optimizer, stored = optimised
    stored['param_groups'][0].pop('decoupled_weight_decay', None)
    stored['param_groups'][0].update(fused=None, foreach=True)
    restore_optimizer(tmp_path, optimizer, stored)
    assert optimizer.param_groups[0]['fused'] is True


def each_state(name, change):
    def forge(stored):
        for state in stored['state'].values():
            state[name] = change(state[name])
    return forge


def group(**settings):
    return lambda stored: stored['param_groups'][0].update(settings)


FORGED = {
    'one element expanded': each_state('exp_avg', lambda t: torch.zeros(1).expand(t.shape)),
    'one of many expanded': each_state('exp_avg', lambda t: torch.zeros(t.numel() + 1)[:1].expand(t.shape)),
    'squares of one element': each_state('exp_avg_sq', lambda t: torch.zeros(1)),
    'squares expanded': each_state('exp_avg_sq', lambda t: torch.zeros(1).expand(t.shape)),
    'half of the squares': each_state('exp_avg_sq', lambda t: t.flatten()[:max(1, t.numel() // 2)].clone()),
    'flat': each_state('exp_avg', lambda t: t.flatten().clone()[None]),
    'doubles': each_state('exp_avg', lambda t: t.double()),
    'whole numbers': each_state('exp_avg_sq', lambda t: t.long()),
    'negative squares': each_state('exp_avg_sq', lambda t: -t - 1),
    'sparse': each_state('exp_avg', lambda t: t.to_sparse()),
    'nowhere': each_state('exp_avg', lambda t: t.to('meta')),
    'a list': each_state('exp_avg', lambda t: [1.0]),
    'step a number': each_state('step', lambda t: 4),
    'step of many': each_state('step', lambda t: torch.zeros(3)),
    'step below 0': each_state('step', lambda t: t - 9),
    'step infinite': each_state('step', lambda t: t * float('inf')),
    'one state less': lambda stored: stored['state'].popitem(),
    'one state more': lambda stored: stored['state'].update({999: stored['state'][0]}),
    'no states': lambda stored: stored.update(state={}),
    'states a list': lambda stored: stored.update(state=[]),
    'named states': lambda stored: stored.update(state={str(k): v for k, v in stored['state'].items()}),
    'no squares': lambda stored: stored['state'][3].pop('exp_avg_sq'),
    'something more': lambda stored: stored['state'][3].update(other=torch.zeros(1)),
    'largest squares of one element': lambda stored: stored['state'][3].update(max_exp_avg_sq=torch.zeros(1)),
    'a state that is none': lambda stored: stored['state'].update({3: None}),
    'no groups': lambda stored: stored.update(param_groups=[]),
    'two groups': lambda stored: stored.update(param_groups=stored['param_groups'] * 2),
    'no group': lambda stored: stored.pop('param_groups'),
    'more': lambda stored: stored.update(other=1),
    'climbing': group(maximize=True), 'maximize a word': group(maximize='x'), 'other amsgrad': group(amsgrad=None),
    'other betas': group(betas=(0.5, 0.999)), 'betas a word': group(betas='x'), 'other eps': group(eps=0.0),
    'lr a word': group(lr='x'), 'lr below 0': group(lr=-1.0), 'lr NaN': group(lr=float('nan')),
    'lr huge': group(lr=MANY),
    'lr a tensor': group(lr=torch.zeros(3)), 'weight decay': group(weight_decay='x'), 'fused a word': group(fused='x'),
    'unknown': group(other=1), 'params': group(params=[0]), 'params twice': group(params=[0] * 76),
    'params a number': group(params=5), 'no eps': lambda stored: stored['param_groups'][0].pop('eps'),
}


@pytest.mark.parametrize('forge', FORGED.values(), ids=FORGED.keys())
def test_states_of_another_form_are_refused(optimised, tmp_path, forge):
    """Some of them would have the fused kernel write over other memory, others train uphill or crash later."""
    _, optimizer, stored = optimised
    stored = copy.deepcopy(stored)
    forge(stored)
    with pytest.raises(FileError, match='its optimizer state does not fit the model: ') as caught:
        restore_optimizer(tmp_path / 'a.bin', optimizer, stored)
    check_line(caught.value, tmp_path)
    assert not optimizer.state


# ---- the whole program ------------------------------------------------------------------------------------------


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of a run's checkpoint folder, to be written to."""
    return shutil.copytree(trained[0], tmp_path / 'c')


@pytest.fixture
def resume(h36m_folder, folder, tmp_path):
    return ['-c', folder, '-l', tmp_path / 'l', '--data', h36m_folder, '-e', 3, '--device', 'cpu', '--resume']


@pytest.mark.parametrize('where, value, says', [
    (('settings', 'loss'), 'x', "its setting loss is 'x', expected weighted, mpjpe"),
    (('optimizer', 'param_groups', 0, 'maximize'), True, 'maximize is True, expected False'),
    (('step',), 10 ** 6, 'lies at step 1,000,000 of an epoch, which has'),
    (('optimizer', 'state', 5, 'exp_avg_sq'), torch.zeros(1), 'exp_avg_sq of parameter 5 is (1,)'),
])
def test_resuming_says_what_cannot_be(saved, folder, refused, resume, where, value, says):
    changed(saved, folder / 'x.bin', *where, value)
    assert says in refused(1, *resume, 'x.bin')


@pytest.mark.parametrize('where, value, says', [
    (('settings', 'downsample'), 0, 'its setting downsample is 0'), (('model',), 'a\nb', "its model is 'a\\nb'"),
    (('config', 'depth'), 10 ** 7, 'describes a model that its weights contradict: depth 10000000'),
])
def test_evaluating_says_what_cannot_be(saved, folder, h36m_folder, refused, where, value, says):
    changed(saved, folder / 'x.bin', *where, value)
    assert says in refused(1, '-c', folder, '--evaluate', 'x.bin', '--data', h36m_folder, '--device', 'cpu')


@pytest.mark.parametrize('change, dtype', [(lambda t: t.int(), 'int32'), (lambda t: t.cfloat(), 'complex64'),
                                           (lambda t: t > 0, 'bool')])
def test_weights_that_are_no_real_numbers_are_refused(saved, folder, h36m_folder, refused, change, dtype):
    weights = {key: change(value) for key, value in saved['model_pos'].items()}
    for stored in ({**saved, 'model_pos': weights}, {'state_dict': weights}):
        torch.save(stored, folder / 'x.bin')
        assert f'holds {dtype}, not float32' in refused(1, '-c', folder, '--evaluate', 'x.bin', '--data', h36m_folder,
                                                        '-k', 'gt', '--device', 'cpu')


def test_a_public_file_goes_on_at_its_epoch_and_rate_whatever_numbers_they_are(saved, h36m_folder, run, tmp_path):
    torch.save({'epoch': np.int64(7), 'lr': np.float32(0.25) / 1024, 'model_pos': saved['model_pos'],
                'random_state': np.random.RandomState(1)}, tmp_path / 'p.bin')
    status, out, err = run('-k', 'gt', '--data', h36m_folder, '-str', 'S1', '-ste', 'S9', *SMALL[:-4], '--device',
                               'cpu',
                           '--resume', tmp_path / 'p.bin', '-e', 8, '-c', tmp_path / 'c', '-l', tmp_path / 'l')
    assert (status, err) == (0, '')
    assert 'at epoch 7, lr 0.000244' in out and 'epoch 8/8  lr 0.000244' in out
    assert torch.load(tmp_path / 'c' / 'last.bin', weights_only=True)['base_lr'] == 0.25 / 1024


@pytest.mark.parametrize('damage', ['weights', 'optimizer', 'cut', *(
    pytest.param(damage, marks=pytest.mark.slow) for damage in ('header', 'empty', 'pickle'))])
def test_any_damage_to_last_leads_to_the_save_before(folder, resume, run, damage):
    last = folder / 'last.bin'
    whole = bytearray(last.read_bytes())
    stored = torch.load(last, weights_only=True)
    places = {'weights': stored['model_pos']['head.1.weight'], 'optimizer': stored['optimizer']['state'][3]['exp_avg']}
    if damage in places:
        whole[whole.index(places[damage].numpy().tobytes()) + 3] ^= 0x40
    elif damage == 'empty':
        whole = b''
    elif damage == 'cut':
        whole = whole[:-50]
    else:
        whole[{'header': 1, 'pickle': whole.index(b'loss_sum')}[damage]] ^= 0x10
    last.write_bytes(whole)
    status, out, err = run(*resume)
    assert (status, err) == (0, '')
    assert 'last.bin is not a readable checkpoint' in out and 'previous.bin, the save before it, is there: going' in out
    assert torch.load(last, weights_only=True)['epoch'] == 3
    assert os.path.getsize(folder / 'last.damaged') == len(whole)


@pytest.mark.parametrize('name', ['metrics.jsonl', 'resumed.jsonl', 'run.json'])
def test_pipes_in_a_run_folder_are_not_waited_for(trained, folder, h36m_folder, refused, tmp_path, name):
    """Those of the records end in one line; a run.json that is none is that of another run's folder."""
    log = shutil.copytree(next(trained[1].iterdir()), tmp_path / 'l' / 'run')
    (log / name).unlink(missing_ok=True)
    os.mkfifo(log / name)
    stored = torch.load(folder / 'last.bin', weights_only=True)
    del stored[DIGEST]
    torch.save({**stored, 'run': str(log)}, folder / 'last.bin')
    if name == 'run.json':
        assert not is_run_folder(log, stored['run_id'], tmp_path)
        return
    line = refused(1, '-c', folder, '-l', tmp_path / 'l', '--data', h36m_folder, '-e', 3, '--device', 'cpu', '--resume')
    assert f'{name}: it is not a regular file' in line
