"""Parts of reading a user's own keypoints: layouts, picking people, frames in time, gaps."""

import json

import keypoint_files as files
import numpy as np
import pytest
from test_predict import clip

from common.errors import FileError
from common.keypoints import read_track
from common.keypoints.bones import evenness, stature
from common.keypoints.gaps import Absence, absences, fill, jumps, stills, strays
from common.keypoints.known import LAYOUTS
from common.keypoints.layouts import conversion, find_layout, usable_keypoints
from common.keypoints.track import rows_of
from common.skeleton import BODY25, BODY25B, COCO, H36M, HALPE26, MPI_INF_3DHP, SKELETONS


@pytest.mark.parametrize('wanted', ['h36m', 'humaneva15', 'humaneva20', '3dhp', 'coco', 'mpii'])
@pytest.mark.parametrize('given', LAYOUTS)
def test_every_layout_converts_to_every_layout_of_a_lifter(wanted, given):
    wanted, given = SKELETONS[wanted], LAYOUTS[given]
    matrix, made = conversion(wanted, given, np.ones(len(given), bool))
    np.testing.assert_allclose(matrix.sum(axis=1), 1)
    np.testing.assert_allclose(matrix[list(wanted.mirror)][:, list(given.mirror)], matrix)  # left stays left
    for row, name in zip(matrix, wanted.joints, strict=True):
        if name in given.joints:
            assert name not in made
            assert row[given.joints.index(name)] == 1


def test_detectors_own_middles_are_taken():
    halpe, _ = conversion(H36M, HALPE26, np.ones(26, bool))
    assert halpe.argmax(axis=1)[[0, 8, 10]].tolist() == [19, 18, 17]  # Hip, Neck, Head
    assert sorted(np.flatnonzero(halpe[7])) == [18, 19]  # the spine between them
    body25, _ = conversion(H36M, BODY25, np.ones(25, bool))
    assert body25.argmax(axis=1)[[0, 8]].tolist() == [8, 1]  # MidHip, Neck
    body25b, _ = conversion(H36M, BODY25B, np.ones(25, bool))
    assert body25b.argmax(axis=1)[[9, 10]].tolist() == [17, 18]


def test_a_face_that_is_never_seen_is_replaced_and_a_wrist_is_not():
    _, pixels = clip(10)
    seen = np.ones((10, 17), bool)
    seen[2:, :5] = False  # nose, eyes, ears
    matrix, made = conversion(H36M, COCO, usable_keypoints(seen, COCO))
    assert set(made['head']) == {'left_shoulder', 'right_shoulder', 'left_hip', 'right_hip'}
    head = np.einsum('k,tkc->tc', matrix[10], files.in_layout(pixels, COCO))
    assert (head[:, 1] < pixels[:, 8, 1]).all()  # above the shoulders
    seen[2:, 9] = False  # seen in two frames: a wrist is still the best guess of itself
    conversion(H36M, COCO, usable_keypoints(seen, COCO))
    seen[:, 9] = False
    with pytest.raises(FileError, match='left_wrist is never seen: a lifter needs whole bodies; lower --min-score'):
        conversion(H36M, COCO, usable_keypoints(seen, COCO))


@pytest.mark.parametrize('layout', [H36M, MPI_INF_3DHP, COCO, BODY25, BODY25B], ids=lambda layout: layout.name)
def test_layouts_of_equal_size_are_told_apart_by_bones(layout):
    _, pixels = clip(60)
    points = files.to_3dhp(pixels) if layout is MPI_INF_3DHP else files.in_layout(pixels, layout)
    others = [other for other in LAYOUTS.values() if len(other) == len(layout)]
    fits = {other.name: evenness(points, other) for other in others}
    assert fits[layout.name] > 0.65
    assert all(fit < fits[layout.name] - 0.1 for name, fit in fits.items() if name != layout.name)
    for usual in ((), ('coco',), ('body25',)):
        assert find_layout(points, 'auto', usual, 'x')[0] == layout


def test_stature_is_that_of_the_person():
    _, pixels = clip(60)
    height = np.median(pixels[..., 1].max(axis=1) - pixels[..., 1].min(axis=1))
    assert stature(pixels, H36M) == pytest.approx(height, rel=0.35)
    assert stature(pixels / 10, H36M) == pytest.approx(stature(pixels, H36M) / 10)
    assert np.isnan(stature(pixels * np.nan, H36M))


@pytest.mark.parametrize('labels, rows, numbers', [
    ([3, 4, 6], [0, 1, 3], [3, 4, 5, 6]), ([10, 0, 5], [2, 0, 1], [0, 5, 10]), ([7], [0], [7]),
    ([None, 1], [0, 1], [0, 1]), ([5, 5], [0, 1], [0, 1]), ([1, 2, 1 << 40], [0, 1, 2], [0, 1, 2]),
], ids=str)
def test_frame_numbers_become_rows_in_time(labels, rows, numbers):
    got = rows_of(labels)
    assert [part.tolist() for part in got] == [rows, numbers]


