"""Detectors of many people that rtmlib runs (https://github.com/Tau-J/rtmlib), from ONNX files that the user has.

Two files are YOLOX, which finds people, and RTMPose, which finds the keypoints of each; one file is RTMO, which does
both. rtmlib would fetch what is not there: so that nothing is, the files are looked for first.

Letters: N people, K keypoints.
"""

import contextlib
import io
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from common.errors import FileError, FlagError
from common.storage.files import first_line, read_regular, readable

LAYOUTS = {17: 'coco', 26: 'halpe26', 133: 'wholebody133'}  # what models are trained for, by K
MISSING = '--detector rtmlib needs the package: pip install rtmlib onnxruntime'
ON_CUDA = 'CUDAExecutionProvider'


class ManyPeople:
    """The models of rtmlib behind one call.

    Attributes:
        name: the files with their checksums.
    """

    def __init__(self, name: str, see: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]):
        """Take what tells the keypoints (N, K, 2) and scores (N, K) of a picture (H, W, 3) in BGR, as rtmlib has it."""
        self.name, self._see = name, see

    def layout(self, keypoints: int) -> str | None:
        """Return the name of the order of this many keypoints, which rtmlib does not say."""
        return LAYOUTS.get(keypoints)

    def detect(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the people (N, K, 3) float64 of each frame (H, W, 3) uint8 RGB: x, y in pixels, and score.

        Raises FileError where the files do not do what those of these models do.
        """
        for frame in frames:
            try:
                points, scores = self._see(np.ascontiguousarray(frame[..., ::-1]))
                people = np.concatenate([points, scores[..., None]], axis=-1).astype(np.float64)
            except Exception as error:  # of a graph with other inputs and outputs, anything
                raise FileError(f'{self.name} cannot be used: {first_line(error)}; expected a YOLOX and an RTMPose, '
                                f'or an RTMO') from None
            yield people[(people[..., 2] > 0).any(axis=1)]  # RTMO answers with zeros where nobody is


def open_detector(files: tuple[str, ...], device: str, everybody: bool = False) -> ManyPeople:
    """Return the detector of one or two ONNX files, which finds everybody whether or not that is asked for.

    Raises FlagError for any other number of them, FileError where one cannot be used or a package is missing.
    """
    if len(files) not in (1, 2):
        raise FlagError('--detector rtmlib needs --detector-files YOLOX.onnx,RTMPOSE.onnx or RTMO.onnx: nothing is '
                        'downloaded')
    name = ' and '.join(_named(Path(file)) for file in files)
    rtmlib, onnxruntime = _packages()
    where = {'backend': 'onnxruntime',
             'device': 'cuda' if device == 'cuda' and ON_CUDA in onnxruntime.get_available_providers() else 'cpu'}
    if len(files) == 1:
        return ManyPeople(f'rtmlib with {name}', _opened(rtmlib.RTMO, files[0], where, (0, 1)))
    boxes, pose = _opened(rtmlib.YOLOX, files[0], where, (0, 1)), _opened(rtmlib.RTMPose, files[1], where, (1, 0))
    return ManyPeople(f'rtmlib with {name}', lambda picture: _in_boxes(picture, boxes(picture), pose))


def _in_boxes(picture: np.ndarray, boxes: np.ndarray, pose: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return keypoints (N, K, 2) and scores (N, K) of people in boxes; without any, RTMPose would take the picture."""
    if len(boxes):
        return pose(picture, bboxes=boxes)
    points, scores = pose(picture, bboxes=[[0, 0, picture.shape[1], picture.shape[0]]])
    return points[:0], scores[:0]


def _packages() -> tuple[ModuleType, ModuleType]:
    try:
        import onnxruntime
        import rtmlib
    except ImportError:
        raise FileError(MISSING) from None
    return rtmlib, onnxruntime


def _opened(kind: Any, file: str, where: dict[str, str], order: tuple[int, int]) -> Any:
    """Return a model of rtmlib for pictures of the size that its graph has.

    Args:
        order: where the model wants (height, width) in its pair. Raises FileError.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it says what it loads
            model = kind(file, **where)
        *_, height, width = model.session.get_inputs()[0].shape
    except Exception as error:  # of a damaged file, anything
        raise FileError(f'{file} is not a readable ONNX file ({first_line(error)})') from None
    if isinstance(height, int) and isinstance(width, int):  # else any size goes, and the usual one is taken
        model.model_input_size = tuple((height, width)[place] for place in order)
    return model


def _named(path: Path) -> str:
    """Return a file's name and checksum. Raises FileError where it is missing."""
    with readable(path, 'ONNX file'):
        return f'{path.name} ({zlib.crc32(read_regular(path)):08x})'
