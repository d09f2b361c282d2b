import contextlib
import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from common.errors import FileError
from common.storage.npz import read_npz, write_npz

TREE = {
    'S1': {'Walking 1': [np.arange(12, dtype=np.float32).reshape(2, 3, 2), np.zeros((0, 3, 2), np.float64)]},
    'fortran': np.asfortranarray(np.arange(6).reshape(2, 3)), 'big-endian': np.arange(3, dtype='>f4'),
    'text': 'naïve', 'tuple': (1, 2.5, None, True), 'scalar': np.float32(1.5), 'number': np.int64(7),
    'strings': np.array(['a', 'bcd']), 'objects': np.array([1, 'x', [2]], dtype=object), 'bytes': b'ab\xff',
    'bools': np.array([True, False]), 'empty': {},
}


def write_pickled(path, payload: bytes, member='positions_3d.npy'):
    """Write an npz with one 0-d object array whose pickle is `payload`."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {'descr': '|O', 'fortran_order': False, 'shape': ()})
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr(member, header.getvalue() + payload)


def zero_d(tree) -> np.ndarray:
    array = np.empty((), dtype=object)
    array[()] = tree
    return array


def assert_same(got, expected):
    assert type(got) is type(expected)
    if isinstance(expected, dict):
        assert list(got) == list(expected)
        for key in expected:
            assert_same(got[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert len(got) == len(expected)
        for a, b in zip(got, expected, strict=True):
            assert_same(a, b)
    elif isinstance(expected, np.ndarray):
        assert got.shape == expected.shape
        assert got.dtype == expected.dtype
        assert got.tolist() == expected.tolist()
    else:
        assert got == expected


def test_written_data_come_back(tmp_path):
    write_npz(tmp_path / 'a.npz', positions_3d=TREE, plain=np.arange(3))
    members = read_npz(tmp_path / 'a.npz')
    assert_same(members['positions_3d'], TREE)
    assert members['plain'].tolist() == [0, 1, 2]
    assert [p.name for p in tmp_path.iterdir()] == ['a.npz']


@pytest.mark.parametrize('protocol', range(6))
@pytest.mark.parametrize('numpy_major', [1, 2])
def test_every_pickle_protocol_of_both_numpys_is_read(tmp_path, protocol, numpy_major):
    payload = pickle.dumps(zero_d(TREE), protocol=protocol)
    if numpy_major == 1:  # numpy 1 wrote the same pickle under the module's old name, of another length
        payload = rename_numpy_core(payload, protocol)
    write_pickled(tmp_path / 'a.npz', payload)
    assert_same(read_npz(tmp_path / 'a.npz')['positions_3d'], TREE)


def rename_numpy_core(payload: bytes, protocol: int) -> bytes:
    for name in (b'multiarray', b'numeric'):
        new, old = b'numpy._core.' + name, b'numpy.core.' + name
        if protocol < 4:
            payload = payload.replace(b'c' + new + b'\n', b'c' + old + b'\n')
        else:
            payload = payload.replace(b'\x8c' + bytes([len(new)]) + new, b'\x8c' + bytes([len(old)]) + old)
    assert b'numpy._core' not in payload
    if protocol < 4:
        return payload
    start = payload.index(b'\x95')  # the frame's length went down with the names
    assert payload.count(b'\x95') >= 1
    return payload[:start] + payload[start + 9:]


class Evil:
    """Unpickling this touches a file, were it allowed to."""

    def __init__(self, call, *args):
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args


@pytest.mark.parametrize('protocol', [2, 4])
@pytest.mark.parametrize('call, name', [(os.system, 'posix.system'), (eval, 'eval'), (open, 'io.open'),
                                        (getattr, 'getattr')])
def test_hostile_pickles_are_refused_by_name_and_never_run(tmp_path, protocol, call, name):
    mark = tmp_path / 'mark'
    argument = {'posix.system': f'touch {mark}', 'eval': f'open({str(mark)!r}, "w")'}.get(name, str(mark))
    payload = pickle.dumps({'S1': Evil(call, argument, 'w') if call in (open, getattr) else Evil(call, argument)},
                           protocol=protocol)
    write_pickled(tmp_path / 'evil.npz', payload)
    with pytest.raises(FileError, match=rf'evil\.npz is refused: its pickle asks for [\w.]*{name}'):
        read_npz(tmp_path / 'evil.npz')
    assert not mark.exists()


def test_hostile_numpy_names_are_refused(tmp_path):
    for payload, what in [(b'cnumpy\nload\n(S"x"\ntR.', 'numpy.load'),
                          (b'cnumpy.testing._private.utils\nrunstring\n.', 'numpy.testing'),
                          (b'c_codecs\nencode\n(V1\nS"zlib"\ntR.', '_codecs.encode'),
                          (b'cnumpy\ndtype\n(S"V8"\ntR.', 'numpy dtype')]:
        write_pickled(tmp_path / 'evil.npz', payload)
        with pytest.raises(FileError, match=f'is refused: its pickle asks for {what}'):
            read_npz(tmp_path / 'evil.npz')


@pytest.mark.parametrize('payload', [
    b'', b'.', b'not a pickle', b'\x80\x04\x95', b'cnumpy\ndtype\nN(dV__call__\nI1\ns\x86b.', b'cnumpy\ndtype\n}b.',
    b'cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS"b"\ntR(I1\n(I9\ntcnumpy\ndtype\n(S"f4"\nI0\nI1\n'
    b'tRI00\nS"xx"\ntb.',  # nine floats in two bytes
    b'(lp0\ng0\na' + b'.',  # a list that holds itself
])
def test_broken_pickles_end_in_one_sentence(tmp_path, payload):
    write_pickled(tmp_path / 'a.npz', payload)
    with pytest.raises(FileError, match=r'a\.npz'):
        read_npz(tmp_path / 'a.npz')


def test_truncated_and_foreign_files_are_refused(tmp_path):
    write_npz(tmp_path / 'a.npz', positions_3d=TREE)
    whole = (tmp_path / 'a.npz').read_bytes()
    for content in (whole[:len(whole) // 2], whole[:-30], b'', b'<html>not found</html>'):
        (tmp_path / 'b.npz').write_bytes(content)
        with pytest.raises(FileError, match=r'b\.npz is not a readable npz file'):
            read_npz(tmp_path / 'b.npz')
    with pytest.raises(FileError, match='missing'):
        read_npz(tmp_path / 'none.npz')
    with pytest.raises(FileError):
        read_npz(tmp_path)


def test_flipped_bytes_never_escape_as_other_errors(tmp_path):
    """Damage anywhere in the pickle ends in FileError or in data, never in another exception."""
    payload = bytearray(pickle.dumps(zero_d(TREE), protocol=2))
    random = np.random.default_rng(0)
    for _ in range(400):
        damaged = payload.copy()
        for position in random.integers(0, len(payload), 3):
            damaged[position] = random.integers(256)
        write_pickled(tmp_path / 'a.npz', bytes(damaged))
        with contextlib.suppress(FileError):
            read_npz(tmp_path / 'a.npz')


def test_a_failed_write_leaves_nothing(tmp_path):
    write_npz(tmp_path / 'a.npz', x=np.arange(3))
    before = (tmp_path / 'a.npz').read_bytes()
    with pytest.raises(TypeError):
        write_npz(tmp_path / 'a.npz', x={'y': (i for i in range(3))})  # generators cannot be pickled
    assert (tmp_path / 'a.npz').read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ['a.npz']
    with pytest.raises(FileError, match='cannot write'):
        write_npz(tmp_path / 'none' / 'a.npz', x=np.arange(3))
