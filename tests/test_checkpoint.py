"""Checkpoints: written whole or not at all, read without running anything, in every form that public files have."""

import argparse
import json
import os
import pickle
import signal
import struct
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import Process
from safetensors.torch import save_file

from common.errors import FileError
from common.models import build_model
from common.skeleton import H36M
from common.storage import checkpoint
from common.storage.checkpoint import describe, find, load, load_weights, save, save_last

CONFIG = {'frames': 9, 'channels': 16, 'depth': 1}


@pytest.fixture
def model():
    return build_model('ktpformer', CONFIG, H36M, H36M)


def content(model, **more):
    return {'model': 'ktpformer', 'config': CONFIG, 'skeleton': describe(H36M), 'layout': describe(H36M),
            'dataset': 'h36m', 'keypoints': 'gt', 'run_id': 'x',
            'settings': {'seed': 1, 'actions': ('A', 'B'), 'subset': None},
            'first_epoch': 1, 'run': 'r', 'epoch': 3, 'lr': 1e-3, 'metrics': {'valid_mpjpe': 1.5}, 'best': None,
            'step': 0, 'loss_sum': 0.0, 'base_lr': 1e-3, 'lr_since': 1, 'training_state': None, 'optimizer': {},
            'model_pos': model.state_dict(), **more}


def test_ours_comes_back_whole_and_is_plain(tmp_path, model):
    save(tmp_path / 'a.bin', content(model))
    torch.load(tmp_path / 'a.bin', weights_only=True)  # nothing but plain values and tensors
    saved = load(tmp_path / 'a.bin')
    assert isinstance(saved, checkpoint.OwnCheckpoint)
    assert (saved.public, saved.epoch, saved.lr, saved.config) == (False, 3, 1e-3, CONFIG)
    assert saved.skeleton == saved.layout == H36M
    assert saved.settings['actions'] == ('A', 'B')
    other = build_model('ktpformer', CONFIG, H36M, H36M)
    load_weights(other, saved)
    for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


STATE = {'a.weight': torch.tensor([[1.5, -0.0], [float('nan'), 1e-42]]), 'a.bias': torch.zeros(0, 3),
         'a.module.scale': torch.tensor(2.5, dtype=torch.float16), 'b.num_batches_tracked': torch.tensor(7)}


def prefixed(prefix):
    return {prefix + key: value for key, value in STATE.items()}


def holds_state(saved):
    """Check that a file's weights are STATE's, bit for bit, under its keys, on the CPU."""
    def bits(state):
        return [(key, v.dtype, v.shape, v.device.type, v.numpy().tobytes()) for key, v in state.items()]
    return bits(saved.state) == bits(STATE)


def replace_in_pickle(path, old, new):
    """Rewrite bytes of the pickle inside a file, zip or legacy."""
    if not zipfile.is_zipfile(path):
        assert old in path.read_bytes()
        return path.write_bytes(path.read_bytes().replace(old, new))
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            assert old in data or not name.endswith('data.pkl')
            archive.writestr(name, data.replace(old, new) if name.endswith('data.pkl') else data)


def save_public(path, zipped=True, numpy_major=2, **content):
    """Write a file as public programs do, with numpy's objects beside what is given."""
    generator = np.random.RandomState(1234)
    torch.save({'random_state': generator, 'min_loss': np.float32(40.1), 'curve': np.arange(3.0), **content}, path,
               _use_new_zipfile_serialization=zipped)
    if numpy_major == 1:
        replace_in_pickle(path, b'numpy._core', b'numpy.core')


both_containers = pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])


@both_containers
@pytest.mark.parametrize('numpy_major', [1, 2])
@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_a_public_file_fits_the_model_it_was_made_by(tmp_path, model, prefix, numpy_major, zipped):
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.zeros(1, 9, 17, 2)).sum().backward()
    optimizer.step()
    save_public(tmp_path / 'p.bin', zipped, numpy_major, epoch=7, lr=4e-5, optimizer=optimizer.state_dict(),
                model_pos={prefix + key: value for key, value in model.state_dict().items()})
    saved = load(tmp_path / 'p.bin')
    assert isinstance(saved, checkpoint.PublicCheckpoint)
    assert (saved.public, saved.epoch, saved.lr) == (True, 7, 4e-5)
    other = build_model('ktpformer', CONFIG, H36M, H36M)
    load_weights(other, saved)
    for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@both_containers
