"""Safe reading and atomic writing of the field's npz files, which hold pickled dicts of arrays, and of pickles alone.

A pickle can name any function and have it called. This reader knows a handful of names, maps each to a harmless
stand-in written here, and refuses all others. So it can build only numpy arrays, dicts, lists, tuples, strings and
numbers, whether the file was written by numpy 1 or 2. None of numpy's own unpickling code runs either, so that a forged
dtype or array state meets only the checks below.
"""

import contextlib
import io
import math
import pickle
import re
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from common.errors import FileError
from common.storage import archive
from common.storage.files import atomic_file, most_inflated, one_line, read_regular, readable

MOST_NESTED = 64  # trees of data are four deep
# Opcodes that no data file needs: registered extensions, and buffers and objects that are kept elsewhere.
_LEFT_OUT = (pickle.NEXT_BUFFER, pickle.READONLY_BUFFER, pickle.EXT1, pickle.EXT2, pickle.EXT4,
             pickle.PERSID, pickle.BINPERSID, pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX)


class _Refused(Exception):
    """Raised for a pickle that names a function or class that no data file needs."""


def _quoted(name: object) -> str:
    """Return a name from the file in a form that fits on one line of a message."""
    return one_line(name, 100)


class _Dtype:
    """Stand-in for numpy.dtype while unpickling: a plain number, string or object type."""

    def __init__(self, spec: Any, align: Any = False, copy: Any = True):
        if not isinstance(spec, str) or not re.fullmatch(r'[<>=|]?[?biufcSUO]\d*', spec):
            raise _Refused(f'numpy dtype {_quoted(spec)}')
        self.dtype: np.dtype[Any] = np.dtype(spec)

    def __setstate__(self, state: Any) -> None:
        if state[1] in ('<', '>'):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stand-in for numpy.ndarray while unpickling; `value` is the array once its state has arrived."""

    value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        order: Literal['F', 'C'] = 'F' if fortran else 'C'
        if dtype.dtype.hasobject:
            flat = np.empty(len(raw), dtype=object)
            flat[:] = raw
        else:
            flat = np.frombuffer(raw, dtype=dtype.dtype)  # a view: the bytes are not copied
        self.value = flat.reshape(shape, order=order)


def _array_from_buffer(raw: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.value = np.frombuffer(raw, dtype=dtype.dtype).reshape(shape, order=order)
    return array


def _scalar(dtype: Any, raw: Any) -> Any:
    return np.frombuffer(raw, dtype=dtype.dtype)[0]


def _latin1(text: Any, encoding: Any) -> bytes:
    if encoding not in ('latin1', 'latin-1'):
        raise _Refused(f'_codecs.encode to {_quoted(encoding)}')
    return text.encode('latin-1')


def _no_bytes() -> bytes:
    return b''


class _Allowed:
    """A permitted global: the pickle can call it but cannot change it."""

    __slots__ = ('_call',)

    def __init__(self, call: Callable[..., Any]):
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError('state for a global')


ALLOWED = {('numpy', 'ndarray'): None, ('numpy', 'dtype'): _Allowed(_Dtype), ('_codecs', 'encode'): _Allowed(_latin1),
           ('__builtin__', 'bytes'): _Allowed(_no_bytes)}  # protocol 2 calls it for the bytes of an empty array
for _core in ('numpy.core', 'numpy._core'):  # numpy 1 and numpy 2
    ALLOWED[f'{_core}.multiarray', '_reconstruct'] = _Allowed(lambda kind, shape, code: _Array())
    ALLOWED[f'{_core}.multiarray', 'scalar'] = _Allowed(_scalar)
    ALLOWED[f'{_core}.numeric', '_frombuffer'] = _Allowed(_array_from_buffer)


class _Unpickler(pickle._Unpickler):
    """Python's own unpickler, in place of the one in C: its memo is a dict.

    The other's is a table, which it makes as long as the largest index that a file names. Since nearly all bytes of
    data are in few arrays, both take about as long.
    """

    dispatch: ClassVar[dict[int, Any]] = {opcode: load for opcode, load in pickle._Unpickler.dispatch.items()
                                          if opcode not in {left_out[0] for left_out in _LEFT_OUT}}

    read: Callable[[int], bytes]
    append: Callable[[Any], None]

    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise _Refused(_quoted(f'{module}.{name}')) from None

    def load_bytearray8(self) -> None:
        """Read a bytearray, which is made after its bytes were found to be there."""
        size, = struct.unpack('<Q', self.read(8))
        data = self.read(min(size, sys.maxsize))
        if len(data) != size:
            raise EOFError('it is cut short')
        self.append(bytearray(data))
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8


class _Plain:
    """Replaces every stand-in of a tree by the array or dtype that it stands for.

    Things that occur in several places are replaced once. How large the tree would be if each place had its own is
    counted: a few hundred bytes can name one list 2^30 times, and everything that walks the tree would visit it as
    often.
    """

    def __init__(self, size: int):
        """Begin with a pickle of `size` bytes."""
        self.most = most_inflated(size)
        # id of a thing -> the thing (so that its id stays its own), what replaces it, the size of that
        self._done: dict[int, tuple[Any, Any, int]] = {}

    def of(self, tree: Any) -> Any:
        """Return the tree without stand-ins. Raises ValueError for one that is too deep or too large."""
        plain, _ = self._replaced(tree, 0)
        return plain

    def _replaced(self, tree: Any, depth: int) -> tuple[Any, int]:
        """Return a part of the tree without stand-ins, and its size in bytes, roughly."""
        if isinstance(tree, (str, bytes)):
            return tree, 8 + len(tree)
        if not isinstance(tree, (_Array, _Dtype, np.ndarray, dict, list, tuple, set, frozenset)):
            return tree, 8
        if id(tree) in self._done:
            _, plain, size = self._done[id(tree)]
            if size < 0:
                raise ValueError('its pickle holds a list that holds itself')
            return plain, size
        if depth > MOST_NESTED:
            raise ValueError(f'its pickle is nested more than {MOST_NESTED} deep')
        self._done[id(tree)] = tree, None, -1
        plain, size = self._made(tree, depth + 1)
        if size > self.most:
            raise ValueError('its pickle names the same things over and over')
        self._done[id(tree)] = tree, plain, size
        return plain, size

    def _made(self, tree: Any, depth: int) -> tuple[Any, int]:
        if isinstance(tree, _Dtype):
            return tree.dtype, 8
        if isinstance(tree, _Array):
            tree = tree.value
        if isinstance(tree, np.ndarray) and tree.dtype.hasobject:
            parts = [self._replaced(part, depth) for part in tree.ravel().tolist()]
            plain = np.empty(len(parts), dtype=object)
            for index, (part, _) in enumerate(parts):
                plain[index] = part
            return plain.reshape(tree.shape), 8 + sum(size for _, size in parts)
        if isinstance(tree, np.ndarray) or tree is None:
            return tree, 8 + (0 if tree is None else tree.nbytes)
        if isinstance(tree, dict):
            keys = [self._replaced(key, depth) for key in tree]
            values = [self._replaced(value, depth) for value in tree.values()]
            return ({key: value for (key, _), (value, _) in zip(keys, values, strict=True)},
                    8 + sum(size for _, size in (*keys, *values)))
        parts = [self._replaced(part, depth) for part in tree]
        return type(tree)(part for part, _ in parts), 8 + sum(size for _, size in parts)


def _unpickled(file: io.BytesIO, size: int) -> Any:
    """Return what a pickle of at most `size` bytes holds, which must be the last thing in its file."""
    tree = _Plain(size).of(_Unpickler(file, encoding='latin1').load())
    if file.read(1):
        raise ValueError('there is more behind its pickle')
    return tree


def _read_member(data: archive.Buffer) -> np.ndarray:
    """Return the array of a member, as many bytes as its header declares and not one more."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(file)
    order: Literal['F', 'C'] = 'F' if fortran else 'C'
    if dtype.hasobject:
        array = _unpickled(file, len(data))
        if not isinstance(array, np.ndarray):
            raise ValueError(f'its pickle holds {type(array).__name__}, expected an array')
        return array.reshape(shape)
    there = len(data) - file.tell()
    if min(shape, default=1) < 0 or not dtype.itemsize or math.prod(shape) * dtype.itemsize != there:
        raise ValueError(f'an array declares the shape {one_line(shape, 60)} of {dtype.itemsize} bytes each, but has '
                         f'{there:,} bytes')
    return np.frombuffer(bytearray(memoryview(data)[file.tell():]), dtype).reshape(shape, order=order)


