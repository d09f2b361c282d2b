"""MATLAB files: of version 5 to 7 by Python alone, of version 7.3, which are HDF5, by h5py.

The usual reader of the older versions, scipy's, is compiled, and some damaged files end the whole process in it without
a word. This one checks every length. It follows the format that MathWorks describes in "MAT-File Format", level 5: data
elements of a type, a size and bytes, where a matrix is an element of elements and a cell a matrix of matrices.
"""

import math
import struct
import zlib
from pathlib import Path

import numpy as np

from common.errors import FileError
from data.conversion import package, reading

HEADER = 128
# What elements hold, and what the classes of matrices are made of; MATLAB stores whole numbers in as few bytes as they
# need, whatever their class.
STORED = {1: 'i1', 2: 'u1', 3: 'i2', 4: 'u2', 5: 'i4', 6: 'u4', 7: 'f4', 9: 'f8', 12: 'i8', 13: 'u8'}
MATRIX, COMPRESSED = 14, 15
CELL = 1
CLASSES = {6: 'f8', 7: 'f4', 8: 'i1', 9: 'u1', 10: 'i2', 11: 'u2', 12: 'i4', 13: 'u4', 14: 'i8', 15: 'u8'}
OTHER_CLASSES = {2: 'a struct', 3: 'an object', 4: 'text', 5: 'a sparse matrix'}
COMPLEX = 0x800


def read_mat(path: Path, *names: str) -> list:
    """Variables of a MATLAB file of version 5 to 7, by name, with MATLAB's axes.

    Numbers come as arrays, cells as object arrays of such; in place of anything else comes a word for what it is.
    Raises FileError for a file that is missing, broken, of version 7.3 or without one of the variables.
    """
    with reading(path, 'MATLAB file'):
        content = memoryview(path.read_bytes())
        version = bytes(content[124:HEADER])
        if version in (b'\0\2IM', b'\2\0MI') or bytes(content[:4]) == b'\x89HDF':
            raise FileError(f'{path} is a MATLAB 7.3 file, expected version 5 to 7: save it with -v7')
        if version not in (b'\0\1IM', b'\1\0MI'):
            raise ValueError('it does not begin like one')
        order = '<' if version.endswith(b'IM') else '>'
        members, rest = {}, content[HEADER:]
        while rest:
            kind, data, rest = _element(rest, order)
            if kind == COMPRESSED:
                kind, data, _ = _element(memoryview(zlib.decompress(data)), order)
            if kind != MATRIX:
                raise ValueError(f'element of type {kind} in place of a variable')
            name, value = _matrix(data, order, names)
            members[name] = value
    return _wanted(path, members, names)


def _element(data: memoryview, order: str) -> tuple[int, memoryview, memoryview]:
    """The type of the first element, its bytes, and what follows it."""
    if len(data) < 8:
        raise ValueError('it is cut short')
    kind, size = struct.unpack_from(order + 'II', data)
    if kind >> 16:  # up to four bytes stand in place of the size, which is above the type
        kind, size, start, end = kind & 0xffff, kind >> 16, 4, 8
    else:  # elements end at multiples of eight bytes; compressed ones do not
        start, end = 8, 8 + size + (-size % 8 if kind != COMPRESSED else 0)
    if start + size > min(end, len(data)):
        raise ValueError('it is cut short')
    return kind, data[start:start + size], data[end:]


def _numbers(data: memoryview, order: str) -> tuple[np.ndarray, memoryview]:
    """The numbers of the first element, and what follows it."""
    kind, raw, rest = _element(data, order)
    if kind not in STORED:
        raise ValueError(f'element of type {kind} in place of numbers')
    return np.frombuffer(raw, order + STORED[kind]), rest


def _matrix(data: memoryview, order: str, names: tuple[str, ...] | None = None):
    """(name, value) of a matrix; the value is None for one that is not among the names, if there are any."""
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
    """How many places a cell has, each of which needs eight bytes of what is left."""
    count = math.prod(shape)
    if 8 * count > len(rest):
        raise ValueError('it is cut short')
    return count


def read_mat73(path: Path, *names: str) -> list[np.ndarray]:
    """Variables of a MATLAB 7.3 file, by name. It is an HDF5 file, so that MATLAB's axes come in reverse order.

    Raises FileError for a file that is missing, broken, of another version or without one of the variables.
    """
    h5py = package('h5py')
    with reading(path, 'MATLAB 7.3 file'), h5py.File(path, 'r') as file:
        members = {name: file[name][()] for name in names if isinstance(file.get(name), h5py.Dataset)}
    return _wanted(path, members, names)


def _wanted(path: Path, members: dict, names: tuple[str, ...]) -> list:
    for name in names:
        if name not in members:
            raise FileError(f'{path} has no variable {name}: it is cut short, or not a file of this data set')
    return [members[name] for name in names]
