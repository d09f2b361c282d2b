"""Picture sizes and frame rates as files say them."""

from typing import Any

import numpy as np

from common.errors import FileError
from common.keypoints.values import quoted, real


def size_of(where: str, pair: Any) -> tuple[float, float] | None:
    """Return (width, height) from a file's pair or {w, h}; None for none. Raises FileError for what is no size."""
    if isinstance(pair, dict):
        pair = (pair['w'], pair['h']) if {'w', 'h'} <= set(pair) else None
    if pair is None:
        return None
    try:
        size = real(pair)
    except (TypeError, ValueError, OverflowError, RecursionError):
        size = np.empty(0)
    if size.shape != (2,) or not np.isfinite(size).all() or (size <= 0).any():
        raise FileError(f"{where}: the picture's size is {quoted(pair)}, expected width and height in pixels")
    return float(size[0]), float(size[1])


def fps_of(where: str, value: Any) -> float | None:
    """Return frames per second from a file; None for none. Raises FileError for what is no rate."""
    if value is None:
        return None
    try:
        fps = float(value)
    except (TypeError, ValueError, OverflowError):
        fps = 0.0
    if not 0 < fps < 10000:
        raise FileError(f'{where}: fps is {quoted(value)}, expected frames per second')
    return fps