def read_npz(path: Path) -> dict[str, Any]:
    """Return the members of an npz file by name; a 0-d object array is replaced by the dict (or other object) in it.

    Nothing in the file is executed. Raises FileError for a file that is missing, truncated, damaged, not an npz, larger
    than it can be, or whose pickle names a global that data does not need.
    """
    members: dict[str, Any] = {}
    with _reading(path, 'npz'):
        for name, data in archive.members(read_regular(path)):
            name, array = name.removesuffix('.npy'), _read_member(data)
            if name in members:
                raise archive.DamagedArchive(f'it has two members {_quoted(name)}')
            scalar_object = array.dtype.hasobject and array.ndim == 0
            members[name] = array.item() if scalar_object else array
    return members


def read_npy(path: Path) -> np.ndarray:
    """Return the array of an npy file, also one of objects. Nothing in it is executed. Raises FileError."""
    with _reading(path, 'npy'):
        return _read_member(read_regular(path))


def read_pickle(path: Path) -> Any:
    """Return what a pickle of arrays, dicts, lists, text and numbers holds. Nothing in it is executed.

    Raises FileError for a file that is missing, truncated, damaged or of another kind, or that names a global that data
    do not need.
    """
    with _reading(path, 'pickle'):
        content = read_regular(path)
        return _unpickled(io.BytesIO(content), len(content))


@contextlib.contextmanager
def _reading(path: Path, kind: str) -> Iterator[None]:
    """Guard the reading of a file of this kind, as `readable` does, and name what its pickle asks for."""
    with readable(path, kind if kind == 'pickle' else f'{kind} file'):
        try:
            yield
        except _Refused as refused:
            raise FileError(f'{path} is refused: its pickle asks for {refused}, which no data file needs; nothing in '
                            f'it was executed') from None


def write_npz(path: Path, **members: Any) -> None:
    """Write a compressed npz atomically; dicts become 0-d object arrays, as in the field's files.

    Raises FileError when the file cannot be written.
    """
    with atomic_file(path) as file:
        np.savez_compressed(file, **members)