@pytest.mark.parametrize('name', [None, *checkpoint.WEIGHTS])
@pytest.mark.parametrize('prefix', ['', 'module.', '_orig_mod.', 'module._orig_mod.', '_orig_mod.module.module.'])
def test_weights_are_found_by_name_and_freed_of_prefixes(tmp_path, prefix, name, zipped):
    state = prefixed(prefix)
    content = state if name is None else {'epoch': 3, 'lr': 0.5, name: state}
    torch.save(content, tmp_path / 'a.pth', _use_new_zipfile_serialization=zipped)
    saved = load(tmp_path / 'a.pth')
    assert holds_state(saved)
    assert (saved.epoch, saved.lr) == ((0, None) if name is None else (3, 0.5))


@both_containers
@pytest.mark.parametrize('numpy_major', [1, 2])
@pytest.mark.parametrize('epoch, lr, read', [
    (np.int64(120), np.float64(3.2e-5), (120, 3.2e-5)), (np.uint8(5), np.float32(0.5), (5, 0.5)),
    (np.float64(9), np.int32(1), (9, 1.0)), (torch.tensor(8), torch.tensor([8e-5], dtype=torch.float64), (8, 8e-5)),
    (0, [4e-5], (0, 4e-5)), (1, [np.float64(2e-5)] * 2, (1, 2e-5)), (1, [1e-3, 1e-4], (1, None)),
    (None, None, (0, None)), (2, 0.0, (2, 0.0)),
])
def test_epoch_and_rate_are_read_from_every_kind_of_number(tmp_path, epoch, lr, read, numpy_major, zipped):
    save_public(tmp_path / 'p.bin', zipped, numpy_major, epoch=epoch, lr=lr, model=STATE)
    saved = load(tmp_path / 'p.bin')
    assert (saved.epoch, saved.lr) == read
    assert type(saved.epoch) is int and (saved.lr is None or type(saved.lr) is float)
    assert holds_state(saved)


@pytest.mark.parametrize('name, value, shown', [
    ('epoch', float('nan'), 'nan'), ('epoch', 'best', "'best'"), ('epoch', -1, '-1'), ('epoch', 2.5, '2.5'),
    ('epoch', True, 'True'), ('epoch', 10 ** 400, '1000'), ('epoch', np.float64('inf'), 'inf'),
    ('epoch', np.arange(3), 'an object that is not read'), ('epoch', torch.zeros(2, 2), r'a tensor of shape \(2, 2\)'),
    ('epoch', np.str_('7'), 'an object that is not read'), ('epoch', torch.empty((), device='meta'), 'a tensor'),
    ('lr', float('nan'), 'nan'), ('lr', 'high', "'high'"), ('lr', -1e-3, '-0.001'), ('lr', np.float32('inf'), 'inf'),
    ('lr', torch.tensor(1j), '1j'), ('lr', [float('nan')], 'nan'), ('lr', 10 ** 400, '1000'),
])
def test_an_epoch_or_rate_that_cannot_be_is_refused(tmp_path, name, value, shown):
    torch.save({name: value, 'state_dict': STATE}, tmp_path / 'a.pth')
    with pytest.raises(FileError, match=rf'a\.pth: its {name} is {shown}.*, expected a .*; to do without, save its'):
        load(tmp_path / 'a.pth')


@both_containers
def test_files_saved_from_cuda_open_on_the_cpu(tmp_path, zipped):
    save_public(tmp_path / 'c.bin', zipped, state_dict=STATE)
    replace_in_pickle(tmp_path / 'c.bin', b'X\x03\x00\x00\x00cpu', b'X\x06\x00\x00\x00cuda:0')
    assert holds_state(load(tmp_path / 'c.bin'))


