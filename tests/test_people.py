"""Picking one person among several: followed by pose, numbered or not, whatever a tracker does to the numbers."""

import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from conftest import SHARED
from test_predict import clip

from common.errors import FlagError
from common.keypoints import read_track
from common.keypoints.linking import NEAR, Detections, distance, follow
from common.keypoints.track import Person, track_of

T = 90
TALL = 300  # about the height of the walkers, pixels


def walker(seed, at=(0.0, 0.0), speed=0.0, frames=T):
    """Return pixels (T, 17, 2) of a walk that goes so many pixels a frame to the right."""
    _, pixels = clip(frames, seed)
    pixels = pixels - pixels.mean(axis=(1, 2), keepdims=True)
    high = np.ptp(pixels[..., 1])
    return 500 + pixels * TALL / high + at + speed * np.arange(frames)[:, None, None] * [1, 0]


def frames_of(*tracks, numbers=None, seed=None, scores=None):
    """Return the people of each frame, tracks that are NaN left out, in an order that `seed` shuffles."""
    random, people = np.random.default_rng(seed), []
    for t in range(len(tracks[0])):
        frame = [Person(np.column_stack([track[t], np.full(17, 0.9)]), scores[k] if scores else 1.0,
                        numbers[k][t] if numbers else None)
                 for k, track in enumerate(tracks) if np.isfinite(track[t]).all()]
        people.append([frame[i] for i in random.permutation(len(frame))] if seed is not None else frame)
    return people


def pick(people, wanted=None, step=1):
    track = track_of(people, wanted, step * np.arange(len(people)), kind='test')
    return track.points, track.person


def same(points, *expected):
    """Check that points are those of the one track, in the frames that it was seen."""
    for one in expected:
        there = np.isfinite(one).all(axis=(1, 2))
        np.testing.assert_allclose(points[there], one[there])
        assert np.isnan(points[~there]).all()


A, B = walker(3), walker(4, (0.6 * TALL, 0))


# ---- without numbers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('apart', [0.25, 0.6, 2.0])
def test_two_people_are_kept_apart_in_any_order(seed, apart):
    b = walker(4, (apart * TALL, 0))
    people = frames_of(A, b, seed=seed, scores=(2.0, 1.0))
    first, how = pick(people)
    same(first, A)
    same(pick(people, 2)[0], b)
    assert 'of 2 people, up to 2 in a frame; the file does not number them' in how
    with pytest.raises(FlagError, match='--person 3: the file does not number people, so that this is a rank by '
                                        'score, from 1 to 2'):
        pick(people, 3)


@pytest.mark.parametrize('scale, shift', [(0.2, 0), (5, 0), (1, 2000), (3, -300)])
def test_who_is_who_does_not_depend_on_where_and_how_large(scale, shift):
    people = frames_of(scale * A + shift, scale * B + shift, seed=1, scores=(2.0, 1.0))
    same(pick(people)[0], scale * A + shift)


