"""From a user's keypoints to what a lifter reads: where a person is put on the screen, and how large."""

import keypoint_files as files
import numpy as np
import pytest
from test_predict import clip

from common.errors import FileError
from common.keypoints.clip import USUAL_STATURE, Asked, centre_of, load_clip, path_of, usual_zoom
from common.keypoints.mistakes import refuse_mistakes
from common.skeleton import COCO, H36M


def load(tmp_path, pixels, *, fps=50, size=(1000, 1002), layout='h36m', **asked):
    """Return the Clip of pixels (T, K, 2) and all that was said of it."""
    np.savez(tmp_path / 'in.npz', keypoints=pixels, size=size, fps=fps)
    said: list[str] = []
    return load_clip(Asked(str(tmp_path / 'in.npz'), layout, **asked), H36M, said.append), '\n'.join(said)


# ---- on the screen ----------------------------------------------------------------------------------------------


def standing(frames=120, height=150, at=(2000, 500)):
    """Return pixels (T, 17, 2) of a walk on the spot, the person this high, the hips there."""
    _, pixels = clip(frames)
    pixels = pixels - path_of(pixels, H36M, 50)[:, None]
    return pixels * height / (pixels[..., 1].max() - pixels[..., 1].min()) + at


@pytest.mark.parametrize('zoom', [None, 2.9, 5.7])
def test_who_crosses_a_wide_picture_is_lifted_as_who_walks_on_the_spot(tmp_path, zoom):
    """From the left to the right of 4,000 pixels, in a straight line: the same shapes, in nearly the same place."""
    spot = standing()
    across = spot + np.linspace([-1900, -60], [1900, 60], len(spot))[:, None]
    still, _ = load(tmp_path, spot, size=(4000, 1000), zoom=zoom)
    moved, said = load(tmp_path, across, size=(4000, 1000), zoom=zoom)
    assert 'people trained on are about 0.82: scaled by' in said
    np.testing.assert_allclose(moved.screen - moved.screen[:, :1], still.screen - still.screen[:, :1], atol=1e-5)
    assert np.abs(moved.screen - still.screen).max() < 0.12 * USUAL_STATURE
    assert np.abs(moved.screen).max() < USUAL_STATURE * max(1, (zoom or 0) / usual_zoom(150 / 2000))
    np.testing.assert_allclose(moved.pixels, across, atol=1e-3)


@pytest.mark.parametrize('zoom', [0.5, 1.0, 1.3, 2.0, 4.0])
def test_an_enlarged_body_keeps_its_shape_wherever_it_is(tmp_path, zoom):
    """Within each frame all distances grow by the zoom, whatever the path is."""
    _, pixels = clip(40)
    pixels += 100 * np.random.default_rng(0).normal(size=(40, 1, 2))
    got, _ = load(tmp_path, pixels, zoom=zoom, as_is=True, min_score=0)
    np.testing.assert_allclose(got.screen - got.screen[:, :1], zoom * (got.pixels - got.pixels[:, :1]) / 500, atol=1e-5)


def test_scaling_by_hand():
    """A point 0.1 right of a path that goes from -0.1 to 0.1 around (0.5, 0)."""
    path = np.array([[0.4, 0], [0.5, 0], [0.6, 0]])
    screen = path[:, None] + [0.1, 0]

    def scaled(zoom, path=path, screen=screen):
        return (zoom * (screen[:, 0] - centre_of(path, zoom)))[:, 0].round(6).tolist()
    assert scaled(1) == [0.5, 0.6, 0.7]
    assert scaled(0.5) == [0.25, 0.3, 0.35]  # all of a picture twice as large
    assert scaled(1.5) == [0.25, 0.4, 0.55]  # 1.5 * 0.1 right of half of 0.5 and a path from -0.15 to 0.15
    assert scaled(4) == [0.0, 0.4, 0.8]  # the middle of the path is that of the picture
    assert scaled(12) == [1.2, 1.2, 1.2]  # a path of 2.4 half-widths is left out
    assert scaled(7.5) == [0.375, 0.75, 1.125]  # and half of one of 1.5, which is half-way between ROOM and twice that


def test_size_and_place_change_gradually():
    """No step in what a lifter reads, from a speck to a person who fills the picture."""
    _, pixels = clip(60)
    tall = np.geomspace(0.05, 3, 4000)
    zooms = np.array([usual_zoom(t) for t in tall])
    assert np.abs(np.diff(np.log(tall * zooms))).max() < 0.005
    assert np.abs(np.log(tall * zooms / USUAL_STATURE)).max() < 0.15
    assert usual_zoom(0.72) == usual_zoom(0.8) == usual_zoom(0.93) == 1
    assert usual_zoom(0.41) == pytest.approx(2)
    assert usual_zoom(float('nan')) == usual_zoom(0) == 1
    path = path_of((pixels - 500) / 500, H36M, 50) + np.linspace([-0.7, 0], [0.7, 0], 60)
    placed = np.array([zoom * (path - centre_of(path, zoom)) for zoom in np.geomspace(0.5, 8, 1000)])
    assert np.abs(np.diff(placed, axis=0)).max() < 0.02


