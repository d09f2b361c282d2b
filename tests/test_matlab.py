"""The reader of MATLAB files against scipy's, on what scipy and MATLAB itself wrote; damage ends in one sentence."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from common.errors import FileError
from data.matlab import read_mat, read_mat73

scipy_io = pytest.importorskip('scipy.io')
WRITTEN_BY_MATLAB = Path(scipy_io.__file__).parent / 'matlab' / 'tests' / 'data'


def cell(*items, shape=None):
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array.reshape(shape or (1, len(items)))


VARIABLES = {
    'doubles': np.arange(24.0).reshape(2, 3, 4) / 7, 'singles': np.ones((2, 3), np.float32), 'row': np.arange(5)[None],
    'bytes': np.arange(6, dtype=np.uint8).reshape(3, 2), 'big': np.array([[2 ** 62]]), 'signed': np.array([[-3]]),
    'short': np.array([[1, 2]], np.int16), 'none': np.zeros((0, 3)), 'true': np.array([[True]]),
    'cell': cell(np.eye(2), cell(np.zeros((0, 0)), np.float32([[1, 2]]), shape=(2, 1)), np.arange(3)[None]),
}


def assert_same(got, expected):
    if expected.dtype == object:
        assert got.dtype == object and got.shape == expected.shape
        for ours, theirs in zip(got.ravel(), expected.ravel(), strict=True):
            assert_same(ours, theirs)
    else:
        logical = expected.dtype.kind == 'b'
        assert got.dtype == np.uint8 if logical else got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize('compressed', [False, True])
def test_variables_that_scipy_wrote_are_read(tmp_path, compressed):
    scipy_io.savemat(tmp_path / 'a.mat', VARIABLES, do_compression=compressed)
    for got, expected in zip(read_mat(tmp_path / 'a.mat', *VARIABLES), VARIABLES.values(), strict=True):
        assert_same(got, expected)


@pytest.mark.parametrize('name', ['testdouble', 'testmatrix', 'test3dmatrix', 'testcell', 'testcellnest', 'testminus',
                                  'testemptycell', 'testmulti', 'testbool', 'testscalarcell',
                                  'big_endian', 'little_endian'])
def test_files_that_matlab_wrote_are_read(name):
    """Files of MATLAB 5.3 to 8, of both byte orders; text in them comes as a word for it."""
    paths = [path for path in WRITTEN_BY_MATLAB.glob(f'{name}*.mat') if '_4' not in path.name]
    if not paths:
        pytest.skip('this scipy came without its test files')
    for path in paths:
        members = {key: value for key, value in scipy_io.loadmat(path, mat_dtype=True).items() if key[0] != '_'}
        for got, expected in zip(read_mat(path, *members), members.values(), strict=True):
            assert_matlab_same(got, expected)


def assert_matlab_same(got, expected):
    if isinstance(expected, np.ndarray) and expected.dtype.kind == 'U':
        assert got == 'text'
    elif isinstance(expected, np.ndarray) and expected.dtype == object:
        for ours, theirs in zip(got.ravel(), expected.ravel(), strict=True):
            assert_matlab_same(ours, theirs)
    else:
        assert_same(got, expected.astype(expected.dtype.newbyteorder('=')))


def test_other_classes_are_read_as_a_word(tmp_path):
    import scipy.sparse
    variables = {'text': 'a', 'struct': {'a': 1}, 'sparse': scipy.sparse.eye(3).tocsc(), 'complex': np.array([[1j]])}
    scipy_io.savemat(tmp_path / 'a.mat', variables)
    assert read_mat(tmp_path / 'a.mat', *variables) == ['text', 'a struct', 'a sparse matrix', 'complex numbers']


@pytest.mark.parametrize('compressed', [False, True])
def test_damage_ends_in_one_sentence_or_in_data(tmp_path, compressed):
    """Flipped bytes and every length of truncation; scipy's own reader ends the process over some such files."""
    file, path, random = io.BytesIO(), tmp_path / 'a.mat', np.random.default_rng(0)
    scipy_io.savemat(file, VARIABLES, do_compression=compressed)
    whole = file.getvalue()
    damaged = [whole[:length] for length in range(0, len(whole), 7)]
    for count in range(500):
        content = bytearray(whole)
        for position in random.integers(0, len(whole), 1 + count % 4):
            content[position] = random.integers(256)
        damaged.append(bytes(content))
    messages = []
    for content in damaged:
        path.write_bytes(content)
        try:
            read_mat(path, *VARIABLES)
        except FileError as error:
            messages.append(str(error))
    assert len(messages) > len(damaged) / 4
    assert not [message for message in messages if '\n' in message or 'a.mat' not in message]


