"""Keypoints that this program's own detectors found in a video, kept so that they are looked for once.

An npz of `keypoints` (T, N, K, 2) in pixels and `scores` (T, N, K), NaN and 0 where there is nobody; `size` and `fps`;
`seconds` (T,) where frames come at uneven times; `layout`; `detector`; and the `video` with its SHA-256.

Letters: T frames, N people, K keypoints.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import FileError
from common.keypoints.detections import MOST_FRAMES, Detections, Picture
from common.keypoints.plain_arrays import layout_said
from common.keypoints.sizes import fps_of, size_of
from common.keypoints.track import Person
from common.keypoints.values import quoted
from common.storage.npz import write_npz


def write(path: Path, people: Sequence[np.ndarray], **about: Any) -> None:
    """Write the people (N, K, 3) of each frame, where N may change; in place of `path` on success.

    Args:
        about: `size`, `detector`, `video` and `sha256`; `fps`, `seconds` and `layout` where they are known, else None.

    Raises FileError where the file cannot be written.
    """
    most = max(len(frame) for frame in people)
    whole = np.full((len(people), most, *people[0].shape[1:]), np.nan, np.float32)
    for row, frame in zip(whole, people, strict=True):
        row[:len(frame)] = frame
    write_npz(path, keypoints=whole[..., :2], scores=np.nan_to_num(whole[..., 2]),
              **{name: value for name, value in about.items() if value is not None})


def is_detected(content: dict) -> bool:
    """Tell whether the members of an npz are what `write` writes."""
    return bool(_text(content, 'detector') and _text(content, 'video'))


def seen_in(video: str, detector: str = '') -> str:
    """Return what such keypoints are, in words that an output of --predict repeats as its `source`."""
    return f'{quoted(video)} seen by {quoted(detector)}'


def is_of(content: dict, detector: str, sha256: str) -> bool:
    """Tell whether the members of an npz are what this detector found in the video of this SHA-256."""
    return _text(content, 'detector') == detector and _text(content, 'sha256') == sha256


def members(path: Path, content: dict) -> Detections | None:
    """Return the people of such an npz; None for others' files. Raises FileError where its parts do not fit."""
    if not is_detected(content):
        return None
    points, scores = (_floats(path, content, name) for name in ('keypoints', 'scores'))
    if points.ndim != 4 or points.shape[-1] != 2 or not points.size or scores.shape != points.shape[:-1]:
        raise FileError(f'{path}: keypoints are {points.shape} and scores {scores.shape}, expected (frames, people, '
                        f'keypoints, 2) and a score for each of them')
    if len(points) > MOST_FRAMES:
        raise FileError(f'{path} has {len(points):,} frames; cut it into parts of at most {MOST_FRAMES:,}')
    pictures = [Picture([Person(np.column_stack([one, score]), float(score.mean()))
                         for one, score in zip(points[t], scores[t], strict=True) if np.isfinite(one).any()], t)
                for t in range(len(points))]
    seconds = _floats(path, content, 'seconds') if 'seconds' in content else None
    if seconds is not None and (seconds.shape != points.shape[:1] or not _rises(seconds)):
        raise FileError(f'{path}: seconds is not a rising time for each of its {len(points):,} frames')
    kind = seen_in(_text(content, 'video'), _text(content, 'detector'))
    return Detections(pictures, kind, layout_said(content.get('layout')),
                      size_of(str(path), content.get('size')), fps_of(str(path), content.get('fps')), seconds=seconds)


def _rises(seconds: np.ndarray) -> bool:
    return bool(np.isfinite(seconds).all() and (np.diff(seconds) > 0).all())


def _floats(path: Path, content: dict, name: str) -> np.ndarray:
    value = content.get(name)
    if not isinstance(value, np.ndarray) or value.dtype.kind != 'f':
        raise FileError(f'{path}: {name} is no array of real numbers')
    return value.astype(np.float64)


def _text(content: dict, name: str) -> str:
    value = content.get(name)
    return str(value) if isinstance(value, np.ndarray) and value.dtype.kind == 'U' and value.ndim == 0 else ''
