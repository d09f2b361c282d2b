"""Windows as arithmetic: where they start and which frames they read. No window is ever stored as data.

A window of F frames that starts at frame `start` of a sequence of T frames reads the frames start ... start + F - 1,
each clamped to 0 ... T - 1, which replicates the edges. Letters: S sequences, W windows, F frames, T a length.
"""

import numpy as np


def chunk_starts(length: int, frames: int, step: int | None = None) -> np.ndarray:
    """Training windows of one sequence, the overhang shared by both ends.

    They lie back to back (VideoPose3D's rule), or, with a step smaller than a window, every `step` frames.
    """
    step = step or frames
    count = 1 + -(-max(length - frames, 0) // step)
    offset = ((count - 1) * step + frames - length) // 2
    return np.arange(count) * step - offset


def test_starts(length: int, frames: int) -> np.ndarray:
    """Test windows of one sequence: from frame 0 back to back, and a last one that ends where the sequence ends.

    The last one overlaps its neighbour unless F divides T; a sequence shorter than F gets one window.
    """
    starts = np.arange(0, max(length - frames, 0) + 1, frames)
    last = max(length - frames, 0)
    return starts if starts[-1] == last else np.append(starts, last)


def centred_starts(centres: np.ndarray, frames: int) -> np.ndarray:
    """Windows in whose middle these frames lie; of an even number of frames, the one after the middle."""
    return centres - frames // 2


def trailing_starts(ends: np.ndarray, frames: int) -> np.ndarray:
    """Windows that end at these frames, and so know nothing of what follows."""
    return ends - frames + 1


def overlapping_starts(length: int, frames: int, overlap: int) -> np.ndarray:
    """Windows of one sequence that share `overlap` frames with the next; the last one ends where the sequence ends.

    Without overlap they are the test windows.
    """
    last = max(length - frames, 0)
    starts = np.arange(0, last + 1, frames - overlap)
    return starts if starts[-1] == last else np.append(starts, last)


def blend_weights(frames: int, overlap: int) -> np.ndarray:
    """(F,) how much each frame of a window counts where windows overlap: rising and falling as a cosine, never 0."""
    edge = np.minimum(np.arange(frames), np.arange(frames)[::-1])
    return np.sin(np.minimum((edge + 0.5) / max(overlap, 1), 1) * np.pi / 2) ** 2


test_starts.__test__ = False  # not a test, whatever pytest makes of its name


def windows_of(lengths: list[int], frames: int, starts_of) -> tuple[np.ndarray, np.ndarray]:
    """All windows of all sequences, in order: (sequence index (W,), start (W,)), int64.

    Args:
        lengths: frames of each of the S sequences.
        starts_of: `chunk_starts` or `test_starts`.
    """
    starts = [starts_of(length, frames) for length in lengths]
    sequence = np.repeat(np.arange(len(lengths)), [len(s) for s in starts])
    return sequence, np.concatenate(starts)


def first_cover(sequence: np.ndarray, start: np.ndarray, lengths: list[int], frames: int) -> np.ndarray:
    """(W, F) bool: the window frames that stand for a real frame the first time it is covered.

    The True entries, in order, are every frame of every sequence exactly once, for windows in the order of
    `test_starts`.
    """
    frame = start[:, None] + np.arange(frames)  # (W, F)
    new_sequence = np.append(True, sequence[1:] != sequence[:-1])
    covered_to = np.where(new_sequence, 0, np.roll(start, 1) + frames)
    return (frame >= covered_to[:, None]) & (frame < np.asarray(lengths)[sequence][:, None])
