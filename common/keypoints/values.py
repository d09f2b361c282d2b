"""Values from files of other programs: quoted for messages, and read as numbers.

Letters: K keypoints.
"""

from typing import Any

import numpy as np

from common.errors import FileError

SHOWN = 100  # letters of a value that a message shows


def quoted(value: Any) -> str:
    """Return a value from a file or a command line on one printable line of at most 100 letters."""
    text = value if isinstance(value, str) else _described(value)
    line = ''.join(letter if letter.isprintable() else '?' for letter in text[:SHOWN + 1])
    return line if len(line) <= SHOWN else line[:SHOWN - 1] + '…'


def printable(path: Any) -> str:
    """Return a path whole, without line breaks and other letters that would reach a terminal."""
    return ''.join(letter if letter.isprintable() else '?' for letter in str(path))


def _described(value: Any) -> str:
    """Return a value in words, without spelling out what may be large."""
    if isinstance(value, (list, tuple, dict, set)) and len(value) > 20:
        return f'{type(value).__name__} of {len(value)}'
    if isinstance(value, np.ndarray) and value.ndim:
        return f'array {value.shape}'
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 1 << 200:
        return 'a huge number'
    return str(value)


def real(values: Any) -> np.ndarray:
    """Return float64 numbers. Raises TypeError or ValueError for complex ones and for what is none."""
    array = np.asarray(values)
    if array.dtype.kind in 'cMm':
        raise TypeError(f'{array.dtype} are no real numbers')
    return array.astype(np.float64)


def numbers(values: Any, where: str) -> np.ndarray:
    """Convert numbers from a file to a float64 array; null becomes NaN. Raises FileError for anything else."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError, RecursionError):
        raise FileError(f'{where} is not a list of numbers') from None
    return array


def whole(value: Any) -> int | None:
    """Return a number of a person or frame, 0 or more, also from a list that begins with it; None for anything else."""
    if isinstance(value, (list, tuple)) and value:
        value = value[0]
    if isinstance(value, np.generic):
        value = value.item()
    plain = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1 << 53
    return int(value) if plain and value == int(value) else None


def numbers_of(value: Any) -> int | tuple[int, ...] | None:
    """Return a person's number, or those of merged boxes in a list; None where there is none."""
    if isinstance(value, (list, tuple)) and len(value) > 1:
        several = tuple(number for number in map(whole, value[:20]) if number is not None)
        return several or None
    return whole(value)


def one_number(value: Any, where: str) -> float:
    """Return a number, 0 for null or NaN. Raises FileError for anything else."""
    array = numbers(value, where)
    if array.size != 1:
        raise FileError(f'{where} is not a number')
    return float(np.nan_to_num(array.reshape(())))
