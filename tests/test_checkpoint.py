"""Checkpoints: written whole or not at all, read without running anything, public ones of both numpys included."""

import os
import pickle
import signal
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import Process

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
    assert (saved.public, saved.epoch, saved.lr, saved.config) == (False, 3, 1e-3, CONFIG)
    assert saved.skeleton == saved.layout == H36M
    assert saved.settings['actions'] == ('A', 'B')
    other = build_model('ktpformer', CONFIG, H36M, H36M)
    load_weights(other, saved)
    for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def public(path, model, prefix='', numpy_major=2, **more):
    """A file as the published program writes it: numpy generator object, prefixed keys."""
    state = {prefix + key: value for key, value in model.state_dict().items()}
    torch.save({'epoch': 7, 'lr': 4e-5, 'random_state': np.random.RandomState(1234), 'optimizer': None,
                'model_pos': state, **more}, path)
    if numpy_major == 1:
        with zipfile.ZipFile(path) as archive:
            members = {info: archive.read(info) for info in archive.infolist()}
        with zipfile.ZipFile(path, 'w', zipfile.ZIP_STORED) as archive:
            for info, data in members.items():
                archive.writestr(info.filename, data.replace(b'numpy._core', b'numpy.core'))


@pytest.mark.parametrize('prefix', ['', 'module.'])
@pytest.mark.parametrize('numpy_major', [1, 2])
def test_public_files_load(tmp_path, model, prefix, numpy_major):
    public(tmp_path / 'p.bin', model, prefix, numpy_major)
    saved = load(tmp_path / 'p.bin')
    assert (saved.public, saved.epoch, saved.lr) == (True, 7, 4e-5)
    load_weights(build_model('ktpformer', CONFIG, H36M, H36M), saved)


def test_public_files_with_an_optimizer_and_of_the_old_format(tmp_path, model):
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.zeros(1, 9, 17, 2)).sum().backward()
    optimizer.step()
    torch.save({'epoch': 7, 'lr': 4e-5, 'random_state': np.random.RandomState(1), 'optimizer': optimizer.state_dict(),
                'model_pos': model.state_dict()}, tmp_path / 'p.bin', _use_new_zipfile_serialization=False)
    assert load(tmp_path / 'p.bin').epoch == 7


def test_bare_state_dicts_load(tmp_path, model):
    torch.save(model.state_dict(), tmp_path / 's.pth')
    assert load(tmp_path / 's.pth').public


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
    ({'epoch': 3}, 'holds no model weights'), ({'model_pos': {'a': 1}}, 'holds no model weights'),
    ({'format': 99, 'model_pos': {'a': torch.zeros(1)}}, 'format 99, this program reads 1'),
    ({'format': 1, 'model_pos': {'a': torch.zeros(1)}}, 'is not a complete checkpoint: its epoch is None'),
])
def test_files_that_are_no_checkpoints(tmp_path, stored, message):
    torch.save(stored, tmp_path / 'a.bin')
    with pytest.raises(FileError, match=message):
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
