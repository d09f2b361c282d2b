"""MoveNet against its graph run node by node, its operations against loops; and the square that follows a person."""

import hashlib

import numpy as np
import pytest
import torch
from conftest import SHARED
from drawn_people import person, walking
from naive_movenet import run

from common.detectors.movenet import OnePerson, is_somebody, open_detector
from common.detectors.network import FOLDER, Convolution, load_movenet, same_padding
from common.detectors.squares import Square, around, cut_out, in_picture, sees_torso, whole
from common.drawing.video import read_video
from common.errors import FileError
from common.keypoints import read_track
from common.skeleton import COCO

REAL = SHARED / 'real2d'
LIGHTNING = SHARED / 'detector' / 'movenet-lightning.json'


@pytest.fixture(scope='module')
def thunder():
    return load_movenet()


def pictures_of(side):
    drawn, _ = person(side, side)
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return np.stack([drawn, drawn // 2 + noise // 2])


def check_against_graph(model, path):
    pictures = pictures_of(model.side)
    with torch.inference_mode():
        got = model(torch.from_numpy(pictures)).numpy()
    for one, picture in zip(got, pictures, strict=True):
        np.testing.assert_allclose(one, run(path, picture), atol=3e-4)  # 1/48 is rounded in the graph


def test_the_network_is_its_graph(thunder):
    assert thunder.side == 256
    check_against_graph(thunder, FOLDER / 'movenet-thunder.json')


@pytest.mark.skipif(not LIGHTNING.exists(), reason=f'no {LIGHTNING}')
def test_the_weights_say_which_of_the_two_sizes_it_is():
    lightning = load_movenet('lightning', LIGHTNING.parent)
    assert lightning.side == 192
    check_against_graph(lightning, LIGHTNING)


@pytest.mark.parametrize('size, side, stride, expected', [
    (4, 3, 1, (1, 1)), (4, 3, 2, (0, 1)), (5, 3, 2, (1, 1)), (4, 1, 1, (0, 0)), (4, 1, 2, (0, 0)), (6, 2, 1, (0, 1))])
def test_same_padding_is_tensorflows(size, side, stride, expected):
    assert same_padding(size, side, stride) == expected


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('depthwise', [False, True])
def test_a_convolution_is_four_loops(stride, depthwise):
    random, size = np.random.default_rng(1), 4
    x = random.normal(size=(size, size, 2)).astype(np.float32)
    weight = random.normal(size=(3, 3, 2, 1 if depthwise else 3)).astype(np.float32)
    outputs, first = 2 if depthwise else 3, 0 if stride == 2 else -1  # of 4 pixels, only the last is padded at stride 2
    expected = np.zeros((size // stride, size // stride, outputs))
    for row, column, out in np.ndindex(expected.shape):
        for i, j in np.ndindex(3, 3):
            y, z = row * stride + first + i, column * stride + first + j
            if 0 <= y < size and 0 <= z < size:
                expected[row, column, out] += (x[y, z, out] * weight[i, j, out, 0] if depthwise else
                                               x[y, z] @ weight[i, j, :, out])
    model = Convolution(torch.from_numpy(weight), None, stride, depthwise)
    got = model(torch.from_numpy(x).permute(2, 0, 1)[None])[0].permute(1, 2, 0)
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize('damage', [lambda data: data[:-2], lambda data: data + b'\0\0', lambda data: b''])
def test_damaged_weights_are_refused(tmp_path, damage):
    for name in ('movenet-thunder.json', 'movenet-thunder.bin'):
        data = (FOLDER / name).read_bytes()
        (tmp_path / name).write_bytes(damage(data) if name.endswith('.bin') else data)
    with pytest.raises(FileError, match='not a readable graph of MoveNet'):
        load_movenet('thunder', tmp_path)
    with pytest.raises(FileError, match='is missing'):
        load_movenet('lightning', tmp_path)


def test_both_notices_lie_beside_the_weights():
    assert 'Apache License' in (FOLDER / 'LICENSE').read_text()
    assert 'MIT License' in (FOLDER / 'LICENSE-conversion').read_text()
    assert 'Google' in (FOLDER / 'NOTICE').read_text()


# ---- squares ----------------------------------------------------------------------------------------------------


def standing(**scores):
    """Keypoints (17, 3) of a person 100 pixels wide at the shoulders, hips at (500, 400); scores by part of a name."""
    _, points = person(1000, 1000, size=0.5)
    keypoints = np.column_stack([points, np.full(17, 0.9)])
    for joint, name in enumerate(COCO.joints):
        for part, score in scores.items():
            if part in name:
                keypoints[joint, 2] = score
    return keypoints


def test_the_square_reaches_from_the_hips_to_the_farthest_keypoint():
    """A hand 300 pixels from the middle of the hips, (500, 515): 1.2 * 300 = 360 to each side."""
    keypoints = standing()
    keypoints[COCO.joints.index('left_wrist'), :2] = 800, 500
    assert around(keypoints, 1000, 1000) == Square(500 - 360, 515 - 360, 720)


def test_a_torso_says_how_large_the_body_may_be():
    """Shoulders are 0.27 * 500 = 135 pixels above the hips: 1.9 * 135 = 256.5, more than 1.2 * 207.5 for the eyes."""
    square = around(standing(), 1000, 1000)
    assert square is not None and square.side in (512, 514)


def test_no_square_without_torso_or_larger_than_the_picture():
    assert around(standing(hip=0.1), 1000, 1000) is None
    assert around(standing(shoulder=0.1), 1000, 1000) is None
    assert around(standing(), 512, 400) is None
    tiny = standing()
    tiny[:, :2] = 500 + (tiny[:, :2] - 500) / 100
    assert around(tiny, 1000, 1000) is None
    assert sees_torso(standing(left_hip=0, right_shoulder=0))


def test_the_whole_picture_is_the_middle_of_its_square():
    assert whole(1920, 1080) == Square(0, -420, 1920)
    assert whole(1080, 1920) == Square(-420, 0, 1920)


def test_beyond_the_picture_all_is_black_and_keypoints_come_back():
    picture = np.full((40, 60, 3), 200, np.uint8)
    cut = cut_out(picture, Square(-20, 0, 40), 20)
    assert (cut[:, :9] == 0).all() and (cut[:, 11:] == 200).all()
    places = in_picture(np.array([[0.25, 0.5, 0.9]], np.float32), Square(-20, 10, 40))
    np.testing.assert_allclose(places, [[0, 20, 0.9]], atol=1e-6)


def test_the_input_is_the_same_to_the_last_bit_everywhere():
    """A digest of one cut: Pillow's arithmetic in whole numbers is relied on."""
    ramp = (np.arange(90 * 70 * 3) * 7 % 251).astype(np.uint8).reshape(90, 70, 3)
    cut = cut_out(ramp, Square(-11, 13, 83), 32)
    assert hashlib.sha256(cut.tobytes()).hexdigest()[:16] == '3d6e4000d9b67468'


# ---- people in frames -------------------------------------------------------------------------------------------


def test_a_drawn_person_is_found_and_followed(thunder):
    frames, truth = walking(4)
    found = np.stack([people[0] for people in OnePerson(thunder).detect(frames)])
    upper = [joint for joint in range(13) if joint not in (9, 10)]  # of a drawing, hands and legs are hard to see
    assert (found[:, upper, 2] > 0.3).all()
    assert np.linalg.norm(found[:, upper, :2] - truth[:, upper], axis=-1).max() < 16  # of 240 pixels


def test_nobody_is_seen_in_nothing_and_in_noise(thunder):
    black = np.zeros((60, 80, 3), np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    assert [people.shape for people in OnePerson(thunder).detect([black, noise])] == 2 * [(0, 17, 3)]


def test_a_face_is_somebody():
    assert is_somebody(standing(ankle=0, knee=0, hip=0, wrist=0, elbow=0, shoulder=0))
    assert not is_somebody(standing(ankle=0, knee=0, hip=0, wrist=0, elbow=0, shoulder=0, ear=0))


def test_the_whole_picture_is_looked_at_until_somebody_is_there_and_the_square_after_that():
    """The network is replaced by one that notes what it is shown and answers as it is told."""
    class Fake:
        side, central = 32, torch.zeros(1)

        def __call__(self, pictures):
            shown.append(pictures[0, ..., 0].numpy())
            return torch.from_numpy(answers.pop(0))[None]

    person_there = (standing()[:, [1, 0, 2]] / (1000, 1000, 1)).astype(np.float32)
    nobody = np.zeros((17, 3), np.float32)
    shown, answers = [], [nobody, person_there, person_there, nobody, nobody]
    frame = np.tile(np.linspace(0, 255, 1000).astype(np.uint8)[None, :, None], (1000, 1, 3))
    people = list(OnePerson(Fake()).detect([frame] * 4))
    assert [len(one) for one in people] == [0, 1, 0, 0]
    spans = [int(np.ptp(one[16])) for one in shown]
    # whole and nobody; whole, then the square around whom it found; the square, empty; whole again
    assert [span > 200 for span in spans] == [True, True, False, False, True]


def test_somebody_else_in_the_square_is_not_followed():
    """Who appears far from the middle of the square is looked past, unless nobody is nearer in a tight one."""
    class Fake:
        side, central = 32, torch.zeros(1)

        def __call__(self, pictures):
            return torch.from_numpy(answers.pop(0))[None]

    def at(x):
        """The person in a square of 514 pixels about their hips, or so far to the right of it."""
        shares = standing()[:, [1, 0, 2]]
        return ((shares - (515 - 257, 500 - 257 - x, 0)) / (514, 514, 1)).astype(np.float32)

    nobody = np.zeros((17, 3), np.float32)
    first = [(standing()[:, [1, 0, 2]] / (1000, 1000, 1)).astype(np.float32), at(0)]
    frame = np.zeros((1000, 1000, 3), np.uint8)
    hips = []
    for answers in ([*first, at(60)], [*first, at(150), at(0)], [*first, at(150), nobody]):
        *_, last = OnePerson(Fake()).detect([frame] * 2)
        assert not answers  # the tight square was looked at where it had to be, and only there
        hips.append(last[0, [11, 12], 0].mean())
    assert hips[0] == pytest.approx(560, abs=3)
    assert hips[1] == pytest.approx(500, abs=3)  # of half a square: the same answer is half as far from the middle
    assert hips[2] == pytest.approx(650, abs=3)


@pytest.mark.skipif(not (REAL / 'video').is_dir(), reason=f'no recording at {REAL}')
def test_real_keypoints_are_close_to_openposes():
    pytest.importorskip('av')
    with read_video(REAL / 'video' / 'cam02.mp4', skip=40) as film:
        frames = [frame for frame, _ in zip(film.frames, range(6), strict=False)]
    found = np.stack([people[0] for people in open_detector((), 'cpu').detect(frames)])
    openpose = read_track(REAL / 'pose2sim' / 'cam02_json').points[40:46, 5:17]  # COCO's joints come first in it
    away = np.linalg.norm(found[:, 5:, :2] - openpose, axis=-1)
    assert np.nanmedian(away) < 20 and np.nanpercentile(away, 90) < 40  # of 1920 pixels
