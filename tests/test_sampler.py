import naive
import numpy as np
import pytest
import torch

from common.distributed import World
from common.sampler import TestWindows, WindowSampler
from common.sequences import Sequence
from common.skeleton import COCO, H36M
from common.store import SequenceStore
from common.windows import chunk_starts

LENGTHS = [5, 27, 40, 1]


@pytest.fixture
def sequences():
    random = np.random.default_rng(0)
    return [Sequence('S1', f'Walking {i}', i % 4, random.normal(size=(n, 17, 2)).astype(np.float32),
                     random.normal(size=(n, 17, 3)).astype(np.float32)) for i, n in enumerate(LENGTHS)]


def make(sequences, frames, flip=True, layout=H36M):
    store = SequenceStore(sequences, layout, H36M, torch.device('cpu'))
    return WindowSampler(store, frames, flip, seed=1234)


def naive_mirror(array, skeleton):
    return naive.mirror(array, skeleton.left, skeleton.right)


@pytest.mark.parametrize('frames', [1, 9, 27])
@pytest.mark.parametrize('layout', [H36M, COCO], ids=['same layout', 'coco keypoints'])
def test_an_epoch_is_the_published_one(sequences, frames, layout):
    """Order, edges and mirrors of two epochs, batch by batch, against windows made one by one."""
    sampler = make(sequences, frames, layout=layout)
    windows = naive.epoch_windows(LENGTHS, frames)
    assert len(sampler) == len(windows)
    for draw in (0, 1):
        expected = [windows[i] for i in naive.epoch_order(len(windows), draw)]
        position = 0
        for batch in (step.batch for step in sampler.epoch(draw, batch=4)):
            for x, y in zip(batch.keypoints.numpy(), batch.poses.numpy(), strict=True):
                index, start, flip = expected[position]
                position += 1
                want_x = naive.take(sequences[index].keypoints, start, frames)
                want_y = naive.take(sequences[index].poses, start, frames)
                np.testing.assert_array_equal(x, naive_mirror(want_x, layout) if flip else want_x)
                np.testing.assert_array_equal(y, naive_mirror(want_y, H36M) if flip else want_y)
        assert position == len(expected)


def test_orders_can_be_asked_for_in_any_order(sequences):
    sampler = make(sequences, 9)
    third = sampler.order(2)
    assert sampler.order(0).tolist() == make(sequences, 9).order(0).tolist()
    assert sampler.order(2).tolist() == third.tolist()


def test_without_augmentation_nothing_is_mirrored(sequences):
    sampler = make(sequences, 9, flip=False)
    assert len(sampler) == len(naive.epoch_windows(LENGTHS, 9)) // 2
    seen = torch.cat([step.batch.keypoints for step in sampler.epoch(0, 4)]).flatten(0, 1)
    assert {tuple(frame.flatten().tolist()) for frame in seen} == \
        {tuple(frame.flatten().tolist()) for s in sequences for frame in s.keypoints}


def test_batches_are_not_views_of_one_buffer(sequences):
    batches = [step.batch for step in make(sequences, 9).epoch(0, 2)]
    first = batches[0].keypoints.clone()
    batches[1].keypoints.zero_()
    assert torch.equal(batches[0].keypoints, first)


@pytest.mark.parametrize('size', [2, 3, 7])
def test_ranks_share_every_step_without_overlap_or_loss(sequences, size):
    """Check any number of ranks, also in unequal parts and with ranks that get nothing in the short last step."""
    sampler = make(sequences, 9)
    whole = list(sampler.epoch(1, 6))
    shares = [list(sampler.epoch(1, 6, World(rank, size).share)) for rank in range(size)]
    assert len(sampler) % 6  # the last step is short
    for number, batch in enumerate(step.batch for step in whole):
        parts = [share[number] for share in shares]
        assert torch.equal(torch.cat([part.batch.keypoints for part in parts]), batch.keypoints)
        assert torch.equal(torch.cat([part.batch.poses for part in parts]), batch.poses)
        assert [part.before for part in parts] == np.cumsum([0, *(len(p.batch.poses) for p in parts[:-1])]).tolist()
        assert {part.whole for part in parts} == {len(batch.poses)}


def test_an_epoch_can_begin_at_any_step(sequences):
    sampler = make(sequences, 9)
    whole = list(sampler.epoch(0, 4))
    for step, again in zip(whole[2:], sampler.epoch(0, 4, first_step=2), strict=True):
        assert again.number == step.number
        assert torch.equal(again.batch.keypoints, step.batch.keypoints)