def test_buffers_of_profilers_and_command_lines_are_passed_over(tmp_path):
    counted = {'total_ops': torch.zeros(1), 'module.a.total_params': torch.zeros(1), 'a.b.total_ops': 3}
    torch.save({**counted, **prefixed('module.')}, tmp_path / 'bare.pth')
    torch.save({'args': argparse.Namespace(frames=27), 'net': {**STATE, **counted}}, tmp_path / 'named.pth')
    assert holds_state(load(tmp_path / 'bare.pth'))
    assert holds_state(load(tmp_path / 'named.pth'))


def test_weights_beside_settings_of_a_usual_name(tmp_path):
    torch.save({'state_dict': None, 'model': {'depth': 5}, 'net': STATE}, tmp_path / 'a.pth')
    assert holds_state(load(tmp_path / 'a.pth'))


def test_a_weight_called_format_does_not_make_a_file_ours(tmp_path):
    torch.save({'format': torch.zeros(2)}, tmp_path / 'a.pth')
    assert load(tmp_path / 'a.pth').public


@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_safetensors_files_open(tmp_path, prefix):
    save_file(prefixed(prefix), tmp_path / 'w.safetensors', {'format': 'pt'})
    saved = load(tmp_path / 'w.safetensors')
    assert (saved.public, saved.epoch, saved.lr) == (True, 0, None)
    assert dict(sorted(saved.state.items())).keys() == dict(sorted(STATE.items())).keys()
    assert holds_state(replace(saved, state={key: saved.state[key] for key in STATE}))


def test_safetensors_files_say_what_to_install(tmp_path, monkeypatch):
    save_file(STATE, tmp_path / 'w.safetensors')
    monkeypatch.setitem(sys.modules, 'safetensors.torch', None)
    with pytest.raises(FileError, match=r'w\.safetensors needs safetensors: pip install safetensors'):
        load(tmp_path / 'w.safetensors')


def safetensors_file(header, data=bytes(16), length=None):
    header = json.dumps(header).encode() if isinstance(header, dict) else header
    return struct.pack('<Q', len(header) if length is None else length) + header + data


ENTRY = {'dtype': 'F32', 'shape': [4], 'data_offsets': [0, 16]}


@pytest.mark.parametrize('content', [
    b'', b'hello' * 99, safetensors_file(b''), safetensors_file(b'[]'), safetensors_file(b'{"a":'),
    *(safetensors_file({'w': ENTRY}, length=length) for length in (0, 1, 40, 80, 2 ** 40, 2 ** 64 - 1)),
    safetensors_file({'w': ENTRY}, bytes(15)), safetensors_file({'w': ENTRY | {'dtype': 'F33'}}),
    safetensors_file({'w': ENTRY | {'shape': [2 ** 62, 4]}}), safetensors_file({'w': ENTRY | {'shape': [-4]}}),
    safetensors_file({'w': ENTRY | {'data_offsets': [16, 0]}}), safetensors_file({'w': ENTRY, 'v': ENTRY}),
])
def test_broken_safetensors_end_in_one_sentence(tmp_path, content):
    (tmp_path / 'w.safetensors').write_bytes(content)
    with pytest.raises(FileError, match=r'w\.safetensors is not a readable checkpoint: it is truncated or of another'):
        load(tmp_path / 'w.safetensors')