@pytest.mark.parametrize('zoom', [0.5, 1.0, 1.5, 3.0])
def test_the_lens_is_that_of_the_scaled_keypoints(tmp_path, zoom):
    """A point that the lens sees in a direction is, scaled, seen in the same direction by the scaled lens."""
    _, pixels = clip(40)
    got, _ = load(tmp_path, (pixels - pixels.mean(axis=(1, 2), keepdims=True)) / 3 + 600, zoom=zoom)
    before = (got.pixels - (480, 520)) / (1100, 1150)
    lens = got.intrinsic((1100, 1150, 480, 520))
    np.testing.assert_allclose((got.screen - lens[2:4]) / lens[:2], before, atol=1e-5)


def test_a_path_is_exact_on_a_line_and_smooth_on_a_step():
    pixels = np.zeros((200, 17, 2))
    pixels[..., 0] = 7 * np.arange(200)[:, None]
    np.testing.assert_allclose(path_of(pixels, H36M, 50), pixels[:, 0])
    np.testing.assert_allclose(path_of(pixels[:1], H36M, 50), pixels[:1, 0])
    pixels[..., 0] = 31 * (np.arange(200) >= 100)[:, None]
    assert np.abs(np.diff(path_of(pixels, H36M, 50)[:, 0])).max() == pytest.approx(1)  # 31 frames at 50 a second
    assert np.abs(np.diff(path_of(pixels, H36M, 25)[:, 0])).max() == pytest.approx(31 / 17)


def test_a_path_is_that_of_a_naive_mean():
    _, pixels = clip(70)
    hips, expected = pixels[:, [1, 4]].mean(axis=1), []
    for frame in range(70):
        half = min(9, frame, 69 - frame)
        expected.append(np.mean([hips[f] for f in range(frame - half, frame + half + 1)], axis=0))
    offset = np.median(pixels - np.array(expected)[:, None], axis=(0, 1))
    np.testing.assert_allclose(path_of(pixels, H36M, 30), np.array(expected) + offset)


# ---- the size of the picture ------------------------------------------------------------------------------------


def portrait(share):
    """Return COCO keypoints of a portrait clip of 720×1280, this share of them below row 1.05 * 720."""
    points = files.in_layout(clip(40)[1], COCO)
    points = points - points.min(axis=(0, 1))
    points *= 600 / points[..., 1].max()
    rows = np.sort(points[..., 1].ravel())
    return points + [60, 756.5 - rows[round((1 - share) * len(rows))]]


@pytest.mark.parametrize('share', [0.07, 0.15, 0.4])
def test_a_swapped_size_is_refused_with_the_right_one(share):
    refuse_mistakes(portrait(share), COCO, (720, 1280), 'x')
    with pytest.raises(FileError, match='swapped: --image-size 720 1280'):
        refuse_mistakes(portrait(share), COCO, (1280, 720), 'x')


def test_a_few_points_below_the_picture_are_no_swapped_size():
    refuse_mistakes(portrait(0.03), COCO, (1280, 720), 'x')
    points = portrait(0.12) + [600, 0]  # which a picture of 720×1280 could not show either
    refuse_mistakes(points, COCO, (1280, 720), 'x')


# ---- what is said -----------------------------------------------------------------------------------------------


def test_jumps_and_frozen_stretches_are_said(tmp_path):
    _, pixels = clip(100)
    _, said = load(tmp_path, pixels)
    assert 'the person jumps' not in said and 'nothing moves' not in said
    pixels[40:70] = pixels[40]
    pixels[80:] += [600, 0]
    _, said = load(tmp_path, pixels, size=(2000, 1002))
    assert 'in 80 of 100 frames, of 2 people, up to 1 in a frame' in said  # who jumps so far is somebody else
    assert 'nothing moves at all in 30 frames, such as 40 to 69' in said
    pixels[:60] = np.nan
    _, said = load(tmp_path, pixels, size=(2000, 1002), fps=25)
    assert 'nobody in frames 0 to 59, 2.4 s: what is written there is a guess, the pose held still' in said


def test_a_track_that_begins_late_or_ends_early_is_said_at_any_length(tmp_path):
    _, pixels = clip(100)
    pixels[:1] = pixels[97:] = np.nan
    _, said = load(tmp_path, pixels)
    assert 'nobody in frames 0 to 0, 0.0 s: what is written there is a guess, the pose held still' in said
    assert 'nobody in frames 97 to 99, 0.1 s: what is written there is a guess, the pose held still' in said
    assert 'person: the only one' in said  # empty frames are nobody


