"""Bytes to JSON, in bounded memory and with one sentence for what cannot be read; and people from flat lists.

Letters: K keypoints.
"""

import gzip
import json
import zlib
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from common.errors import FileError
from common.keypoints.known import LAYOUTS
from common.keypoints.track import Person
from common.keypoints.values import numbers, numbers_of, one_number, printable, quoted

LARGEST = 1 << 29  # bytes of JSON; an hour of AlphaPose's output of one person has a quarter of that
MEMORY = 3 << 29  # bytes that its values may take: about 40 for a number and 80 for a list or dict
COUNTS = frozenset(len(layout) for layout in LAYOUTS.values())


def read_json(path: Path) -> Any:
    """Return the content of a JSON file, or of one with a value on each line as a list; either may be gzipped.

    Raises FileError for a file that is missing, too large, cut off, or not JSON.
    """
    raw, shown = _read_bytes(path), printable(path)
    if 40 * raw.count(b',') + 80 * (raw.count(b'[') + raw.count(b'{')) > MEMORY:
        raise FileError(f'{shown} holds more values than fit into {MEMORY >> 20:,} MB; cut it into parts')
    try:
        return json.loads(raw)
    except RecursionError:
        raise FileError(f"{shown} is not a detector's JSON: it is nested without end") from None
    except MemoryError:
        raise FileError(f'{shown} asks for more memory than there is') from None
    except ValueError as error:  # raised for bytes that are not text too
        lines = [line for line in raw.splitlines() if line.strip()]
        if len(lines) > 1:
            try:
                return [json.loads(line) for line in lines]
            except (ValueError, RecursionError, MemoryError):
                pass
        reason = quoted(str(error).splitlines()[0])
        raise FileError(f'{shown} is not readable JSON, or cut off ({reason}); fetch or make it again') from None


def _read_bytes(path: Path) -> bytes:
    shown = printable(path)
    if path.exists() and not path.is_file():
        raise FileError(f'{shown} is neither a file nor a folder of files')
    try:
        with gzip.open(path) if path.suffix.lower() == '.gz' else open(path, 'rb') as file:
            raw = file.read(LARGEST + 1)
    except MemoryError:
        raise FileError(f'{shown} asks for more memory than there is') from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise FileError(f'{shown} is not readable gzip, or cut off; fetch or make it again') from None
    except OSError as error:
        raise FileError(f'cannot read {shown}: {error.strerror or error}') from None
    if len(raw) > LARGEST:
        raise FileError(f'{shown} holds more than {LARGEST >> 20:,} MB of JSON; cut it into parts')
    return raw


def flat_keypoints(values: Any, where: str) -> np.ndarray:
    """Reshape a flat list x, y, score, x, y, score, … or x, y, x, y, … to (K, 3).

    Where both could be meant, it is the one that makes a known number of keypoints, or else three numbers each.
    """
    array = numbers(values, where)
    if array.ndim == 2 and array.shape[1] in (2, 3):
        return with_scores(array, where)
    if array.ndim != 1 or not array.size or (array.size % 3 and array.size % 2):
        raise FileError(f'{where} has shape {array.shape}, expected x, y and score of each keypoint in one list')
    triples, pairs = array.size % 3 == 0, array.size % 2 == 0
    if triples and pairs and array.size // 3 not in COUNTS:
        triples = array.size // 2 not in COUNTS
    return with_scores(array.reshape(-1, 3 if triples else 2), where)


def with_scores(points: np.ndarray, where: str, scores: Any = None) -> np.ndarray:
    """Return (K, 3) x, y, score of (K, 2 or 3) points; the scores are those given, the third column, or 1."""
    if points.ndim != 2 or points.shape[1] not in (2, 3) or not len(points):
        raise FileError(f'{where} has shape {points.shape}, expected x and y of each keypoint')
    if scores is not None:
        given = numbers(scores, f'{where}: scores')
        given = given.reshape(-1) if given.size == len(points) else given
        if given.shape != (len(points),):
            raise FileError(f'{where}: scores have shape {given.shape}, expected one for each of {len(points)} '
                            f'keypoints')
        return np.column_stack([points[:, :2], given])
    return points if points.shape[1] == 3 else np.column_stack([points, np.ones(len(points))])


def person_of(keypoints: np.ndarray, score: Any, number: Any, where: str) -> Person:
    """Return a person; where the file gives no score of the whole one, it is the mean of the keypoints' scores."""
    if score is None:
        there = np.isfinite(keypoints).all(axis=1)
        score = keypoints[there, 2].mean() if there.any() else 0.0
    return Person(keypoints, one_number(score, f'{where}: score'), numbers_of(number))


def first_of(entry: dict, *keys: str) -> Any:
    """Return the value of the first of these keys that an entry has, None where it has none."""
    return next((entry[key] for key in keys if entry.get(key) is not None), None)


def dicts_with(content: Any, *keys: str) -> TypeGuard[list[Any]]:
    """Check for a list of dicts, the first of which has all of these keys."""
    return isinstance(content, list) and bool(content) and is_dict_with(content[0], *keys)


def is_dict_with(content: Any, *keys: str) -> TypeGuard[dict[str, Any]]:
    """Check for a dict that has all of these keys."""
    return isinstance(content, dict) and all(key in content for key in keys)
