import naive
import numpy as np
import pytest
import torch

from common.datasets import Sequence
from common.sampler import SequenceStore, WindowSampler
from common.skeleton import COCO, H36M

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
        for keypoints, poses in sampler.epoch(draw, batch=4):
            for x, y in zip(keypoints.numpy(), poses.numpy(), strict=True):
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
    seen = torch.cat([keypoints for keypoints, _ in sampler.epoch(0, 4)]).flatten(0, 1)
    assert {tuple(frame.flatten().tolist()) for frame in seen} == \
        {tuple(frame.flatten().tolist()) for s in sequences for frame in s.keypoints}


def test_batches_are_not_views_of_one_buffer(sequences):
    batches = list(make(sequences, 9).epoch(0, 2))
    first = batches[0][0].clone()
    batches[1][0].zero_()
    assert torch.equal(batches[0][0], first)
