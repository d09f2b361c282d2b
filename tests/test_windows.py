import naive
import numpy as np
import pytest

from common.windows import chunk_starts, first_cover, test_starts, windows_of

SIZES = [(t, f) for t in (1, 2, 5, 26, 27, 28, 54, 81, 100) for f in (1, 2, 9, 27, 81)]


@pytest.mark.parametrize('length, frames', SIZES)
def test_starts_agree_with_the_naive_ones(length, frames):
    assert chunk_starts(length, frames).tolist() == naive.chunk_starts(length, frames)
    assert test_starts(length, frames).tolist() == naive.test_starts(length, frames)


def test_training_windows_by_hand():
    assert chunk_starts(10, 4).tolist() == [-1, 3, 7]  # 12 places for 10 frames: one before, one behind
    assert chunk_starts(8, 4).tolist() == [0, 4]
    assert chunk_starts(3, 4).tolist() == [0]


def test_test_windows_by_hand():
    assert test_starts(10, 4).tolist() == [0, 4, 6]
    assert test_starts(8, 4).tolist() == [0, 4]  # no second copy of the last window
    assert test_starts(3, 4).tolist() == [0]


def test_windows_of_keeps_the_order_of_sequences():
    sequence, start = windows_of([10, 3, 8], 4, test_starts)
    assert sequence.tolist() == [0, 0, 0, 1, 2, 2]
    assert start.tolist() == [0, 4, 6, 0, 0, 4]


@pytest.mark.parametrize('frames', [1, 2, 9, 27])
def test_first_cover_takes_every_frame_once_and_in_order(frames):
    lengths = [5, 27, 1, 28, 100, 2]
    sequence, start = windows_of(lengths, frames, test_starts)
    covered = first_cover(sequence, start, lengths, frames)
    frame = (start[:, None] + np.arange(frames))[covered]
    owner = np.repeat(sequence, frames).reshape(-1, frames)[covered]
    assert owner.tolist() == np.repeat(range(len(lengths)), lengths).tolist()
    assert frame.tolist() == [t for length in lengths for t in range(length)]
