"""Read files of tensors without executing anything in them: torch.save's, zip and legacy, and safetensors.

Files of torch.save are pickles. torch's restricted unpickler (weights_only=True) builds tensors and plain values from
them; what public files hold besides, numpy's objects and the parsed command line, is met by the stand-ins below. They
turn numpy scalars into Python numbers and drop the rest; no code of numpy's own unpickling runs.
"""

import errno
import pickle
import re
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from common.errors import FileError

SAFETENSORS = '.safetensors'


def read(path: Path) -> Any:
    """Return the content of a file, its tensors on the CPU whatever device they were saved from.

    Raises FileError for a file that is missing, damaged or of another kind, or that names code which no file of
    weights needs.
    """
    try:
        return _read_safetensors(path) if path.suffix.lower() == SAFETENSORS else _read_torch(path)
    except FileError:
        raise
    except FileNotFoundError:
        raise FileError(f'{path} is missing') from None
    except Exception as error:  # damage makes zip readers, unpickler and tensor rebuilding raise anything
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # which seeking in a file cut short raises
            raise FileError(f'cannot read {path}: {error.strerror or error}') from None
        raise FileError(f'{path} is not a readable checkpoint: it is truncated or of another kind; fetch or save it '
                        f'again') from None


def _read_torch(path: Path) -> Any:
    with open(path, 'rb') as file:
        try:
            with warnings.catch_warnings(), torch.serialization.safe_globals(_STAND_INS):
                warnings.simplefilter('ignore')  # torch muses about pickle protocols; what it cannot read, it raises on
                return torch.load(file, map_location='cpu', weights_only=True)
        except pickle.UnpicklingError as error:
            asked = re.search(r'GLOBAL ([\w.]+)', str(error))
            if asked is None or _ends_here(file):
                raise
            raise FileError(f'{path} is refused: it asks for {asked[1]}, which no checkpoint needs; nothing in it was '
                            f'executed (where it was made and is trusted, save its state dict alone)') from None


def _ends_here(file: BinaryIO) -> bool:
    """Return True if a legacy file was cut within the name read last, which is then not the name it asks for."""
    at_end = not file.read(1)
    file.seek(0)
    return at_end and file.read(2) != b'PK'  # a zip's pickle was read from elsewhere


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        from safetensors.torch import load
    except ImportError:
        raise FileError(f'reading {path} needs safetensors: pip install safetensors') from None
    # From bytes, not by the file's name: tensors that are views of a mapped file end the process with a bus error when
    # somebody overwrites the file.
    return load(path.read_bytes())


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
        'numpy.random._pickle.__randomstate_ctor', 'numpy.random._pickle.__bit_generator_ctor', 'argparse.Namespace')),
]
