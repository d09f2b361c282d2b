"""Read files of tensors without executing anything in them: torch.save's, zip and legacy, and safetensors.

Files of torch.save are pickles. torch's restricted unpickler (weights_only=True) builds tensors and plain values from
them; what public files hold besides, numpy's objects and the parsed command line, is met by the stand-ins below. They
turn numpy scalars into Python numbers and drop the rest; no code of numpy's own unpickling runs.
"""

import errno
import io
import pickle
import pickletools
import re
import warnings
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
import torch

from common.errors import FileError
from common.storage import archive
from common.storage.archive import DamagedArchive
from common.storage.files import one_line, read_regular, shown

SAFETENSORS = '.safetensors'

# A legacy file is magic number, version, facts about the machine, content, keys of storages; then come the storages.
_PICKLES_OF_LEGACY = 5
# What torch's own unpickler would make as large as it is told to, without bytes for it in the file.
_MADE_BY_SIZE = {'builtins bytearray', '__builtin__ bytearray', 'torch Tensor', 'torch._tensor Tensor',
                 'torch.storage UntypedStorage', 'torch.storage TypedStorage',
                 *(f'torch {kind}Tensor' for kind in ('Float', 'Double', 'Half', 'BFloat16', 'Byte', 'Char', 'Short',
                                                     'Int', 'Long', 'Bool'))}
_ABOUT_THE_MEMO = {'PUT', 'BINPUT', 'LONG_BINPUT', 'GET', 'BINGET', 'LONG_BINGET', 'PROTO', 'FRAME'}


def read(path: Path) -> Any:
    """Return the content of a file, its tensors on the CPU whatever device they were saved from.

    The sums of a zip archive are compared first, since torch does not, and torch then reads the same bytes. Raises
    FileError for a file that is missing, damaged or of another kind, or that names code which no file of weights needs.
    """
    try:
        content = read_regular(path)
        if path.suffix.lower() == SAFETENSORS:
            return _read_safetensors(path, content)
        _check(path, content)
        return _read_torch(path, content)
    except FileError:
        raise
    except FileNotFoundError:
        raise FileError(f'{path} is missing') from None
    except DamagedArchive as error:
        raise FileError(f'{path} is not a readable checkpoint: it is damaged, as {error}; fetch or save it '
                        f'again') from None
    except MemoryError:
        raise FileError(f'{path} asks for more memory than there is') from None
    except Exception as error:  # damage makes zip readers, unpickler and tensor rebuilding raise anything
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # which seeking in a file cut short raises
            raise FileError(f'cannot read {path}: {error.strerror or error}') from None
        raise FileError(f'{path} is not a readable checkpoint: it is truncated or of another kind; fetch or save it '
                        f'again') from None


def _check(path: Path, content: bytes) -> None:
    """Compare an archive's sums, and look through the pickle of a file for what would fill the memory."""
    if not content.startswith(b'PK'):  # the older form of torch.save: pickles one behind the other, without sums
        file = io.BytesIO(content)
        for _ in range(_PICKLES_OF_LEGACY):
            _check_pickle(path, file, len(content))
        return
    for name, data in archive.members(content, sums_left_out=True):
        if name.endswith('data.pkl'):
            _check_pickle(path, io.BytesIO(data), len(content))


def _check_pickle(path: Path, file: BinaryIO, size: int) -> None:
    """Raise FileError for a pickle that makes something by its size alone, or a storage larger than the whole file."""
    numbers: list[int] = []
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == 'MARK':
            numbers.clear()
        elif isinstance(argument, int) and opcode.name not in _ABOUT_THE_MEMO:
            numbers.append(argument)
        elif opcode.name == 'BINPERSID' and numbers and max(numbers) > size:
            raise FileError(f'{path} is not a readable checkpoint: it declares a tensor of {shown(max(numbers))} '
                            f'numbers in {size:,} bytes; fetch or save it again')
        elif opcode.name == 'GLOBAL' and argument in _MADE_BY_SIZE:
            _refuse(path, argument.replace(' ', '.'))


def _refuse(path: Path, name: str) -> NoReturn:
    raise FileError(f'{path} is refused: it asks for {one_line(name)}, which no checkpoint needs; nothing in it was '
                    f'executed (where it was made and is trusted, save its state dict alone)')


def _read_torch(path: Path, content: bytes) -> Any:
    file = io.BytesIO(content)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_STAND_INS):
            warnings.simplefilter('ignore')  # torch muses about pickle protocols; what it cannot read, it raises on
            return torch.load(file, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r'GLOBAL ([\w.]+)', str(error))
        if asked is None or (not file.read(1) and not content.startswith(b'PK')):
            raise  # a legacy file may end within the name that was read last, so that this is not what it asks for
        _refuse(path, asked[1])


def _read_safetensors(path: Path, content: bytes) -> dict[str, torch.Tensor]:
    try:
        from safetensors.torch import load
    except ImportError:
        raise FileError(f'reading {path} needs safetensors: pip install safetensors') from None
    # From bytes, not by the file's name: tensors that are views of a mapped file end the process with a bus error when
    # somebody overwrites the file.
    return load(content)


class PassedOver:
    """Stands for objects in public files whose content nothing needs."""

    def __init__(self, *args: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __repr__(self) -> str:
        return 'an object that is not read'


class _Dtype:
    """Stands for numpy.dtype: the code of a type and, once the state has arrived, its byte order."""

    def __init__(self, code: Any = None, *flags: Any):
        self.code, self.order = str(code), '='

    def __setstate__(self, state: Any) -> None:
        self.order = str(state[1])


def _scalar(dtype: Any = None, raw: Any = None) -> Any:
    """Return a numpy scalar as a Python number: exactly, for every type that Python's numbers contain."""
    if not isinstance(dtype, _Dtype) or not re.fullmatch('b1|[iu][1248]|f[248]', dtype.code):
        return PassedOver()
    return np.frombuffer(raw, f'{dtype.order}{dtype.code}').item()


# The stand-ins, and the names they stand for: those under which numpy 1 and numpy 2 pickle a RandomState, the arrays
# inside it, and scalars; under the last one, programs keep their command line.
_STAND_INS: list[Any] = [
    (_Dtype, 'numpy.dtype'),
    *((_scalar, f'numpy.{core}.multiarray.scalar') for core in ('core', '_core')),
    *((PassedOver, f'numpy.{core}.{name}') for core in ('core', '_core')
      for name in ('multiarray._reconstruct', 'numeric._frombuffer')),
    *((PassedOver, name) for name in (
        'numpy.ndarray', 'numpy.random._mt19937.MT19937', 'numpy.random.mtrand.RandomState',
        'numpy.random.__RandomState_ctor',  # numpy before 1.17, and so files of 2019
        'numpy.random._pickle.__randomstate_ctor', 'numpy.random._pickle.__bit_generator_ctor', 'argparse.Namespace')),
]
