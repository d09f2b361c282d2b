"""Safe reading and atomic writing of the field's npz files, which hold pickled dicts of arrays.

A pickle can name any function and have it called. This reader knows a handful of names, maps each to a harmless
stand-in written here, and refuses all others. So it can build only numpy arrays, dicts, lists, tuples, strings and
numbers, whether the file was written by numpy 1 or 2. None of numpy's own unpickling code runs either, so that a forged
dtype or array state meets only the checks below.
"""

import pickle
import re
import zipfile
from pathlib import Path
from typing import Literal

import numpy as np

from common.errors import FileError
from common.storage.files import atomic_path


class _Refused(Exception):
    """The pickle names a global that no data file needs."""


def _quoted(name) -> str:
    """Return a name from the file in a form that fits on one line of a message."""
    return ''.join(c if c.isprintable() else '?' for c in str(name))[:100]


class _Dtype:
    """Stand-in for numpy.dtype while unpickling: a plain number, string or object type."""

    def __init__(self, spec, align=False, copy=True):
        if not isinstance(spec, str) or not re.fullmatch(r'[<>=|]?[?biufcSUO]\d*', spec):
            raise _Refused(f'numpy dtype {_quoted(spec)}')
        self.dtype = np.dtype(spec)

    def __setstate__(self, state):
        if state[1] in ('<', '>'):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stand-in for numpy.ndarray while unpickling; `value` is the array once its state has arrived."""

    value: np.ndarray | None = None

    def __setstate__(self, state):
        _, shape, dtype, fortran, raw = state
        order: Literal['F', 'C'] = 'F' if fortran else 'C'
        if dtype.dtype.hasobject:
            flat = np.empty(len(raw), dtype=object)
            flat[:] = raw
        else:
            flat = np.frombuffer(raw, dtype=dtype.dtype)  # a view: the bytes are not copied
        self.value = flat.reshape(shape, order=order)


def _array_from_buffer(raw, dtype, shape, order):
    array = _Array()
    array.value = np.frombuffer(raw, dtype=dtype.dtype).reshape(shape, order=order)
    return array


def _scalar(dtype, raw):
    return np.frombuffer(raw, dtype=dtype.dtype)[0]


def _latin1(text, encoding):
    if encoding not in ('latin1', 'latin-1'):
        raise _Refused(f'_codecs.encode to {_quoted(encoding)}')
    return text.encode('latin-1')


def _no_bytes():
    return b''


class _Allowed:
    """A permitted global: the pickle can call it but cannot change it."""

    __slots__ = ('_call',)

    def __init__(self, call):
        self._call = call

    def __call__(self, *args):
        return self._call(*args)

    def __setstate__(self, state):
        raise pickle.UnpicklingError('state for a global')


ALLOWED = {('numpy', 'ndarray'): None, ('numpy', 'dtype'): _Allowed(_Dtype), ('_codecs', 'encode'): _Allowed(_latin1),
           ('__builtin__', 'bytes'): _Allowed(_no_bytes)}  # protocol 2 calls it for the bytes of an empty array
for _core in ('numpy.core', 'numpy._core'):  # numpy 1 and numpy 2
    ALLOWED[f'{_core}.multiarray', '_reconstruct'] = _Allowed(lambda kind, shape, code: _Array())
    ALLOWED[f'{_core}.multiarray', 'scalar'] = _Allowed(_scalar)
    ALLOWED[f'{_core}.numeric', '_frombuffer'] = _Allowed(_array_from_buffer)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise _Refused(_quoted(f'{module}.{name}')) from None


def _plain(tree):
    """Return the tree with every stand-in replaced by the array or dtype that it stands for."""
    if isinstance(tree, _Array):
        tree = tree.value
    if isinstance(tree, np.ndarray) and tree.dtype.hasobject:
        plain = np.empty(tree.shape, dtype=object)
        for index in np.ndindex(tree.shape):
            plain[index] = _plain(tree[index])
        return plain
    if isinstance(tree, dict):
        return {_plain(key): _plain(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_plain(value) for value in tree)
    if isinstance(tree, _Dtype):
        return tree.dtype
    return tree


def _read_member(file):
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if dtype.hasobject:
        return _plain(_Unpickler(file, encoding='latin1').load()).reshape(shape)
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def read_npz(path: Path) -> dict:
    """Return the members of an npz file by name; a 0-d object array is replaced by the dict (or other object) in it.

    Nothing in the file is executed. Raises FileError for a file that is missing, truncated, not an npz, or whose pickle
    names a global that data does not need.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {}
            for name in archive.namelist():
                with archive.open(name) as file:
                    array = _read_member(file)
                scalar_object = array.dtype.hasobject and array.ndim == 0
                members[name.removesuffix('.npy')] = array.item() if scalar_object else array
            return members
    except FileNotFoundError:
        raise FileError(f'{path} is missing') from None
    except _Refused as refused:
        raise FileError(f'{path} is refused: its pickle asks for {refused}, which no data file needs; nothing in it '
                        f'was executed') from None
    except MemoryError:
        raise FileError(f'{path} asks for more memory than there is') from None
    except Exception as error:  # on damaged files zipfile, the codecs, numpy and pickle can raise anything
        raise FileError(f'{path} is not a readable npz file ({first_line(error)}); fetch or make it again') from None


def read_npy(path: Path) -> np.ndarray:
    """Return the array of an npy file, also one of objects. Nothing in it is executed. Raises FileError."""
    try:
        with open(path, 'rb') as file:
            return _read_member(file)
    except FileNotFoundError:
        raise FileError(f'{path} is missing') from None
    except _Refused as refused:
        raise FileError(f'{path} is refused: its pickle asks for {refused}, which no data file needs; nothing in it '
                        f'was executed') from None
    except MemoryError:
        raise FileError(f'{path} asks for more memory than there is') from None
    except Exception as error:  # on damaged files numpy's header parser and pickle can raise anything
        raise FileError(f'{path} is not a readable npy file ({first_line(error)}); fetch or make it again') from None


def first_line(error: BaseException) -> str:
    """Return the start of a library's error message, to be quoted in one of ours; its type where it is empty."""
    return (str(error).splitlines() or [''])[0][:120] or type(error).__name__


def write_npz(path: Path, **members) -> None:
    """Write a compressed npz atomically; dicts become 0-d object arrays, as in the field's files.

    Raises FileError when the file cannot be written.
    """
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **members)