def test_sides_that_change_places_are_said(tmp_path):
    """In every third frame of a walk, and so twice for each but the first; in none of the walk itself."""
    _, pixels = clip(60)
    _, said = load(tmp_path, pixels)
    assert 'change places' not in said
    pixels[::3] = pixels[::3][:, H36M.mirror]
    _, said = load(tmp_path, pixels)
    assert 'left and right change places 39 times, first at frame 1' in said


@pytest.mark.parametrize('fps, told', [(240, True), (100, True), (60, False)])
def test_slow_motion_is_told(tmp_path, fps, told):
    _, said = load(tmp_path, standing(height=600, at=(500, 500)), fps=fps)
    assert ('poses a second are more than lifters are trained at' in said) == told


def test_lifters_that_know_people_of_any_size_get_them_as_they_are(tmp_path):
    as_seen, said = load(tmp_path, standing(height=300, at=(600, 400)), any_size=True)
    assert as_seen.zoom == 1 and 'scaled by' not in said
    np.testing.assert_allclose(as_seen.screen[..., 0], as_seen.pixels[..., 0] / 500 - 1, atol=1e-5)
    far, said = load(tmp_path, standing(height=75, at=(600, 400)), any_size=True)
    assert 1.5 < far.zoom < 2.5 and 'people trained on are from 0.3 to 3.0: scaled by' in said
    assert [usual_zoom(tall, any_size=True) for tall in (0.15, 0.3, 1.0, 3.0, 6.0, np.nan)] == [2, 1, 1, 1, 0.5, 1]


# ---- what was seen, and in what unit ------------------------------------------------------------------------------


def coco(frames=40):
    """Return keypoints (T, 17, 3) of COCO's, of a walk, all of which are seen."""
    pixels = clip(frames)[1]
    places = [H36M.joints.index(name) if name in H36M.joints else H36M.joints.index('head') for name in COCO.joints]
    return np.concatenate([pixels[:, places], np.ones((frames, 17, 1))], axis=-1)


@pytest.mark.parametrize('name', ['left_elbow', 'right_knee', 'left_wrist'])
def test_a_limb_that_is_hidden_most_of_the_time_is_filled_in(tmp_path, name):
    keypoints, joint = coco(), COCO.joints.index(name)
    keypoints[4:35, joint, 2] = 0.1
    got, said = load(tmp_path, keypoints, layout='coco', as_is=True)
    assert 'never seen' not in said and np.isfinite(got.pixels).all()


@pytest.mark.parametrize('scale', [1.0, 100.0], ids=['shares', 'percent'])
def test_a_single_high_score_makes_no_percent(tmp_path, scale):
    """A network's own scores may pass 1, and a single one even 2."""
    keypoints = coco()
    keypoints[..., 2] = 0.6 * scale
    keypoints[7, 3, 2] = 2.1 * (scale if scale == 1 else 1)
    got, _ = load(tmp_path, keypoints, layout='coco', as_is=True)
    usual = np.median(got.confidence)
    assert usual == pytest.approx(0.6, abs=1e-6)


def test_shares_of_a_picture_are_those_of_the_video_where_nothing_else_says_its_size(tmp_path):
    """The user's word goes before the file's, and that before the video's."""
    shares = coco()
    shares[..., :2] = 0.2 + 0.6 * (shares[..., :2] - shares[..., :2].min()) / np.ptp(shares[..., :2])
    np.save(tmp_path / 'in.npy', shares)

    def size(**asked):
        got = load_clip(Asked(str(tmp_path / 'in.npy'), 'coco', fps=25, as_is=True, **asked), COCO, lambda line: None)
        np.testing.assert_allclose(got.pixels[0, 5], shares[0, 5, :2] * got.size, rtol=1e-5)
        return got.size
    assert size(video_size=(1000, 900)) == (1000, 900)
    assert size(video_size=(1000, 900), size=(500, 450)) == (500, 450)


def test_what_predict_wrote_is_not_what_it_reads(tmp_path):
    np.savez(tmp_path / 'out.npz', poses=np.zeros((9, 17, 3)), keypoints=coco(9)[..., :2], layout='h36m',
             keypoint_names=np.array(COCO.joints))
    with pytest.raises(FileError, match='is what --predict wrote, poses in 3D: give it the keypoints'):
        load_clip(Asked(str(tmp_path / 'out.npz')), COCO, lambda line: None)


def test_people_who_come_late_are_found_in_an_array_of_frames(tmp_path):
    frames = np.empty(150, dtype=object)
    for number, keypoints in enumerate(coco(40), 110):
        frames[number] = keypoints[None]
    np.savez(tmp_path / 'late.npz', keypoints=frames)
    got = load_clip(Asked(str(tmp_path / 'late.npz'), 'coco', size=(1000, 1002), fps=50, as_is=True), COCO,
                    lambda line: None)
    assert got.frames[-1] == 149