@pytest.mark.parametrize('kind', ['zip', 'legacy', 'safetensors'])
def test_truncated_files_end_in_one_sentence(tmp_path, kind):
    path = tmp_path / ('w.safetensors' if kind == 'safetensors' else 'w.bin')
    if kind == 'safetensors':
        save_file(STATE, path)
    else:
        save_public(path, kind == 'zip', state_dict=STATE)
    whole = path.read_bytes()
    for length in [*range(0, len(whole) - 8, 1 + len(whole) // 97), *range(len(whole) - 8, len(whole))]:
        path.write_bytes(whole[:length])
        with pytest.raises(FileError, match=r'w\.\w+ is not a readable checkpoint: it is truncated .* fetch or save'):
            load(path)
    path.write_bytes(whole)
    load(path)


@pytest.mark.parametrize('name', ['folder.bin', 'folder.safetensors'])
def test_folders_and_missing_files_are_said_to_be_so(tmp_path, name):
    with pytest.raises(FileError, match=f'{name} is missing'):
        load(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(FileError, match=f'cannot read .*{name}: Is a directory'):
        load(tmp_path / name)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f'touch {self.path}',)


@pytest.mark.parametrize('new_format', [True, False])
def test_hostile_files_are_refused_by_name_and_never_run(tmp_path, model, new_format):
    mark = tmp_path / 'mark'
    torch.save({'epoch': 1, 'random_state': Evil(mark), 'model_pos': model.state_dict()}, tmp_path / 'e.bin',
               _use_new_zipfile_serialization=new_format)
    with pytest.raises(FileError, match=r'e\.bin is refused: it asks for posix\.system.*nothing in it was executed'):
        load(tmp_path / 'e.bin')
    assert not mark.exists()


@pytest.mark.parametrize('damage', [lambda b: b[:len(b) // 2], lambda b: b[:-9], lambda b: b'', lambda b: b'hello' * 99,
                                    lambda b: pickle.dumps([1, 2]), lambda b: b'PK\x03\x04' + bytes(50)])
def test_broken_files_end_in_one_sentence(tmp_path, model, damage):
    save(tmp_path / 'a.bin', content(model))
    (tmp_path / 'b.bin').write_bytes(damage((tmp_path / 'a.bin').read_bytes()))
    with pytest.raises(FileError, match=r'b\.bin'):
        load(tmp_path / 'b.bin')


@pytest.mark.parametrize('stored, message', [
    ([1, 2], 'holds list, expected a checkpoint'), ({}, 'holds no model weights'),
    ({'epoch': 3}, "holds no model weights: there are none under model_pos, .* no bare state dict, as 'epoch' is 3"),
    ({'model_pos': {'a': 1}}, "holds no model weights: under model_pos, 'a' is 1, not a tensor"),
    ({'net': {'a': torch.zeros(1), 'b': [2.0]}}, r"holds no model weights: under net, 'b' is \[2.0\], not a tensor"),
    ({'net': {'total_ops': torch.zeros(1)}}, 'holds no model weights: under net, it is empty'),
    ({'mean': np.zeros(96)}, "no bare state dict, as 'mean' is an object that is not read"),
    ({'model': STATE, 'net': STATE}, 'holds weights under model and net: save those you mean'),
    ({'model': {'a': torch.zeros(1), 'module.a': torch.zeros(1)}}, "holds 'a' twice"),
    ({'format': 99, 'model_pos': {'a': torch.zeros(1)}}, 'format 99, this program reads 1'),
    ({'format': 1, 'model_pos': {'a': torch.zeros(1)}}, 'is not a complete checkpoint: its epoch is None'),
])
def test_files_that_are_no_checkpoints(tmp_path, stored, message):
    torch.save(stored, tmp_path / 'a.bin')
    with pytest.raises(FileError, match=message):
        load(tmp_path / 'a.bin')


@pytest.mark.parametrize('change, message', [
    ({'epoch': -3}, 'its epoch is -3'), ({'epoch': 'three'}, "its epoch is 'three'"),
    ({'lr': float('nan')}, 'its lr is nan'), ({'keypoints': None}, 'its keypoints is None'),
    ({'training_state': {'w': 1}}, "under training_state, 'w' is 1, not a tensor"),
    ({'skeleton': {'name': 'h36m'}}, 'its skeleton has no joints'),
])
def test_damaged_facts_in_files_of_ours_are_named(tmp_path, model, change, message):
    save(tmp_path / 'a.bin', content(model, **change))
    with pytest.raises(FileError, match=rf'a\.bin is not a complete checkpoint.*{message}'):
        load(tmp_path / 'a.bin')


def test_every_fact_of_a_file_of_ours_is_needed(tmp_path, model):
    for name in content(model):
        lacking = content(model)
        del lacking[name]
        save(tmp_path / 'a.bin', lacking)
        with pytest.raises(FileError, match=rf'is not a complete checkpoint.*{name}|no model weights'):
            load(tmp_path / 'a.bin')


def test_weights_must_fit_one_by_one(tmp_path, model):
    save(tmp_path / 'a.bin', content(model))
    saved = load(tmp_path / 'a.bin')
    for config, message in (({'channels': 24}, r'is \(1, 17, 16\), not \(1, 17, 24\) \(and \d+ more\)'),
                            ({'depth': 2}, r'STEblocks\.1.* is missing'),
                            ({'tpa': False}, 'is not a weight of this model')):
        with pytest.raises(FileError, match=message):
            load_weights(build_model('ktpformer', CONFIG | config, H36M, H36M), saved)


def test_find_looks_in_the_folder_then_at_the_path(tmp_path, monkeypatch):
    (tmp_path / 'c').mkdir()
    (tmp_path / 'c' / 'a.bin').touch()
    (tmp_path / 'b.bin').touch()
    monkeypatch.chdir(tmp_path)
    assert find('a.bin', Path('c')) == Path('c/a.bin')
    assert find('b.bin', Path('c')) == Path('b.bin')
    with pytest.raises(FileError, match=r'none\.bin is neither in c nor a file of that path'):
        find('none.bin', Path('c'))


def test_the_last_but_one_is_kept(tmp_path, model):
    for epoch in (1, 2, 3):
        save_last(tmp_path, content(model, epoch=epoch))
    assert load(tmp_path / checkpoint.LAST).epoch == 3
    assert load(tmp_path / checkpoint.PREVIOUS).epoch == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ['last.bin', 'previous.bin']


def test_one_save_under_several_names(tmp_path, model):
    """Each is a file of its own: damage to one is not damage to all, and the next save changes no other's content."""
    save_last(tmp_path, content(model, epoch=1), ['best.bin', 'epoch_1.bin'])
    assert len({(tmp_path / name).stat().st_ino for name in ('last.bin', 'best.bin', 'epoch_1.bin')}) == 3
    save_last(tmp_path, content(model, epoch=2))
    assert [load(tmp_path / name).epoch for name in ('last.bin', 'previous.bin', 'best.bin')] == [2, 1, 1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ['best.bin', 'epoch_1.bin', 'last.bin', 'previous.bin']


def test_what_cannot_be_written_is_one_sentence(tmp_path, model):
    (tmp_path / 'folder').mkdir()
    for path, message in ((tmp_path / 'none' / 'a.bin', 'cannot write'), (Path('/dev/null'), 'not a regular file'),
                          (tmp_path / 'folder', 'not a regular file')):
        with pytest.raises(FileError, match=message):
            save(path, content(model))


def test_a_link_goes_on_pointing_at_what_was_written(tmp_path, model):
    (tmp_path / 'real').mkdir()
    (tmp_path / 'a.bin').symlink_to(tmp_path / 'real' / 'a.bin')
    save(tmp_path / 'a.bin', content(model))
    assert (tmp_path / 'a.bin').is_symlink()
    assert load(tmp_path / 'real' / 'a.bin').epoch == 3


def test_file_systems_without_links_still_keep_the_last_but_one(tmp_path, model, monkeypatch):
    def refuse(*_):
        raise OSError('no links here')
    monkeypatch.setattr(os, 'link', refuse)
    for epoch in (1, 2):
        save_last(tmp_path, content(model, epoch=epoch))
    assert load(tmp_path / checkpoint.PREVIOUS).epoch == 1


SAVER = """
import sys, torch
from pathlib import Path
from common.storage.checkpoint import save_last
epoch = 0
while True:
    epoch += 1
    save_last(Path(sys.argv[1]), {'epoch': epoch, 'model_pos': {'w': torch.full((300_000,), float(epoch))}})
"""


def test_killed_while_saving_the_last_checkpoint_stays_readable(tmp_path):
    """SIGKILL at arbitrary moments of a process that does nothing but save: last.bin is always a whole file."""
    script = tmp_path / 'saver.py'
    script.write_text(SAVER)
    for pause in (0.05, 0.08, 0.11, 0.16):
        (tmp_path / 'last.bin').unlink(missing_ok=True)
        process = Process(script, tmp_path)
        while not (tmp_path / 'last.bin').exists() and not process.ended():
            time.sleep(0.005)
        time.sleep(pause)
        process.send(signal.SIGKILL)
        assert process.wait()[0] == -signal.SIGKILL
        saved = torch.load(tmp_path / 'last.bin', weights_only=True)
        assert (saved['model_pos']['w'] == saved['epoch']).all()
