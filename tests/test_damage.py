"""Damaged files: a checkpoint of ours with any bit changed is refused or is what it was; so are archives as such."""

import io
import random
import struct
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from test_checkpoint import CONFIG, content, replace_in_pickle

from common.errors import FileError
from common.models import build_model
from common.skeleton import H36M
from common.storage import archive, checkpoint
from common.storage.checkpoint import load, save, save_last
from common.storage.npz import read_npz, write_npz


def tiny(**more):
    """Return what a checkpoint of ours holds, with few weights."""
    weights = {'a.weight': torch.arange(6.0).reshape(2, 3), 'a.bias': torch.tensor([0.5, -1]),
               'n.num_batches_tracked': torch.tensor(7)}
    state = {0: {'step': torch.tensor(4.0), 'exp_avg': torch.ones(2, 3), 'exp_avg_sq': torch.ones(2, 3) / 3}}
    group = {'lr': 1e-3, 'betas': (0.9, 0.999), 'params': [0]}
    nothing = torch.nn.Linear(1, 1)
    return content(nothing, model_pos=weights, optimizer={'state': state, 'param_groups': [group]}, **more)


def plain(value):
    """Return a value from a checkpoint in a form that == compares, tensors by their bits."""
    if isinstance(value, torch.Tensor):
        return value.dtype, tuple(value.shape), value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def flips(whole, positions):
    """Yield (position, content) with one bit of each of these bytes changed."""
    for position in positions:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position * 5 % 8
        yield position, bytes(damaged)


def check_message(error, path):
    """Check that a refusal names the file, in one line of usual length."""
    assert str(path) in str(error) and '\n' not in str(error) and len(str(error)) < 600


def assert_noticed_or_harmless(path, whole, positions):
    """Check that files with a bit changed are refused, or come as they were saved; return how many are refused."""
    path.write_bytes(whole)
    sound, refused = plain(load(path).stored), 0
    for position, damaged in flips(whole, positions):
        path.write_bytes(damaged)
        try:
            saved = load(path)
        except FileError as error:
            refused += 1
            check_message(error, path)
        else:
            assert not saved.public and plain(saved.stored) == sound, position
    return refused


def test_a_changed_bit_anywhere_is_noticed_or_changes_nothing(tmp_path):
    save(tmp_path / 'a.bin', tiny())
    whole = (tmp_path / 'a.bin').read_bytes()
    with zipfile.ZipFile(io.BytesIO(whole)) as file:  # every kind of place: in each header, member, and in the list
        places = [info.header_offset + offset for info in file.infolist() for offset in range(0, 64, 3)]
        places += range(file.start_dir, len(whole), 4)
    places += range(0, len(whole), 29)
    refused = assert_noticed_or_harmless(tmp_path / 'a.bin', whole, places)
    assert refused > len(places) / 2


@pytest.mark.slow
def test_a_changed_bit_in_every_byte_is_noticed_or_changes_nothing(tmp_path):
    save(tmp_path / 'a.bin', tiny())
    whole = (tmp_path / 'a.bin').read_bytes()
    assert_noticed_or_harmless(tmp_path / 'a.bin', whole, range(len(whole)))
    save(tmp_path / 'b.bin', content(build_model('ktpformer', CONFIG, H36M, H36M)))
    whole = (tmp_path / 'b.bin').read_bytes()
    assert_noticed_or_harmless(tmp_path / 'b.bin', whole, random.Random(0).sample(range(len(whole)), 4000))


def rewritten(path, change):
    """Write an archive anew, with right sums, its members' content changed by change(name, bytes)."""
    with zipfile.ZipFile(path) as file:
        members = {info.filename: file.read(info) for info in file.infolist()}
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_STORED) as file:
        for name, data in members.items():
            file.writestr(name, change(name, data))


@pytest.mark.parametrize('member', ['0', '1', '3', '4', '5'])
def test_other_numbers_under_right_sums_are_noticed_by_the_digest(tmp_path, member):
    save(tmp_path / 'a.bin', tiny(training_state={'a.weight': torch.ones(2, 3)}))
    rewritten(tmp_path / 'a.bin', lambda _, data: data)
    load(tmp_path / 'a.bin')
    rewritten(tmp_path / 'a.bin', lambda name, data: bytes([data[0] ^ 1]) + data[1:] if name.endswith(f'/data/{member}')
              else data)
    with pytest.raises(FileError, match=r'a\.bin is not a readable checkpoint: it is damaged, as its weights or the'):
        load(tmp_path / 'a.bin')


