"""Files as such: only regular ones are read, what is written is whole whatever its name, messages are one line."""

import os
import socket
from pathlib import Path

import numpy as np
import pytest
from test_npz import write_pickled

from common.errors import FileError
from common.storage import checkpoint, files
from common.storage.files import atomic_file, atomic_path, one_line, read_regular, shown
from common.storage.npz import read_npy, read_npz, write_npz


@pytest.fixture(params=['pipe', 'socket', 'zero'])
def endless(tmp_path, request):
    """The path of something that is no regular file, and that reading would wait for or never end at."""
    path = tmp_path / 'a.bin'
    if request.param == 'pipe':
        os.mkfifo(path)
    elif request.param == 'zero':
        path.symlink_to('/dev/zero')
    else:
        bound = socket.socket(socket.AF_UNIX)
        os.chdir(tmp_path)  # names of sockets are short
        bound.bind('a.bin')
        bound.close()
    return path


@pytest.mark.parametrize('read', [checkpoint.load, read_npz, read_npy, read_regular])
def test_pipes_sockets_and_devices_are_refused_at_once(endless, read):
    with pytest.raises(FileError, match=r'cannot read .*a\.bin: it is not a regular file'):
        read(endless)


def test_links_to_regular_files_are_read(tmp_path):
    (tmp_path / 'a').write_bytes(b'abc')
    (tmp_path / 'b').symlink_to('a')
    assert read_regular(tmp_path / 'b') == b'abc'


def test_files_too_large_to_be_weights_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(files, 'MOST_READ', 5)
    (tmp_path / 'a').write_bytes(b'abcdef')
    with pytest.raises(FileError, match='a: it has 6 bytes, expected at most 5'):
        read_regular(tmp_path / 'a')


NAMES = ['.npz', '.npy', 'a', 'a.npz', 'a.b.npz', 'a.', '.a', 'a b.npz', 'ä.npz', 'x' * 251 + '.npz', 'a\nb.npz',
         '-.npz']


@pytest.mark.parametrize('name', NAMES)
def test_an_output_of_any_name_is_written_there_and_nowhere_else(tmp_path, name):
    write_npz(tmp_path / name, x=np.arange(3))
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert read_npz(tmp_path / name)['x'].tolist() == [0, 1, 2]


@pytest.mark.parametrize('name', ['a.npz', '.npz'])
@pytest.mark.parametrize('target', ['blob', 'b.txt', '.npy'])
def test_a_link_to_another_suffix_is_written_through(tmp_path, name, target):
    (tmp_path / 'd').mkdir()
    (tmp_path / 'd' / target).write_text('OLD')
    (tmp_path / name).symlink_to(tmp_path / 'd' / target)
    write_npz(tmp_path / name, x=np.arange(3))
    assert (tmp_path / name).is_symlink() and [p.name for p in (tmp_path / 'd').iterdir()] == [target]
    assert read_npz(tmp_path / 'd' / target)['x'].tolist() == [0, 1, 2]


def test_a_link_to_itself_is_refused(tmp_path):
    (tmp_path / 'loop.npz').symlink_to('loop.npz')
    with pytest.raises(FileError, match=r'cannot write .*loop\.npz'):
        write_npz(tmp_path / 'loop.npz', x=np.arange(3))


def test_writers_that_go_by_the_suffix_find_that_of_the_name_given(tmp_path):
    (tmp_path / 'blob').touch()
    (tmp_path / 'a.npy').symlink_to('blob')
    for name in ('a.npy', '.npy'):
        with atomic_path(tmp_path / name) as temporary:
            np.save(temporary, np.arange(3))
        assert np.load(tmp_path / name).tolist() == [0, 1, 2]
    assert sorted(p.name for p in tmp_path.iterdir()) == ['.npy', 'a.npy', 'blob']


def test_a_writer_that_appends_to_its_name_is_found_out(tmp_path):
    (tmp_path / 'a').write_text('OLD')
    with pytest.raises(FileError, match='a: what wrote it appended to its name'), atomic_path(tmp_path / 'a') as path:
        np.save(path, np.arange(3))
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [('a', 'OLD')]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    (tmp_path / 'a').write_text('OLD')
    with pytest.raises(TypeError), atomic_file(tmp_path / 'a') as file:
        file.writelines([b'half', None])
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [('a', 'OLD')]


def test_a_full_disk_is_named(tmp_path):
    with pytest.raises(FileError, match=r'cannot write .*a: No space left'), atomic_path(tmp_path / 'a'), \
            open('/dev/full', 'wb') as file:
        file.write(b'x')