@pytest.mark.parametrize('step', [1, 3, 8])
def test_overlapping_windows_cover_every_frame_with_the_step_asked_for(step):
    for length in (1, 5, 9, 10, 26, 100):
        starts = chunk_starts(length, 9, step)
        assert starts[0] <= 0 and starts[-1] + 9 >= length
        assert (np.diff(starts) == step).all()
        assert abs(-starts[0] - (starts[-1] + 9 - length)) <= 1  # the overhang is shared
    assert chunk_starts(100, 9, 9).tolist() == chunk_starts(100, 9).tolist()


def test_spaced_windows_and_frames_that_are_learned_from(sequences):
    """A window of five frames three apart around every frame, whose truth is asked for on all five."""
    store = SequenceStore(sequences, H36M, H36M, torch.device('cpu'))
    sampler = WindowSampler(store, 5, flip=False, seed=1, answers=range(2, 3), supervised=range(5), spacing=3)
    assert len(sampler) == sum(LENGTHS)  # a window for each frame
    order = sampler.order(0)
    owners = [(index, frame) for index, length in enumerate(LENGTHS) for frame in range(length)]
    position = 0
    for step in sampler.epoch(0, batch=7):
        assert step.batch.poses.shape[1:] == (5, 17, 3)
        for x, y in zip(step.batch.keypoints, step.batch.poses, strict=True):
            index, frame = owners[order[position]]
            position += 1
            read = [min(max(frame + 3 * (k - 2), 0), LENGTHS[index] - 1) for k in range(5)]
            np.testing.assert_array_equal(x.numpy(), sequences[index].keypoints[read])
            np.testing.assert_array_equal(y.numpy(), sequences[index].poses[read])
    assert position == len(owners)


@pytest.mark.parametrize('target', ['all', 'centre', 'last'])
def test_spaced_test_windows_read_around_the_frame_that_is_taken(sequences, target):
    store = SequenceStore(sequences, H36M, H36M, torch.device('cpu'))
    answers = range(4, 5) if target == 'last' else range(2, 3)
    windows = TestWindows.of(store, 5, target=target, answers=answers, spacing=3)
    rows = store.frame_index(windows.sequence, windows.start, 5, windows.last, windows.spacing)
    begins = np.cumsum([0, *LENGTHS])
    expected = [[begins[i] + min(max(t + 3 * (k - answers.start), 0), n - 1) for k in range(5)]
                for i, n in enumerate(LENGTHS) for t in range(n)]
    assert rows.tolist() == expected
    assert windows.rows[:, 0].tolist() == list(range(sum(LENGTHS)))


def test_wide_windows_count_each_frame_once(sequences):
    """By the published protocol too: a network that answers for any number of frames lifts each of them once."""
    store = SequenceStore(sequences, H36M, H36M, torch.device('cpu'))
    windows = TestWindows.of(store, 12, answers=range(1, 11), once=True)
    assert windows.rows[windows.counted].tolist() == list(range(sum(LENGTHS)))
    assert TestWindows.of(store, 12, answers=range(1, 11)).counted.all()


def test_windows_mirrored_at_random_come_once_and_half_of_them_mirrored(sequences):
    """Which are mirrored changes from epoch to epoch, and is the same whenever an epoch is drawn again."""
    store = SequenceStore(sequences, H36M, H36M, torch.device('cpu'))
    sampler = WindowSampler(store, 3, True, seed=1, step=1, at_random=True)
    plain = WindowSampler(store, 3, False, seed=1, step=1)
    assert len(sampler) == len(plain)

    def epoch(draw):
        mirrored = []
        for mine, its in zip(sampler.epoch(draw, 4), plain.epoch(draw, 4), strict=True):
            flipped = naive_mirror(its.batch.keypoints.numpy(), H36M)
            for x, straight, other in zip(mine.batch.keypoints.numpy(), its.batch.keypoints.numpy(), flipped,
                                          strict=True):
                mirrored.append(bool((x == other).all()))
                assert mirrored[-1] or (x == straight).all()
        return mirrored

    first, second = epoch(0), epoch(1)
    assert 0.3 < np.mean(first) < 0.7 and first != second
    assert epoch(0) == first


def test_training_windows_start_where_they_are_told_to(sequences):
    store = SequenceStore(sequences, H36M, H36M, torch.device('cpu'))
    asked = []

    def starts(length, answered, step):
        asked.append((length, answered, step))
        return np.array([2, 0])

    sampler = WindowSampler(store, 5, False, seed=1, step=7, answers=range(2, 3), starts=starts)
    assert asked == [(length, 1, 7) for length in LENGTHS] and len(sampler) == 2 * len(LENGTHS)
    batch = sampler.gather(sampler._table)
    np.testing.assert_array_equal(batch.keypoints[2].numpy(), sequences[1].keypoints[:5])  # around frame 2
