"""--person all: everybody is followed, numbered, lifted into one world and drawn; who may be mixed up is told."""

import itertools
import json
import re

import numpy as np
import pytest
from drawn_people import STANDING, person, write_video
from test_people import TALL, T, frames_of, walker

from common.commands.placing import APART
from common.detectors.movenet import SeveralPeople
from common.detectors.network import load_movenet
from common.detectors.squares import painted_over, same_person, tiles
from common.drawing.look import PEOPLE, People, bones_of, crowd
from common.drawing.page import write_page
from common.drawing.pictures import MotionPicture
from common.geometry.placement import upright
from common.keypoints import detected
from common.keypoints.clip import Asked, load_clips
from common.keypoints.everybody import Switch, tracks_of
from common.keypoints.linking import NEARLY, WORST, _doubtful, _pairs
from common.keypoints.track import Person, track_of
from common.skeleton import COCO, H36M
from common.storage.npz import read_npz

SIZE = (2000, 1200)


def everybody(people, step=1):
    return tracks_of(people, step * np.arange(len(people)), kind='test')


# ---- the assignment ---------------------------------------------------------------------------------------------


def all_links(rows, columns):
    """Yield every way to pair some rows with some columns, as a dict."""
    for count in range(min(rows, columns) + 1):
        for some in itertools.combinations(range(rows), count):
            for others in itertools.permutations(range(columns), count):
                yield dict(zip(some, others, strict=True))


def worth(cost, pairs):
    return sum(cost[a, b] - WORST for a, b in pairs.items())


def random_costs(seed, rows, columns):
    random = np.random.default_rng(seed)
    cost = random.random((rows, columns)) * 1.29
    cost[random.random(cost.shape) < 0.3] = np.inf
    return cost


