"""Windows as arithmetic: where they start and which frames they read. They are never stored as data.

A window of F frames that starts at frame `start` of a sequence of T frames reads the frames start ... start + F - 1,
each clamped to 0 ... T - 1, which replicates the edges. Letters: S sequences, W windows, F frames of a window, T frames
of a sequence.
"""

from collections.abc import Callable

import numpy as np


def chunk_starts(length: int, frames: int, step: int | None = None) -> np.ndarray:
    """Return the starts of one sequence's training windows; what they overhang is shared by both ends.

    They lie back to back (VideoPose3D's rule) or, with a step smaller than a window, every `step` frames.
    """
    step = step or frames
    count = 1 + -(-max(length - frames, 0) // step)
    offset = ((count - 1) * step + frames - length) // 2
    return np.arange(count) * step - offset


def fitting_starts(length: int, frames: int, step: int) -> np.ndarray:
    """Return the starts of training windows every `step` frames from frame 0 on, as long as they fit.

    What is left at the end is in none of them. A sequence shorter than a window gets one, which overhangs at both ends.
    """
    return np.arange(0, length - frames + 1, step) if length >= frames else np.array([(length - frames) // 2])


def test_starts(length: int, frames: int) -> np.ndarray:
    """Return the starts of one sequence's test windows: back to back from frame 0, and a last one that ends with it.

    The last one overlaps its neighbour unless F divides T; a sequence shorter than F gets one window.
    """
    starts = np.arange(0, max(length - frames, 0) + 1, frames)
    last = max(length - frames, 0)
    return starts if starts[-1] == last else np.append(starts, last)


def overlapping_starts(length: int, frames: int, overlap: int) -> np.ndarray:
    """Return the starts of windows that share `overlap` frames with the next; the last one ends with the sequence.

    With an overlap of 0 they are the test windows.
    """
    last = max(length - frames, 0)
    starts = np.arange(0, last + 1, frames - overlap)
    return starts if starts[-1] == last else np.append(starts, last)


def blend_weights(frames: int, overlap: int) -> np.ndarray:
    """Return each frame's weight (F,) where windows overlap, rising and falling as a squared sine, never 0."""
    edge = np.minimum(np.arange(frames), np.arange(frames)[::-1])
    return np.sin(np.minimum((edge + 0.5) / max(overlap, 1), 1) * np.pi / 2) ** 2


test_starts.__dict__['__test__'] = False  # its name makes pytest take it for a test


def windows_of(lengths: list[int], frames: int,
               starts_of: Callable[[int, int], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return all windows of all sequences, in order: (sequence index (W,), start (W,)), int64.

    Args:
        lengths: T of each of the S sequences.
        frames: F.
        starts_of: `chunk_starts`, `test_starts` or another function (T, F) -> starts.
    """
    starts = [starts_of(length, frames) for length in lengths]
    sequence = np.repeat(np.arange(len(lengths)), [len(s) for s in starts])
    return sequence, np.concatenate(starts)


def first_cover(sequence: np.ndarray, start: np.ndarray, lengths: list[int], frames: int) -> np.ndarray:
    """Return (W, F) bool: True where a window is the first to cover a real frame.

    For windows in the order of `test_starts`, the True entries are, in order, every frame of every sequence once.
    """
    frame = start[:, None] + np.arange(frames)  # (W, F)
    new_sequence = np.append(True, sequence[1:] != sequence[:-1])
    covered_to = np.where(new_sequence, 0, np.roll(start, 1) + frames)
    return (frame >= covered_to[:, None]) & (frame < np.asarray(lengths)[sequence][:, None])
