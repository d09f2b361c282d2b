"""Reading MATLAB files: version 5 to 7 in pure Python, and version 7.3, which is HDF5, with h5py.

The usual reader of the older versions, scipy's, is compiled code, which crashes the process on some damaged files. This
one checks every length. The format is that of MathWorks' "MAT-File Format", level 5: data elements have a type, a size
and bytes; a matrix is an element made of elements, and a cell is a matrix of matrices.
"""

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import FileError
from common.storage.archive import inflate
from common.storage.files import MIB, most_inflated, read_regular
from data.conversion import package, reading

HEADER = 128
# Types of elements, and of classes of matrices. MATLAB stores whole numbers in as few bytes as they need, whatever the
# class of their matrix.
STORED = {1: 'i1', 2: 'u1', 3: 'i2', 4: 'u2', 5: 'i4', 6: 'u4', 7: 'f4', 9: 'f8', 12: 'i8', 13: 'u8'}
MATRIX, COMPRESSED = 14, 15
CELL = 1
CLASSES = {6: 'f8', 7: 'f4', 8: 'i1', 9: 'u1', 10: 'i2', 11: 'u2', 12: 'i4', 13: 'u4', 14: 'i8', 15: 'u8'}
OTHER_CLASSES = {2: 'a struct', 3: 'an object', 4: 'text', 5: 'a sparse matrix'}
COMPLEX = 0x800


def read_mat(path: Path, *names: str) -> list:
    """Read the named variables of a MATLAB file of version 5 to 7, with MATLAB's order of axes.

    Numbers become arrays and cells object arrays of those; anything else becomes a word that says what it is.
    Raises FileError for a file that is missing, broken, of version 7.3 or without one of the variables.
    """
    with reading(path, 'MATLAB file'):
        content = memoryview(read_regular(path))
        version = bytes(content[124:HEADER])
        if version in (b'\0\2IM', b'\2\0MI') or bytes(content[:4]) == b'\x89HDF':
            raise FileError(f'{path} is a MATLAB 7.3 file, expected version 5 to 7: save it with -v7')
        if version not in (b'\0\1IM', b'\1\0MI'):
            raise ValueError('it does not begin like one')
        order = '<' if version.endswith(b'IM') else '>'
        members, rest, room = {}, content[HEADER:], most_inflated(len(content))
        while rest:
            kind, data, rest = _element(rest, order)
            if kind == COMPRESSED:
                inflated = inflate(data, room)
                room -= len(inflated)
                kind, data, _ = _element(memoryview(inflated), order)
            if kind != MATRIX:
                raise ValueError(f'element of type {kind} in place of a variable')
            name, value = _matrix(data, order, names)
            if name in members and name in names:
                raise ValueError(f'two variables {name}')
            members[name] = value
    return _wanted(path, members, names)


def _element(data: memoryview, order: str) -> tuple[int, memoryview, memoryview]:
    """Return the type of the first element, its bytes, and the data after it."""
    if len(data) < 8:
        raise ValueError('it is cut short')
    kind, size = struct.unpack_from(order + 'II', data)
    if kind >> 16:  # a small element: the size is in the upper half of the type, up to four bytes are in its place
        kind, size, start, end = kind & 0xffff, kind >> 16, 4, 8
    else:  # elements end at multiples of eight bytes; compressed ones do not
        start, end = 8, 8 + size + (-size % 8 if kind != COMPRESSED else 0)
    if start + size > min(end, len(data)):
        raise ValueError('it is cut short')
    return kind, data[start:start + size], data[end:]


def _numbers(data: memoryview, order: str) -> tuple[np.ndarray, memoryview]:
    """Return the numbers of the first element, and the data after it."""
    kind, raw, rest = _element(data, order)
    if kind not in STORED:
        raise ValueError(f'element of type {kind} in place of numbers')
    return np.frombuffer(raw, order + STORED[kind]), rest


def _matrix(data: memoryview, order: str, names: tuple[str, ...] | None = None) -> tuple[str, Any]:
    """Return (name, value) of a matrix; the value is None where names are given and its own is not among them."""
    if not data:  # an empty place in a cell
        return '', np.zeros((0, 0))
    flags, rest = _numbers(data, order)
    shape, rest = _numbers(rest, order)
    letters, rest = _numbers(rest, order)
    name, kind = letters.tobytes().decode('latin-1'), int(flags[0]) & 0xff
    if names is not None and name not in names:
        return name, None
    shape = shape.tolist()
    if min(shape) < 0:
        raise ValueError(f'{name} has a negative size')
    if kind == CELL:
        cell = np.empty(_count(shape, rest), dtype=object)
        for index in range(len(cell)):
            kind, data, rest = _element(rest, order)
            if kind != MATRIX:
                raise ValueError(f'element of type {kind} in a cell')
            cell[index] = _matrix(data, order)[1]
        return name, cell.reshape(shape, order='F')
    if kind not in CLASSES or int(flags[0]) & COMPLEX:
        return name, OTHER_CLASSES.get(kind, 'complex numbers' if kind in CLASSES else 'something else')
    return name, _numbers(rest, order)[0].astype(CLASSES[kind]).reshape(shape, order='F')


def _count(shape: list[int], rest: memoryview) -> int:
    """Return the number of places in a cell. Raises ValueError where the rest has less than eight bytes for each."""
    count = math.prod(shape)
    if 8 * count > len(rest):
        raise ValueError('it is cut short')
    return count


def read_mat73(path: Path, *names: str) -> list:
    """Read the named variables of a MATLAB 7.3 file. Since it is an HDF5 file, MATLAB's axes come in reverse order.

    Anything else than numbers becomes a word. Nothing outside the file is read.

    Raises FileError for a file that is missing, broken, of another version or without one of the variables.
    """
    h5py = package('h5py')
    with reading(path, 'MATLAB 7.3 file'), h5py.File(path, 'r') as file:
        members = {name: _read_set(file, name) for name in names if _holds(h5py, path, file, name)}
    return _wanted(path, members, names)


def _holds(h5py: Any, path: Path, file: Any, name: str) -> bool:
    """Return whether an HDF5 file has a data set of this name.

    Raises FileError where the name leads elsewhere, or the numbers lie elsewhere: HDF5 can name any file of the user's
    as the place of a data set, whose bytes would then be taken for numbers. Neither MATLAB nor any converter does.
    """
    links = file.id.links
    if not links.exists(name.encode()):
        return False
    if links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
        raise FileError(f'{path} is refused: its {name} is a link to another place')
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        return False
    if found.external or found.is_virtual:
        raise FileError(f'{path} is refused: the numbers of its {name} lie in another file')
    return True


def _read_set(file: Any, name: str) -> np.ndarray | str:
    """Return the numbers of a data set, or a word for what is none.

    Raises ValueError for many more numbers than are stored.
    """
    found = file[name]
    if found.dtype.kind not in 'biuf':
        return 'no numbers'
    size, most = found.size * found.dtype.itemsize, most_inflated(found.id.get_storage_size())
    if size > most:
        raise ValueError(f'{name} would fill {size // MIB:,} MiB, expected at most {most // MIB:,} MiB')
    return found[()]


def _wanted(path: Path, members: dict, names: tuple[str, ...]) -> list:
    for name in names:
        if name not in members:
            raise FileError(f'{path} has no variable {name}: it is cut short, or not a file of this data set')
    return [members[name] for name in names]
