"""Detectors that find the keypoints of people in the frames of a video: a module each, imported when it is asked for.

A module offers `open_detector(files, device, everybody) -> Detector`.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np

DEFAULT_DETECTOR = 'movenet'
DETECTORS = {DEFAULT_DETECTOR: 'movenet', 'rtmlib': 'by_rtmlib'}  # name -> module
CAMERA = 'camera:'
VIDEOS = ('.mp4', '.mov', '.avi', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg', '.wmv', '.3gp', '.mts', '.m2ts', '.ts',
          '.flv', '.ogv')


class Detector(Protocol):
    """Finds people in pictures.

    Attributes:
        name: what it is, in words that change when its results may.
    """

    name: str

    def layout(self, keypoints: int) -> str | None:
        """Return the name of the order of its keypoints, of which there are so many; None where nothing tells it."""

    def detect(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the people (N, K, 3) float64 of each frame (H, W, 3) uint8 RGB of a video: x, y in pixels, and score.

        N is 0 where nobody is seen.
        """


def open_detector(name: str, files: tuple[str, ...], device: str, everybody: bool = False) -> Detector:
    """Return the detector called `name`.

    Args:
        files: of its weights, where it needs any.
        device: cpu or cuda.
        everybody: look for all people, also with a detector that is made for one.

    Raises FileError for files that cannot be used or a package that is missing, FlagError for files that it does not
    take.
    """
    return importlib.import_module(f'common.detectors.{DETECTORS[name]}').open_detector(files, device, everybody)


def is_video(path: Path) -> bool:
    """Tell by its suffix, in capitals or not, whether a file is a video."""
    return path.suffix.lower() in VIDEOS and not path.is_dir()


def camera_of(source: str) -> int | None:
    """Return the number of the camera that `camera:N` names; None of anything else."""
    named = re.fullmatch(f'{CAMERA}([0-9]{{1,3}})', source)
    return int(named[1]) if named else None


def videos_in(folder: Path) -> list[Path]:
    """Return the videos of a folder by name; none of a file, or of a folder that holds keypoints beside them."""
    if not folder.is_dir():
        return []
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith('.'))
    if any(path.name.lower().removesuffix('.gz').endswith(('.json', '.jsonl', '.ndjson', '.txt')) for path in files):
        return []
    return [path for path in files if is_video(path)]