def test_files_of_before_there_were_digests_load(tmp_path):
    torch.save({'format': 1, **tiny()}, tmp_path / 'a.bin')
    assert load(tmp_path / 'a.bin').epoch == 3


def test_the_message_says_that_the_save_before_is_there(tmp_path):
    for epoch in (1, 2):
        save_last(tmp_path, tiny(epoch=epoch), ['best.bin'])
    for name, which in (('last.bin', 'the save before it'), ('best.bin', 'the last save but one')):
        path = tmp_path / name
        whole = bytearray(path.read_bytes())
        whole[whole.index(b'exp_avg') - 3] ^= 64
        path.write_bytes(whole)
        with pytest.raises(FileError, match=rf'{name} .*damaged, as the sum of .*previous\.bin, {which}, is there$'):
            load(path)
    assert load(tmp_path / 'previous.bin').epoch == 1
    (tmp_path / 'previous.bin').unlink()
    with pytest.raises(FileError, match=r'last\.bin .*; fetch or save it again$'):
        load(tmp_path / 'last.bin')


def test_damage_to_public_files_is_noticed_where_they_have_sums(tmp_path):
    path, state = tmp_path / 'p.bin', {'w': torch.full((500,), 1.5)}
    torch.save(state, path)
    whole = bytearray(path.read_bytes())
    whole[whole.index(struct.pack('<f', 1.5) * 3) + 70] ^= 4
    path.write_bytes(whole)
    with pytest.raises(FileError, match=r'p\.bin is not a readable checkpoint: it is damaged, as the sum of its'):
        load(path)
    before = torch.serialization.get_crc32_options()
    try:
        torch.serialization.set_crc32_options(False)
        torch.save(state, path)
    finally:
        torch.serialization.set_crc32_options(before)
    assert torch.equal(load(path).state['w'], state['w'])


# ---- archives ---------------------------------------------------------------------------------------------------


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize('names', [('w.npy', 'w.npy'), ('w', 'w.npy')])
def test_two_members_of_one_name_are_refused(tmp_path, names):
    with zipfile.ZipFile(tmp_path / 'a.npz', 'w') as file, warnings.catch_warnings():
        warnings.simplefilter('ignore')  # zipfile says that it is asked for a second one
        for name in names:
            file.writestr(name, npy(np.full(3, file.fp.tell())))
    with pytest.raises(FileError, match=r"a\.npz is not a readable npz file \(it has two members '?w"):
        read_npz(tmp_path / 'a.npz')


def test_a_checkpoint_with_two_members_of_one_name_is_refused(tmp_path):
    save(tmp_path / 'a.bin', tiny())
    with zipfile.ZipFile(tmp_path / 'a.bin', 'a') as file, pytest.warns(UserWarning, match='Duplicate'):
        file.writestr('archive/data/0', bytes(24))
    with pytest.raises(FileError, match="damaged, as it has two members 'archive/data/0'"):
        load(tmp_path / 'a.bin')


@pytest.mark.parametrize('deflated', [False, True])
@pytest.mark.parametrize('field, offset', [('list', 24), ('list', 20), ('header', 22), ('header', 18), ('header', 14),
                                           ('list', 16), ('list', 10)])
@pytest.mark.parametrize('by', [-8, 8])
def test_forged_sizes_and_sums_are_refused(tmp_path, field, offset, by, deflated):
    """The size, packed size, sum and method of a member, in its own header and in the list at the end."""
    path = tmp_path / 'a.npz'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED) as file:
        file.writestr('w.npy', npy(np.arange(20.0)))
    assert read_npz(path)['w'].tolist() == list(range(20))
    whole = bytearray(path.read_bytes())
    at = (whole.rindex(b'PK\x01\x02') if field == 'list' else whole.index(b'PK\x03\x04')) + offset
    value, = struct.unpack_from('<I', whole, at)
    struct.pack_into('<I', whole, at, (value + by) % 2 ** 32)
    path.write_bytes(whole)
    with pytest.raises(FileError, match=r'a\.npz is not a readable npz file'):
        read_npz(path)


def test_bytes_that_belong_to_no_member_are_noticed(tmp_path):
    write_npz(tmp_path / 'a.npz', w=np.zeros(3), v=np.ones(2))
    whole = (tmp_path / 'a.npz').read_bytes()
    (tmp_path / 'a.npz').write_bytes(b'before' + whole)  # zipfile passes over it
    with pytest.raises(FileError, match=r"there is a gap or an overlap before its member 'w\.npy'"):
        read_npz(tmp_path / 'a.npz')