def test_gaps_are_filled_and_absences_found():
    points = np.arange(6.0)[:, None, None] * np.ones((1, 2, 2))
    seen = np.array([[0, 1], [1, 1], [0, 0], [1, 0], [1, 1], [0, 1]], bool)
    filled = fill(np.where(seen[..., None], points, 99), seen)
    assert filled[:, 0, 0].tolist() == [1, 1, 2, 3, 4, 4]
    assert filled[:, 1, 1].tolist() == [0, 1, 2, 3, 4, 5]
    assert np.isnan(fill(points, np.zeros_like(seen))).all()
    present = np.array([0, 0, 1, 0, 1, 0, 0, 0], bool)
    assert absences(present, 2) == [Absence(0, 1), Absence(5, 7)]


@pytest.mark.parametrize('frames', [1, 2, 3, 4, 40])
def test_nobody_strays_from_a_walk(frames):
    _, pixels = clip(frames)
    assert not strays(pixels, np.ones(pixels.shape[:2], bool)).any()


@pytest.mark.parametrize('stray', [[0], [39], [20, 21, 22], [0, 20, 39]], ids=str)
def test_strays_are_found_anywhere(stray):
    _, pixels = clip(40)
    pixels[stray] += 900
    assert np.flatnonzero(strays(pixels, np.ones(pixels.shape[:2], bool))).tolist() == stray


@pytest.mark.parametrize('speed', [5, 40, -90])
def test_nobody_strays_who_runs_through_the_picture(speed):
    """Faster than their own width in a few frames, from the first frame to the last."""
    _, pixels = clip(60)
    pixels += speed * np.arange(60)[:, None, None] * [1, 0]
    assert not strays(pixels, np.ones(pixels.shape[:2], bool)).any()
    pixels[[0, 30, 59]] += [0, 900]
    assert np.flatnonzero(strays(pixels, np.ones(pixels.shape[:2], bool))).tolist() == [0, 30, 59]


def test_jumps_are_found_and_motion_is_none():
    _, pixels = clip(60)
    pixels -= pixels.mean(axis=1, keepdims=True)
    seen = np.ones(pixels.shape[:2], bool)
    tall = np.ptp(pixels[0, :, 1])
    assert not len(jumps(pixels, seen))
    pixels[20:] += [1.7 * tall, 0]
    pixels[45:] -= [1.7 * tall, 0]
    assert jumps(pixels, seen).tolist() == [20, 45]
    seen[18:24] = False  # a jump behind a short gap is one too
    assert jumps(pixels, seen).tolist() == [24, 45]
    seen[16:27] = False  # in twelve frames a person can get there
    assert jumps(pixels, seen).tolist() == [45]
    seen[:] = False
    assert not len(jumps(pixels, seen))


def test_stretches_without_any_motion_are_found():
    _, pixels = clip(60)
    seen = np.ones(pixels.shape[:2], bool)
    assert stills(pixels, seen, 3) == []
    pixels[11:30], pixels[50:] = pixels[10], pixels[49]
    assert stills(pixels, seen, 3) == [Absence(10, 29), Absence(49, 59)]
    assert stills(pixels, seen, 20) == [Absence(10, 29)]
    assert stills(pixels, seen, 21) == []
    seen[15, 3] = False
    pixels[15, 3] = np.nan
    assert stills(pixels, seen, 5) == [Absence(10, 14), Absence(16, 29), Absence(49, 59)]
    seen[:] = False  # nobody is an absence, which is said elsewhere
    assert stills(pixels, seen, 3) == []


@pytest.mark.parametrize('count, layout', [(133, COCO), (136, HALPE26)], ids=['wholebody', 'halpe136'])
def test_hands_and_faces_behind_a_body_are_not_used(tmp_path, count, layout):
    _, pixels = clip(5)
    points = np.zeros((5, count, 2))
    points[:, :len(layout)] = files.in_layout(pixels, layout)
    for write in (files.alphapose, files.mmpose):
        write(tmp_path / 'in.json', points)
        track = read_track(tmp_path / 'in.json')
        np.testing.assert_allclose(track.points[:, :len(layout)], points[:, :len(layout)])
        found, _ = find_layout(track.points, 'auto', track.layouts, 'x')
        matrix, _ = conversion(COCO, found, np.isfinite(track.points).all(axis=(0, 2)))
        assert matrix[:, :17].tolist() == np.eye(17).tolist()
        assert not matrix[:, 17:].any()


def test_people_of_one_mmpose_picture_are_ranked_by_score(tmp_path):
    _, pixels = clip(2)
    pixels[1] += [200, 0]
    people = [frame['instances'][0] | {'bbox_score': score}
              for frame, score in zip(files.mmpose_frames(pixels), (0.2, 0.9), strict=True)]
    (tmp_path / 'in.json').write_text(json.dumps(people))
    track = read_track(tmp_path / 'in.json')
    np.testing.assert_allclose(track.points, pixels[1:])
    np.testing.assert_allclose(read_track(tmp_path / 'in.json', 2).points, pixels[:1])


def test_null_zero_and_minus_one_are_missing(tmp_path):
    values = [1, 2, 0.9, 0, 0, 0.9, None, 2, 0.9, 3, 4, 0, 1e300, 5, 0.9, -1, -1, 0.9]
    (tmp_path / 'in.json').write_text(json.dumps([{'image_id': 'a.jpg', 'keypoints': values}]))
    track = read_track(tmp_path / 'in.json')
    assert track.scores.tolist() == [[0.9, 0, 0, pytest.approx(0, abs=1e-6), 0, 0]]  # scored 0: for --min-score 0
    assert np.isnan(track.points[0, [1, 2, 4, 5]]).all()