@pytest.mark.parametrize('seed', range(30))
def test_links_are_the_best_of_all_that_there_are(seed):
    cost = random_costs(seed, 1 + seed % 4, 1 + seed // 4 % 4)
    best = min((worth(cost, pairs) for pairs in all_links(*cost.shape)), default=0)
    assert worth(cost, _pairs(cost)) == pytest.approx(best)


def test_people_are_linked_jointly_and_not_the_nearest_first():
    """The nearest pair, 0.1, would leave the other two with 1.2 together; 0.3 twice is less."""
    assert _pairs(np.array([[0.1, 0.3], [0.3, 1.2]])) == {0: 1, 1: 0}
    # Who left and who came are not linked crosswise where one of them stays.
    assert _pairs(np.array([[0.05, 0.9], [0.9, np.inf]])) == {0: 0}


@pytest.mark.parametrize('seed', range(30))
def test_doubtful_is_what_another_assignment_costs_little_more(seed):
    """Forcing a pair costs, of all ways that keep as many links and touch only those two, little more a person."""
    cost = random_costs(seed, 1 + seed % 4, 1 + seed // 4 % 4)
    cost = np.where(np.isfinite(cost), cost * 0.4, np.inf)
    best = _pairs(cost)
    expected = set()
    for a, b in itertools.product(*map(range, cost.shape)):
        if best.get(a) == b or not np.isfinite(cost[a, b]):
            continue
        holder = next((c for c, d in best.items() if d == b), None)
        if a in best and holder is not None:
            more = (cost[a, b] + cost[holder, best[a]] - cost[a, best[a]] - cost[holder, b]) / 2
        else:
            more = cost[a, b] - (cost[a, best[a]] if a in best else cost[holder, b])
        if more < NEARLY:
            expected.add((a, b))
    assert set(_doubtful(cost, best)) == expected


# ---- who is who -------------------------------------------------------------------------------------------------


def scene(scale=1.0):
    """Return five people: two who cross, one of them hidden then; one who leaves, one who enters, one far away."""
    a = walker(3, (-2 * TALL, 0), 8)
    b = walker(4, (0.6 * TALL, 0), -6) * scale + 500 * (1 - scale)
    b[36:44] = np.nan
    leaves, enters = walker(5, (3 * TALL, 0)), walker(6, (4 * TALL, 40))
    leaves[50:], enters[:40] = np.nan, np.nan
    return [a, b, leaves, enters, walker(7, (-4 * TALL, 0), 1)]


@pytest.mark.parametrize('scale', [1.0, 0.6, 1.5])
@pytest.mark.parametrize('seed', [0, 1])
def test_everybody_is_followed_through_crossings_and_absences(scale, seed):
    truth = scene(scale)
    found = everybody(frames_of(*truth, seed=seed, scores=(5.0, 4.0, 3.0, 2.5, 2.6)))
    assert [track.number for track in found.tracks] == [1, 2, 3, 4, 5] and not found.numbered
    order = np.argsort([-score * np.isfinite(one).all(axis=(1, 2)).sum()
                        for score, one in zip((5.0, 4.0, 3.0, 2.5, 2.6), truth, strict=True)])
    apart = ~(np.median(np.linalg.norm(truth[0] - truth[1], axis=-1), axis=1) < 0.06 * TALL)
    for track, k in zip(found.tracks, order, strict=True):
        there = np.isfinite(truth[k]).all(axis=(1, 2))
        kept = there & apart if k < 2 else there  # elsewhere two boxes may be one person
        np.testing.assert_allclose(track.points[kept], truth[k][kept])
        assert np.isnan(track.points[~there]).all()


def test_their_order_in_the_file_changes_nothing():
    truth = scene()
    truth[1] = truth[0] + [0.04 * TALL, 0.07 * TALL]  # hardly to be told apart
    numbers = [[k] * T for k in (8, 3, 5, 7, 9)]
    numbers[0] = [8] * 50 + [11] * (T - 50)
    for named in (None, numbers):
        first = everybody(frames_of(*truth, numbers=named))
        assert len(first.tracks) == 5
        for seed in (3, 4):
            again = everybody(frames_of(*truth, numbers=named, seed=seed))
            assert (again.switches, again.crossings) == (first.switches, first.crossings)
            for one, other in zip(first.tracks, again.tracks, strict=True):
                assert (one.number, one.person) == (other.number, other.person)
                np.testing.assert_array_equal(one.points, other.points)


@pytest.mark.parametrize('numbers', [None, ([4] * T, [2] * T, [7] * T, [3] * T, [9] * T)], ids=['none', 'numbers'])
def test_person_n_of_all_is_person_n(numbers):
    people = frames_of(*scene(), numbers=numbers, seed=3, scores=(5.0, 4.0, 3.0, 2.5, 2.6))
    for track in everybody(people).tracks:
        one = track_of(people, track.number, np.arange(T), kind='test')
        np.testing.assert_array_equal(one.points, track.points)
        np.testing.assert_array_equal(one.scores, track.scores)


A, B = walker(3), walker(4, (0.8 * TALL, 0))


def test_switches_of_the_files_numbers_are_counted():
    whole = everybody(frames_of(A, B, numbers=([1] * T, [2] * T)))
    assert whole.numbered and not whole.switches
    changed = everybody(frames_of(A, B, numbers=([1] * 50 + [5] * 40, [2] * T), seed=1), step=2)
    assert changed.switches == [Switch(100, 1, 1, 5)]
    assert [track.number for track in changed.tracks] == [1, 2]
    assert changed.tracks[0].person == "in 90 of 90 frames, by the file's own count in 50 of them, there also 5"
    swapped = everybody(frames_of(A, B, numbers=([1] * 60 + [2] * 30, [2] * 60 + [1] * 30), seed=1))
    assert swapped.switches == [Switch(60, 1, 1, 2), Switch(60, 2, 2, 1)]
    gap = everybody(frames_of(A, B, numbers=([1] * 60 + [None] * 10 + [2] * 20, [2] * 60 + [3] * 30), seed=1))
    assert gap.switches == [Switch(60, 2, 2, 3), Switch(70, 1, 1, 2)]
    merged = everybody(frames_of(A, B, numbers=([(1, 3) if t == 60 else 1 for t in range(T)], [2] * T)))
    assert not merged.switches


def test_who_has_no_number_of_their_own_gets_a_new_one():
    """One number for two people who are never there together, and none for a third."""
    late, early = A.copy(), walker(5, (5 * TALL, 0))
    late[:50], early[50:] = np.nan, np.nan
    found = everybody(frames_of(B, early, late, walker(6, (9 * TALL, 0)),
                                numbers=([2] * T, [1] * T, [1] * T, [None] * T), scores=(1.0, 1.0, 1.0, 0.5)))
    assert [track.number for track in found.tracks] == [1, 2, 3, 4]
    lengths = [np.isfinite(track.points[:, 0, 0]).sum() for track in found.tracks]
    assert lengths[:2] == [50, T] and sorted(lengths[2:]) == [40, T]
    assert any('without a number of its own' in track.person for track in found.tracks)


@pytest.mark.parametrize('far', [np.nan, 2e6])
def test_numbers_of_boxes_without_keypoints_do_not_count(far):
    person = walker(3, frames=9)
    people = frames_of(person)
    for frame in people:
        frame += [Person(np.column_stack([np.full((17, 2), far), np.full(17, np.isfinite(far))]), 0.1, number)
                  for number in (7, 8)]
    everybody = tracks_of(people, np.arange(9), kind='test')
    assert not everybody.numbered and [track.number for track in everybody.tracks] == [1]
    np.testing.assert_allclose(everybody.tracks[0].points, person)
    np.testing.assert_allclose(track_of(people, None, np.arange(9), kind='test').points, person)


def test_people_whose_poses_cannot_be_told_apart_are_named():
    assert not everybody(frames_of(A, B)).crossings
    near = A + [0.06 * TALL, 0]
    near[:30], near[50:] = B[:30], B[50:]
    near[20:30] = np.linspace(B[20], A[30] + [0.06 * TALL, 0], 10)
    near[50:60] = np.linspace(A[49] + [0.06 * TALL, 0], B[60], 10)
    (crossing,) = everybody(frames_of(A, near, seed=2, scores=(2.0, 1.0)), step=3).crossings
    assert (crossing.a, crossing.b) == (1, 2)
    assert 3 * 25 <= crossing.first <= 3 * 32 and 3 * 48 <= crossing.last <= 3 * 55
    numbers = ([1] * T, [2] * T)  # which settle it
    assert not everybody(frames_of(A, near, numbers=numbers, seed=2)).crossings


@pytest.mark.slow
def test_most_wrong_links_are_told():
    """Two to four walkers of about one size who cross, with 12 pixels of noise, half of them hidden for a while."""
    random = np.random.default_rng(0)
    walks = [walker(seed, (-500, 0)) for seed in range(8)]
    wrong = told = warned = 0
    for _ in range(120):
        truth = []
        for _ in range(random.integers(2, 5)):
            start = (random.uniform(100, 900), random.uniform(-40, 40))
            path = walks[random.integers(8)] * random.uniform(0.7, 1.3) + start
            path = path + random.uniform(-12, 12) * (np.arange(T) - T / 2)[:, None, None] * [1, 0]
            truth.append(path + random.normal(0, 12, path.shape))
            if random.random() < 0.5:
                hidden = random.integers(20, 60)
                truth[-1][hidden:hidden + random.integers(3, 20)] = np.nan
        found = everybody(frames_of(*truth, seed=1))
        switched = False
        for track in found.tracks:
            seen = np.flatnonzero(np.isfinite(track.points).all(axis=(1, 2)))
            who = [next(k for k, one in enumerate(truth) if (one[t] == track.points[t]).all()) for t in seen]
            for at in np.flatnonzero(np.diff(who)):
                switched, wrong = True, wrong + 1
                told += any(track.number in (one.a, one.b) and one.first <= seen[at + 1] + 5 and
                            seen[at] <= one.last + 5 for one in found.crossings)
        long = {track.number for track in found.tracks if np.isfinite(track.points[:, 0, 0]).sum() >= 15}
        warned += not switched and any({one.a, one.b} <= long for one in found.crossings)
    print(f'{wrong} wrong links, {told} told; {warned} clips without any warned of')
    assert wrong >= 20 and told >= 0.9 * wrong and warned < 60  # who is lost where somebody else appears goes untold


# ---- the program ------------------------------------------------------------------------------------------------


@pytest.fixture
def lift_all(run, trained, tmp_path):
    """lift_all(people, *flags) -> ({number: members of its npz}, what the program said)."""
    def main(tracks, *flags, source='in.npz', person='all'):
        if tracks is not None:
            points = np.stack(tracks, axis=1)
            np.savez(tmp_path / source, keypoints=points, scores=np.where(np.isfinite(points[..., 0]), 0.9, 0.0),
                     size=SIZE, fps=50.0)
        status, out, err = run('-c', trained[0], '--evaluate', 'best.bin', '--predict', tmp_path / source, '--output',
                               tmp_path / 'out.npz', '--device', 'cpu', '--person', person, *flags)
        assert (status, err) == (0, ''), err
        files = {path.stem: read_npz(path) for path in tmp_path.glob('out*.npz') if 'keypoints' not in path.stem}
        return {int(name[4:] or 0): content for name, content in files.items()}, out
    return main


@pytest.fixture
def bad(refused, trained, tmp_path):
    """bad(status, source, *flags) -> the one line of a refusal."""
    def main(status, source, *flags):
        return refused(status, '-c', trained[0], '--evaluate', 'best.bin', '--predict', source, '--output',
                       tmp_path / 'out.npz', '--device', 'cpu', '--person', 'all', *flags)
    return main


SHORT = 30  # frames


def two():
    return [A[:SHORT], walker(4, (2 * TALL, 0))[:SHORT]]


def test_each_person_gets_the_file_that_person_n_gets(lift_all, tmp_path):
    files, out = lift_all(two(), '--csv', tmp_path / 't.csv', '--export', tmp_path / 't.trc')
    assert sorted(files) == [1, 2] and 'nobody comes so near' in out and 'side by side' in out
    assert sorted(path.name for path in tmp_path.glob('t_*')) == ['t_1.csv', 't_1.trc', 't_2.csv', 't_2.trc']
    for number in (1, 2):
        alone = lift_all(None, person=str(number))[0][0]
        (tmp_path / 'out.npz').unlink()
        got = files[number]
        assert set(got) == {*alone, 'person'} and got['person'] == number
        for name in set(alone) - {'world', 'placement', 'command'}:
            np.testing.assert_array_equal(got[name], alone[name], name)
        aside = got['world'] - alone['world']
        x = -APART / 2 if got['keypoints'][..., 0].mean() < 900 else APART / 2
        np.testing.assert_allclose(aside, np.broadcast_to([x, 0, 0], aside.shape), atol=1e-6)
        table = np.loadtxt(tmp_path / f't_{number}.csv', delimiter=',', skiprows=1)
        np.testing.assert_allclose(table[:, 2:], got['world'].reshape(SHORT, -1), atol=1e-5)


def test_one_person_is_lifted_as_person_1(lift_all):
    files, _ = lift_all([A[:SHORT]])
    alone = lift_all(None, person='1')[0][0]
    assert sorted(files) == [1]
    for name in set(alone) - {'command'}:
        np.testing.assert_array_equal(files[1][name], alone[name], name)


def test_with_a_trajectory_all_stand_on_one_floor(lift_all):
    tall = [A[:SHORT], 0.5 * walker(4, (2 * TALL, 0))[:SHORT]]
    files, _ = lift_all(tall, '--trajectory', '--fov', '60')
    assert 'the same floor for all people' in str(files[1]['placement'])
    off = np.concatenate([one['world'] - upright(one['poses'] + one['root'][:, None]) for one in files.values()])
    np.testing.assert_allclose(off[..., :2], 0, atol=1e-5)
    np.testing.assert_allclose(off[..., 2], off[0, 0, 2], atol=1e-5)
    feet = [H36M.joints.index(f'{side}_ankle') for side in ('left', 'right')]
    assert min(one['world'][:, feet, 2].min() for one in files.values()) == pytest.approx(0, abs=1e-5)


def test_who_is_there_for_a_moment_or_without_legs_is_left_out(lift_all):
    passing, bust = walker(5, (4 * TALL, 0))[:SHORT], walker(6, (-TALL, 0))[:SHORT]
    passing[5:] = np.nan
    bust[:, [H36M.joints.index(f'{side}_{part}') for side in ('left', 'right') for part in ('knee', 'ankle')]] = np.nan
    files, out = lift_all([*two(), passing, bust])
    assert len(files) == 2 and 'left out: 1 person who is seen in fewer than 15 frames' in out
    assert re.search(r'person \d: left out: \w+ is never seen', out)
    assert set(files) == {int(n) for n in re.findall(r'person (\d): lifted', out)}


@pytest.mark.parametrize('numbers, words', [
    ([[1] * T, [2] * T], "the file's numbers and the poses tell the same people apart"),
    ([[1] * 60 + [2] * 30, [2] * 60 + [1] * 30], 'identities switched 2 times in the file, where the poses go on with '
     'another number, first at frame 60: person 1 has number 2 there, and 1 before')])
def test_the_files_numbers_are_compared_with_the_poses(tmp_path, numbers, words):
    entries = [{'image_id': f'{t:06}.jpg', 'category_id': 1, 'score': 2.0, 'idx': numbers[k][t],
                'keypoints': np.column_stack([track[t], np.full(17, 0.9)]).ravel().tolist()}
               for t in range(T) for k, track in enumerate((A, B))]
    (tmp_path / 'alphapose-results.json').write_text(json.dumps(entries))
    said = []
    clips = load_clips(Asked(str(tmp_path / 'alphapose-results.json'), 'h36m', SIZE), H36M, said.append)
    assert [clip.person for clip in clips] == [1, 2]
    assert any(words in line for line in said), said
    np.testing.assert_allclose(clips[1].pixels, B, atol=1e-3)


def test_thirty_people(lift_all, tmp_path):
    walks = [walker(seed, frames=9) for seed in range(6)]
    everyone = np.stack([0.3 * (walks[k % 6] + [3 * TALL * (k % 10), 3 * TALL * (k // 10)]) for k in range(30)], axis=1)
    detected.write(tmp_path / 'crowd.npz', np.concatenate([everyone, np.full((9, 30, 17, 1), 0.9)], axis=-1),
                   size=np.array(SIZE), fps=50.0, detector='test', video='crowd.mp4', sha256='0')
    files, _ = lift_all(None, source='crowd.npz')
    assert sorted(files) == list(range(1, 31))
    places = sorted((one['keypoints'][..., 0].mean(), one['world'][0, 0, 0] - one['poses'][0, 0, 0])
                    for one in files.values())
    np.testing.assert_allclose(np.diff([x for _, x in places]), APART, atol=1e-4)


def test_what_cannot_be_is_refused(bad, tmp_path):
    np.savez(tmp_path / 'none.npz', keypoints=np.full((9, 2, 17, 2), np.nan), size=SIZE)
    bad(1, tmp_path / 'none.npz')
    np.savez(tmp_path / 'out_1.npz', keypoints=np.stack(two(), axis=1), size=SIZE)
    before = (tmp_path / 'out_1.npz').read_bytes()
    assert 'would be written over' in bad(1, tmp_path / 'out_1.npz')
    assert (tmp_path / 'out_1.npz').read_bytes() == before and not (tmp_path / 'out_2.npz').exists()
    assert 'expected a whole number' in bad(2, tmp_path / 'out_1.npz', '--person', 'alle')
    (tmp_path / 'videos').mkdir()
    (tmp_path / 'videos' / 'a.mp4').write_bytes(b'')
    assert 'one video at a time' in bad(2, tmp_path / 'videos')


# ---- pictures ---------------------------------------------------------------------------------------------------


def drawn_two():
    """Return poses (T, 2 * 17, 3) of two people, three metres apart, of whom the second is there from frame 2 on."""
    random = np.random.default_rng(0)
    poses = random.random((5, 34, 3)) * [0.5, 0.5, 1.7] + np.repeat([[0, 0, 0], [3, 0, 0]], 17, axis=0)
    poses[:2, 17:] += 50  # where they are not drawn
    return poses, People(('1', '4'), np.array([[True, t >= 2] for t in range(5)]))


def has(picture, colour):
    rgb = [int(colour[k:k + 2], 16) for k in (1, 3, 5)]
    return bool((np.abs(picture.astype(int) - rgb).max(axis=-1) < 3).any())


def test_everybody_is_in_view_and_shown_while_there():
    poses, people = drawn_two()
    centre, far, high = crowd(poses, people, 0)
    assert far == pytest.approx(np.linalg.norm(np.concatenate([poses[:, :17], poses[2:, 17:]], axis=None).reshape(
        -1, 3)[:, :2] - centre, axis=-1).max()) and 1.5 < far < 2.5 and high < 1.7
    keypoints = 100 * poses[..., :2]
    picture = MotionPicture(H36M, {'prediction': poses}, None, keypoints, H36M, None, '', 70, 4, False, people=people)
    assert [has(picture.draw(frame), PEOPLE[1]) for frame in (0, 1, 2, 4)] == [False, False, True, True]
    assert all(has(picture.draw(frame), PEOPLE[0]) for frame in (0, 4))
    assert [text.get_text() for text in picture.names] == ['1', '4']


def test_the_page_holds_everybody(tmp_path):
    poses, people = drawn_two()
    write_page(tmp_path / 'p.html', H36M, {'prediction': poses}, 50, keypoints=100 * poses[..., :2], layout=H36M,
               people=people)
    text = (tmp_path / 'p.html').read_text(encoding='utf-8')
    motion = json.loads(re.search(r'id="motion">(.*?)</script>', text, re.DOTALL)[1])
    assert motion['people']['names'] == ['1', '4'] and len(motion['joints']) == 34
    assert [colours[0] for colours in motion['people']['colours']] == list(PEOPLE[:2])
    assert motion['bones'] == motion['input']['bones'] == [list(bone) for bone in bones_of(H36M, people)]
    second = {(joint - 17, parent - 17, side - 3) for joint, parent, side in motion['bones'][16:]}
    assert second == set(bones_of(H36M))


# ---- a detector of one person that finds several -----------------------------------------------------------------


def test_tiles_cover_the_picture():
    for width, height in ((320, 240), (1080, 1920), (100, 100), (1000, 90)):
        covered = np.zeros((height, width), bool)
        for left, top, side in tiles(width, height)[1:]:
            covered[max(0, top):top + side, max(0, left):left + side] = True
        assert covered.all()


def test_a_person_is_painted_over_and_known_again():
    picture, at = person(240, 320, background=(255, 255, 255))
    keypoints = np.column_stack([at, np.ones(17)])
    grey = painted_over(picture, keypoints)
    assert (grey != picture).any() and (picture[(grey != picture).any(axis=-1)].mean() < 250)
    left = ((grey != 255) & (grey != 128)).any(axis=-1).sum()
    assert left < 0.15 * (picture != 255).any(axis=-1).sum()  # hands, hair and shoes
    assert same_person(keypoints, keypoints + [2, 0, 0]) and not same_person(keypoints, keypoints + [60, 0, 0])


class Marked(SeveralPeople):
    """Sees a person of STANDING at each mark of a frame that is not painted over; in parts of the picture nobody."""

    def __init__(self):
        super().__init__(None)

    def _look(self, frame, square):
        for y, x in np.argwhere(frame[..., 0] == 1):
            inside = square.left <= x < square.left + square.side and square.top <= y < square.top + square.side
            if inside and square.side != max(frame.shape[:2]) // 2:
                return np.column_stack([200 * (STANDING - STANDING[11:13].mean(axis=0)) + (x, y), np.ones(17)])
        return np.zeros((17, 3))


def test_others_are_looked_for_now_and_then_and_who_is_lost_where_they_were():
    """Frame 0: two people; the second is lost for frames 3 to 5; a third comes in frame 4 and is found in frame 10."""
    def frame(number):
        picture = np.zeros((600, 900, 3), np.uint8)
        for x, there in ((150, True), (450, number not in (3, 4, 5)), (750, number >= 4)):
            picture[300, x] = there
        return picture
    found = list(Marked().detect(frame(number) for number in range(12)))
    assert [len(people) for people in found] == [2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 3, 3]
    assert [one[11:13, 0].mean() for one in found[11]] == pytest.approx([150, 450, 750])


def test_movenet_finds_two_people_and_keeps_them_apart(tmp_path):
    """Two drawn people side by side, of whom the right one is smaller."""
    first, at = person(240, 320, 0.5, 1.0)
    second, other = person(240, 320, 0.5, 0.75)
    frame = np.concatenate([first, second], axis=1)
    found = list(SeveralPeople(load_movenet()).detect([frame, frame]))
    assert [len(people) for people in found] == [2, 2]
    torso = [COCO.joints.index(f'{side}_{part}') for side in ('left', 'right') for part in ('shoulder', 'hip')]
    for truth in (at, other + [240, 0]):
        assert min(np.linalg.norm(one[torso, :2] - truth[torso], axis=-1).max() for one in found[1]) < 25


def test_a_video_of_two_people_is_lifted(lift_all, tmp_path):
    pytest.importorskip('av')
    frame = np.concatenate([person(240, 320, 0.5, 1.0)[0], person(240, 320, 0.5, 0.75)[0]], axis=1)
    write_video(tmp_path / 'two.mp4', [frame] * 3)
    files, out = lift_all(None, '--render', '--viz-output', tmp_path / 'two.html', source='two.mp4')
    assert sorted(files) == [1, 2] and 'several people' in out
    assert '"names":["1","2"]' in (tmp_path / 'two.html').read_text(encoding='utf-8')
