"""Arrays of odd types and shapes: a track, or one sentence."""

import numpy as np
import pytest

from common.errors import FileError, FlagError
from common.keypoints import read_track


def ragged(*entries):
    array = np.empty(len(entries), dtype=object)
    for t, entry in enumerate(entries):
        array[t] = entry
    return array


ODD = {
    'bool': np.ones((4, 17, 2), bool), 'complex': np.ones((4, 17, 2), complex), 'text': np.full((4, 17, 2), 'a\n'),
    'no frame': np.ones((0, 17, 2)), 'no keypoint': np.ones((4, 0, 2)), 'a number': np.array(3.0),
    'one axis': np.ones(5), 'five axes': np.ones((2, 2, 4, 17, 2)), 'six axes': np.ones((1, 1, 1, 4, 17, 2)),
    'either axis': np.ones((8, 8, 17, 2)), 'many people': np.ones((40, 40, 17, 3)), 'quaternions': np.ones((4, 17, 4)),
    'infinite': np.full((4, 17, 2), np.inf), 'many keypoints': np.ones((2, 5000, 2)), 'object 0-d': np.array(None),
    'dicts': ragged({'a': 1}, {'a': 2}), 'ragged text': ragged('a', 'b'), 'ragged counts':
        ragged(np.ones((1, 17, 2)), np.ones((1, 18, 2))), 'ragged flat': ragged(np.ones(3), np.ones(4)),
    'ragged nobody': ragged(None, None), 'ragged empty': ragged(np.ones((0, 17, 2)), np.ones((0,))),
    'records': np.zeros(3, dtype=[('x', float), ('y', float)]), 'dates': np.zeros((4, 17, 2), 'datetime64[s]'),
    'huge': np.full((4, 17, 3), 1e300), 'sizes': np.ones((33, 33, 5))}


@pytest.mark.parametrize('kind', ODD)
@pytest.mark.parametrize('suffix', ['npy', 'npz', 'scores', 'size', 'fps', 'layout', 'positions_2d', 'boxes'])
def test_odd_arrays_end_with_one_sentence_or_a_track(tmp_path, kind, suffix):
    path = tmp_path / ('in.npy' if suffix == 'npy' else 'in.npz')
    good = np.random.default_rng(0).uniform(100, 900, (4, 17, 2))
    if suffix == 'npy':
        np.save(path, ODD[kind], allow_pickle=True)
    else:
        np.savez(path, **{'keypoints': good, 'keypoints' if suffix == 'npz' else suffix: ODD[kind]})
    try:
        track = read_track(path, size=(1000, 1000))
    except (FileError, FlagError) as error:
        text = str(error)
    else:
        text = ''
        assert len(track.points) == len(track.scores) == len(track.frames)
    assert (text == '' or text.isprintable()) and len(text) < 700