@pytest.mark.parametrize('speed', [3, 8, 20])
@pytest.mark.parametrize('lost', [0, 6, 15])
def test_people_who_cross_stay_who_they_are(speed, lost):
    """They meet in the middle; the one behind is not seen for a while there."""
    a, b = walker(3, (-speed * T / 2, 0), speed), walker(4, (speed * T / 2, 6), -speed)
    b[T // 2 - lost // 2:T // 2 + (lost + 1) // 2] = np.nan
    people = frames_of(a, b, seed=2, scores=(1.0, 2.0))
    first, second = pick(people)[0], pick(people, 2)[0]
    both = np.abs(a - b).max(axis=(1, 2)) > 0.3 * TALL  # elsewhere two boxes may be one person
    np.testing.assert_allclose(first[both], b[both])
    np.testing.assert_allclose(second[both], a[both])


def test_who_comes_back_is_joined_and_who_goes_far_is_not():
    a = A.copy()
    a[20:70] = np.nan
    same(pick(frames_of(a))[0], a)
    assert pick(frames_of(a))[1] == 'the only one'
    a[70:] += [6 * TALL, 0]  # in 50 frames
    points, how = pick(frames_of(a))
    assert np.isfinite(points[:, 0, 0]).sum() == 20
    assert 'of 2 people, up to 1 in a frame' in how


def test_one_who_jumps_to_another_for_good_is_two_people():
    """Eight jumps of more than two body sizes, with one person in every frame."""
    there = np.arange(T) // 10 % 2 == 0
    mixed = np.where(there[:, None, None], A, A + [900, 40])
    points, how = pick(frames_of(mixed))
    same(points, np.where(there[:, None, None], A, np.nan))
    assert 'in 50 of 90 frames, of 2 people, up to 1 in a frame' in how


def test_runners_filmed_with_few_frames_are_one_person():
    for speed in (0.1, 0.3, 0.45):
        same(pick(frames_of(walker(3, speed=speed * TALL)))[0], walker(3, speed=speed * TALL))
    fast = walker(3, speed=0.8 * TALL)
    same(pick(frames_of(fast), step=10)[0], fast)


def test_of_two_boxes_on_one_person_the_better_is_taken():
    people = frames_of(A, A + 2, scores=(0.5, 0.9), seed=1)
    points, how = pick(people)
    same(points, A + 2)
    assert how == 'the only one'
    people = frames_of(A, A + 2, B, scores=(0.5, 0.9, 0.8), seed=1, numbers=([1] * T, [2] * T, [3] * T))
    for wanted, track in ((1, A + 2), (2, A + 2), (3, B)):
        same(pick(people, wanted)[0], track)


# ---- with numbers -----------------------------------------------------------------------------------------------


def test_merged_numbers_change_nothing():
    """AlphaPose lists those of all boxes that were merged."""
    plain = frames_of(A, B, numbers=([1] * T, [2] * T))
    merged = frames_of(A, B, numbers=([(1, 3) if t in (60, 61) else (1,) for t in range(T)], [(2,)] * T), seed=3)
    none = frames_of(A, B, numbers=([None if t in (60, 61) else 1 for t in range(T)], [2] * T), seed=3)
    for wanted, track in ((1, A), (2, B), (None, A)):
        for people in (plain, merged, none):
            points, how = pick(people, wanted)
            same(points, track)
            assert f"number {wanted or 1} by the file's own count, in 90 of 90 frames" in how
    with pytest.raises(FlagError, match='the file has no such person; there are 1, 2'):
        pick(plain, 7)


def test_a_number_that_changes_is_followed():
    people = frames_of(A, B, numbers=([1] * 40 + [5] * 50, [2] * T), seed=1)
    for wanted in (1, 5):
        points, how = pick(people, wanted)
        same(points, A)
        assert f'number {wanted} by' in how and 'in 90 of 90 frames' in how and ': 1 changes' in how
    assert 'in 50 frames in which that person has no number or another one (5)' in pick(people, 1)[1]


def test_a_number_that_jumps_to_somebody_else_is_not_followed():
    """1 and 2 are exchanged for good."""
    people = frames_of(A, B, numbers=([1] * 60 + [2] * 30, [2] * 60 + [1] * 30))
    points, how = pick(people, 1)
    same(points, A)
    assert 'number 1 jumps to somebody else, who is left out, in 30 frames' in how
    same(pick(people, 2)[0], B)


def test_numbers_decide_where_poses_do_not():
    """Two people who cannot be told apart by their poses in three frames."""
    b = A + [0.3 * TALL, 0]
    b[40:43] = A[40:43] + [0.07 * TALL, 0]
    a = A.copy()
    a[40:43] += [0.02 * TALL, 0]
    a[43:], b[43:] = b[43:].copy(), a[43:].copy()  # by pose alone either could be either
    same(pick(frames_of(a, b, numbers=([1] * T, [2] * T), seed=1), 1)[0], a)


@pytest.mark.parametrize('numbers', [([0] * T, [0] * T), ([None] * T, [None] * T)], ids=['all 0', 'none'])
def test_numbers_that_tell_nothing_apart_are_none(numbers):
    points, how = pick(frames_of(A, B, numbers=numbers, scores=(1.0, 2.0), seed=1))
    same(points, B)
    assert 'the file does not number them' in how


# ---- parts ------------------------------------------------------------------------------------------------------


def test_distances_are_medians_of_what_both_show():
    random = np.random.default_rng(0)
    a, b = random.normal(size=(4, 5, 2)), random.normal(size=(3, 5, 2))
    a[0, :3], b[1, 3], a[2] = np.nan, np.nan, np.nan
    got = distance(a, b)
    for i in range(4):
        for j in range(3):
            apart = sorted(d for d in np.linalg.norm(a[i] - b[j], axis=-1) if np.isfinite(d))
            assert got[i, j] == (pytest.approx(apart[(len(apart) - 1) // 2]) if apart else np.inf)


def test_following_is_that_of_a_naive_search():
    """Without gaps, numbers or speed: each person is next the unique detection within NEAR sizes."""
    tracks = [walker(seed, (seed * 2 * TALL, 0)) for seed in range(4)]
    points, row = np.concatenate(tracks), np.tile(np.arange(T), 4)
    order = np.lexsort([np.random.default_rng(0).random(len(row)), row])
    found = Detections(points[order], row[order], row[order], np.ones(len(row)), [frozenset()] * len(row))
    chains = follow(found).chains
    assert sorted(map(len, chains)) == [T] * 4
    for chain in chains:
        for one, after in pairwise(chain):
            apart = np.linalg.norm(found.points - found.points[one], axis=-1)
            near = (np.median(apart, axis=1) < NEAR * TALL) & (found.row == found.row[one] + 1)
            assert np.flatnonzero(near).tolist() == [after]


def test_crowds_take_bounded_time():
    """Five thousand frames of ten people, and a frame of ten thousand."""
    people = [np.tile(A, (56, 1, 1))[:5000] + [k * TALL, 0] for k in range(10)]
    points, _ = pick(frames_of(*people, scores=[10 - k for k in range(10)]))
    same(points, people[0])
    crowd = [[Person(np.column_stack([A[0] + k, np.ones(17)]), -float(k)) for k in range(10000)]]
    same(pick(crowd)[0], A[:1])


# ---- files that people had --------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def cases(tmp_path_factory):
    """Return the folder with the files of shared/cases 10 and 11."""
    data = os.environ.get('CASES_CMU', '')
    if not SHARED.is_dir() or not os.path.isfile(data):
        pytest.skip('needs shared/cases, and CASES_CMU=data_3d_cmu.npz')
    folder = tmp_path_factory.mktemp('cases')
    for case in ('10_alphapose_merged_idx', '11_two_people_untracked'):
        subprocess.run([sys.executable, SHARED / 'cases' / case / 'make.py'], check=True,
                       env=os.environ | {'CASES_OUT': str(folder)})
    return folder


@pytest.mark.parametrize('source, truths', [
    ('two_1', 'two_1_{}.npy'), ('two_2', 'two_2_{}.npy'), ('two_1_mm.json', 'two_1_{}.npy'),
    ('two_2_mm.json', 'two_2_{}.npy'), ('ap_merged.json', 'ap_person{}.npy'), ('ap_clean.json', 'ap_person{}.npy')])
def test_no_switch_between_two_people(cases, source, truths):
    names = ('1', '2') if 'person' in truths else ('a', 'b')
    whole = [np.load(cases / truths.format(name))[..., :2].mean(axis=1) for name in names]
    who = []
    for person in (1, 2):
        middle = read_track(cases / source, person).points.mean(axis=1)
        nearest = np.argmin([np.linalg.norm(middle - track, axis=-1) for track in whole], axis=0)
        assert len(set(nearest.tolist())) == 1
        who.append(nearest[0])
    assert sorted(who) == [0, 1]
    assert source.startswith('two') or who == [0, 1]