@pytest.mark.parametrize('value, text', [
    ('a', "'a'"), (1.5, '1.5'), ('a\nb\x1b[31m', r"'a\nb\x1b[31m'"), (10 ** 5000, 'a number of 16610 bits'),
    ([10 ** 5000], '[a number of 16610 bits]'), (['\u202e'], r"['\u202e']"),
], ids=range(6))
def test_values_are_shown_in_one_printable_line(value, text):
    assert shown(value) == text


def test_long_and_deep_values_are_cut():
    nested = []
    for _ in range(40):
        nested = [nested] * 40  # written out it would be longer than any memory
    for value in ('x' * 10 ** 6, ['x' * 999] * 999, {i: i for i in range(10 ** 5)}, nested):
        assert len(shown(value)) <= 60 and shown(value).isprintable()
    assert one_line('a\n\x1b[0m b\u2028c' + 'd' * 999, 10) == 'a ?[0m b c'


# ---- pickles in npz files ---------------------------------------------------------------------------------------


def laughs(levels, width):
    """Return a pickle of a list of `width` times one list, and so on, `levels` deep."""
    return b'\x80\x02]q\x00' + b''.join(b'0](' + b'h%c' % i * width + b'eq%c' % (i + 1) for i in range(levels)) + b'.'


@pytest.mark.parametrize('payload, message', [
    (laughs(30, 2), 'its pickle names the same things over and over'),
    (laughs(5, 200), 'its pickle names the same things over and over'),
    (b'\x80\x02' + b'(' * 99 + b'l' * 99 + b'.', 'its pickle is nested more than 64 deep'),
    (b'\x80\x02' + b'(' * 60000 + b'l' * 60000 + b'.', 'its pickle is nested more than 64 deep'),
    (b'\x80\x02(lp0\ng0\na.', 'its pickle holds a list that holds itself'),
    (b'\x80\x02}r\x00\x65\xcd\x1d.', 'its pickle holds dict, expected an array'),
    (b'\x80\x02}.more', 'there is more behind its pickle'),
    (b'\x80\x05\x96\x00\x00\x00\x00\x02\x00\x00\x00abc.', 'not a readable npz'),
    (b'\x80\x04\x8e\x00\x00\x00\x00\x02\x00\x00\x00abc.', 'not a readable npz'),
])
def test_small_pickles_stay_small(tmp_path, payload, message):
    """Each is read in no time: references without end, a memo's index of 5e8, buffers of 8 GB that are not there."""
    write_pickled(tmp_path / 'a.npz', payload)
    with pytest.raises(FileError, match=message):
        read_npz(tmp_path / 'a.npz')


def test_things_that_occur_in_several_places_stay_one(tmp_path):
    track = np.zeros((3, 2))
    write_npz(tmp_path / 'a.npz', tree={'a': [track] * 4, 'b': [track, track]})
    tree = read_npz(tmp_path / 'a.npz')['tree']
    assert all(array is tree['a'][0] for array in (*tree['a'], *tree['b']))


@pytest.mark.parametrize('shape', ['(10**9,)', '(3,)', '(5,)', '(-1,)', '(2, -2)'])
def test_arrays_have_the_bytes_that_they_declare(tmp_path, shape):
    import zipfile
    header = {'descr': '<f8', 'fortran_order': False, 'shape': eval(shape)}
    with zipfile.ZipFile(tmp_path / 'a.npz', 'w') as file, file.open('x.npy', 'w') as member:
        np.lib.format.write_array_header_1_0(member, header)
        member.write(bytes(32))
    with pytest.raises(FileError, match=r'an array declares the shape .* of 8 bytes each, but has 32 bytes'):
        read_npz(tmp_path / 'a.npz')


def test_what_read_npz_returns_can_be_changed(tmp_path):
    write_npz(tmp_path / 'a.npz', x=np.asfortranarray(np.arange(6.0).reshape(2, 3)))
    array = read_npz(tmp_path / 'a.npz')['x']
    array[0, 1] = 9
    assert array.tolist() == [[0, 9, 2], [3, 4, 5]]


def test_messages_from_npz_files_are_printable(tmp_path):
    name = b'x\x1b[31m\r' + b'n' * 5000
    write_pickled(tmp_path / 'a.npz', b'c' + name + b'\n' + name + b'\n.')
    with pytest.raises(FileError) as caught:
        read_npz(Path(tmp_path / 'a.npz'))
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400


def test_npy_files_have_the_bytes_that_they_declare(tmp_path):
    path = tmp_path / 'a.npy'
    for array in (np.arange(6.0).reshape(2, 3), np.array(['a', 'bc']), np.asfortranarray(np.ones((2, 3), '>f4'))):
        np.save(path, array)
        assert read_npy(path).tolist() == array.tolist() and read_npy(path).dtype == array.dtype
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'(2, 3)', b'(2, 9)'))
    with pytest.raises(FileError, match=r'a\.npy is not a readable npy file .*an array declares'):
        read_npy(path)