def test_missing_foreign_and_newer_files_are_refused(tmp_path):
    path = tmp_path / 'a.mat'
    with pytest.raises(FileError, match=r'a\.mat is missing'):
        read_mat(path, 'x')
    scipy_io.savemat(path, {'y': 1})
    with pytest.raises(FileError, match=r'a\.mat has no variable x'):
        read_mat(path, 'x')
    scipy_io.savemat(path, {'x': 1}, format='4')
    with pytest.raises(FileError, match='not a readable MATLAB file'):
        read_mat(path, 'x')
    for content in (b'MATLAB 7.3'.ljust(124) + b'\0\2IM' + bytes(512), b'\x89HDF\r\n\x1a\n'):
        path.write_bytes(content)
        with pytest.raises(FileError, match=r'is a MATLAB 7\.3 file, expected version 5 to 7: save it with -v7'):
            read_mat(path, 'x')


def test_variables_that_would_fill_the_memory_or_come_twice_are_refused(tmp_path):
    packed = zlib.compressobj(9)
    packed = b''.join(packed.compress(bytes(2 ** 20)) for _ in range(300)) + packed.flush()
    (tmp_path / 'a.mat').write_bytes(b'MATLAB'.ljust(124) + b'\0\1IM' + struct.pack('<II', 15, len(packed)) + packed)
    with pytest.raises(FileError, match=r'a\.mat is not a readable MATLAB file \(it would fill more than 256 MiB\)'):
        read_mat(tmp_path / 'a.mat', 'x')
    scipy_io.savemat(tmp_path / 'a.mat', {'x': 1})
    whole = (tmp_path / 'a.mat').read_bytes()
    (tmp_path / 'a.mat').write_bytes(whole + whole[128:])
    with pytest.raises(FileError, match='two variables x'):
        read_mat(tmp_path / 'a.mat', 'x')


@pytest.mark.parametrize('read', [read_mat, read_mat73])
def test_pipes_are_refused(tmp_path, read):
    os.mkfifo(tmp_path / 'a.mat')
    with pytest.raises(FileError, match=r'a\.mat: it is not a regular file'):
        read(tmp_path / 'a.mat', 'x')


@pytest.mark.parametrize('kind', ['external', 'external link', 'soft link', 'virtual', 'unwritten', 'objects'])
def test_hdf5_that_reads_other_files_or_fills_the_memory_is_refused(tmp_path, kind):
    """A data set can name any file of the user's as the place of its numbers."""
    h5py = pytest.importorskip('h5py')
    path, secret = tmp_path / 'a.mat', tmp_path / 'secret'
    secret.write_bytes(b'PRIVATE KEY ' * 10)
    with h5py.File(tmp_path / 'other.h5', 'w') as file:
        file['x'] = np.arange(15)
    with h5py.File(path, 'w', userblock_size=512) as file:
        file['good'] = np.arange(3.0)
        if kind == 'external':
            file.create_dataset('x', (15,), 'i8', external=[(str(secret), 0, 120)])
        elif kind == 'external link':
            file['x'] = h5py.ExternalLink(str(tmp_path / 'other.h5'), 'x')
        elif kind == 'soft link':
            file['x'] = h5py.SoftLink('good')
        elif kind == 'virtual':
            layout = h5py.VirtualLayout((15,), 'i8')
            layout[:] = h5py.VirtualSource(str(tmp_path / 'other.h5'), 'x', (15,))
            file.create_virtual_dataset('x', layout)
        elif kind == 'unwritten':
            file.create_dataset('x', (10 ** 9,), 'f8', chunks=(1000,))
        else:
            file.create_dataset('x', (15,), h5py.string_dtype())
    if kind == 'objects':
        assert read_mat73(path, 'x') == ['no numbers']
        return
    says = {'external': 'the numbers of its x lie in another file', 'virtual': 'the numbers of its x lie in another',
            'unwritten': 'x would fill 7,629 MiB, expected at most 256 MiB'}
    with pytest.raises(FileError, match=says.get(kind, 'its x is a link to another place')):
        read_mat73(path, 'x')
    assert read_mat73(path, 'good')[0].tolist() == [0, 1, 2]