def test_a_tensor_larger_than_its_file_is_refused(tmp_path):
    for zipped in (True, False):
        torch.save({'w': torch.zeros(77)}, tmp_path / 'a.bin', _use_new_zipfile_serialization=zipped)
        size = b'KMt' if zipped else b'KMN'
        replace_in_pickle(tmp_path / 'a.bin', size, b'J\x00\x00\x00\x7f' + size[2:])
        with pytest.raises(FileError, match='it declares a tensor of 2130706432 numbers'):
            load(tmp_path / 'a.bin')


@pytest.mark.parametrize('payload, name', [
    (b'\x80\x02cbuiltins\nbytearray\nJ\x00\x00\x00\x7f\x85R.', 'builtins.bytearray'),
    (b'\x80\x02ctorch\nFloatTensor\nJ\x00\x00\x00\x7f\x85R.', 'torch.FloatTensor'),
    (b'\x80\x02ctorch.storage\nUntypedStorage\nJ\x00\x00\x00\x7f\x85R.', 'torch.storage.UntypedStorage'),
])
def test_what_is_made_by_its_size_alone_is_refused(tmp_path, payload, name):
    torch.save({'w': torch.zeros(7)}, tmp_path / 'a.bin')
    rewritten(tmp_path / 'a.bin', lambda member, data: payload if member.endswith('data.pkl') else data)
    with pytest.raises(FileError, match=rf'a\.bin is refused: it asks for {name}, which no checkpoint needs'):
        load(tmp_path / 'a.bin')


def test_an_archive_that_would_fill_the_memory_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / 'a.npz', 'w', zipfile.ZIP_DEFLATED) as file, file.open('w.npy', 'w') as member:
        member.write(npy(np.zeros(0)))
        for _ in range(300):
            member.write(bytes(2 ** 20))
    with pytest.raises(FileError, match=r'it would fill 300 MiB, expected at most 256 MiB of a file of'):
        read_npz(tmp_path / 'a.npz')
    write_npz(tmp_path / 'b.npz', w=np.zeros(2 ** 22))  # zeros, but few enough
    assert read_npz(tmp_path / 'b.npz')['w'].shape == (2 ** 22,)


def test_inflating_stops_at_the_limit():
    raw = bytes(5000)
    gzipped = zlib.compressobj(9, zlib.DEFLATED, 31)
    gzipped = gzipped.compress(raw) + gzipped.flush()
    for packed in (zlib.compress(raw), gzipped, gzipped + bytes(8)):
        assert archive.inflate(packed, 5000) == raw
        with pytest.raises(archive.DamagedArchive, match='more than'):
            archive.inflate(packed, 4999)
    assert archive.inflate(gzipped * 3, 15000) == 3 * raw
    with pytest.raises(archive.DamagedArchive):
        archive.inflate(gzipped * 3, 14999)
    for cut in (b'', gzipped[:9], gzipped[:-9]):
        with pytest.raises(archive.DamagedArchive, match='cut short'):
            archive.inflate(cut, 9999)


@pytest.mark.parametrize('count', [150, pytest.param(3000, marks=pytest.mark.slow)])
def test_damaged_npz_are_refused_or_what_they_were(tmp_path, count):
    chance, path = random.Random(5), tmp_path / 'a.npz'
    tree = {'S1': {'Walking': [np.arange(60, dtype=np.float32).reshape(10, 3, 2)] * 2}}
    write_npz(path, positions_2d=tree, metadata={'layout_name': 'h36m', 'num_joints': 3}, plain=np.arange(9))
    whole, sound = path.read_bytes(), repr(read_npz(path))
    refused = 0
    for _ in range(count):
        damaged = bytearray(whole)
        for _ in range(chance.choice((1, 1, 1, 4))):
            damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged[:chance.choice((len(whole),) * 9 + (chance.randrange(len(whole)),))])
        try:
            got = repr(read_npz(path))
        except FileError as error:
            refused += 1
            check_message(error, path)
        else:
            assert got == sound
    assert refused > count / 2


def test_previous_goes_unmentioned_where_it_is_the_damaged_one(tmp_path):
    Path(tmp_path / checkpoint.PREVIOUS).write_bytes(b'nothing')
    with pytest.raises(FileError, match=r'previous\.bin is not a readable checkpoint: .*again$'):
        load(tmp_path / checkpoint.PREVIOUS)
