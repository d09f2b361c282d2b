"""Pictures of motion: known poses at known pixels, films that stream, and what cannot be drawn."""

import gc
import weakref

import numpy as np
import pytest
from PIL import Image

from common.commands.render import LEVEL, azimuth_of, stand_up, stands
from common.drawing.pictures import LEFT, MIDDLE, RIGHT, MotionPicture, render_motion, viewed_from
from common.geometry.camera import Camera
from common.skeleton import COCO, H36M, HUMANEVA15, MPI_INF_3DHP, MPII

# A person who stands with the arms stretched out sideways and looks along -y, at a viewer at azimuth -90: metres, z up.
# The left hand is on the right of the picture then.
STANDING = {
    'hip': (0, 0, 0.9), 'spine': (0, 0, 1.15), 'thorax': (0, 0, 1.4), 'neck': (0, 0, 1.5), 'head': (0, 0, 1.65),
    'left_hip': (0.15, 0, 0.9), 'left_knee': (0.15, 0, 0.45), 'left_ankle': (0.15, 0, 0),
    'right_hip': (-0.15, 0, 0.9), 'right_knee': (-0.15, 0, 0.45), 'right_ankle': (-0.15, 0, 0),
    'left_shoulder': (0.2, 0, 1.4), 'left_elbow': (0.45, 0, 1.4), 'left_wrist': (0.7, 0, 1.4),
    'right_shoulder': (-0.2, 0, 1.4), 'right_elbow': (-0.45, 0, 1.4), 'right_wrist': (-0.7, 0, 1.4),
}
FRONT = -90


def pose(skeleton=H36M, frames=1):
    one = np.array([STANDING[name] for name in skeleton.joints], np.float32)
    return np.repeat(one[None], frames, axis=0)


def picture_of(panels, skeleton=H36M, truth=None, **changes):
    settings = {'keypoints': None, 'layout': None, 'picture_size': None, 'title': 'title', 'azimuth': FRONT, 'size': 4,
                'filmed': False} | changes
    return MotionPicture(skeleton, panels, truth, **settings)


def pixel_of(picture, axes, points):
    """Return the integer rows and columns in the image of points (..., 2) in the axes' own coordinates."""
    height = picture.figure.bbox.height
    shown = axes.transData.transform(np.atleast_2d(points))
    return np.stack([height - shown[:, 1], shown[:, 0]], axis=1).astype(int)


def near(image, at, colour):
    """Return True where a pixel within one of `at` = (row, column) has a colour, '#rrggbb'."""
    wanted = np.array([int(colour[k:k + 2], 16) for k in (1, 3, 5)])
    row, column = at
    patch = image[row - 1:row + 2, column - 1:column + 2].astype(int)
    return (np.abs(patch - wanted).max(axis=-1) <= 3).any()


def middle_of(skeleton, name):
    """Return the middle of the bone that ends at a joint, relative to the root's place on the floor."""
    joint = skeleton.joints.index(name)
    return (pose(skeleton)[0, joint] + pose(skeleton)[0, skeleton.parents[joint]]) / 2


@pytest.mark.parametrize('skeleton', [H36M, HUMANEVA15, MPI_INF_3DHP], ids=lambda s: s.name)
def test_every_bone_is_where_it_must_be_in_the_colour_of_its_side(skeleton):
    picture = picture_of({'prediction': pose(skeleton)}, skeleton)
    image = picture.draw(0)
    axes = picture.views['prediction'][2].axes
    for joint, _ in skeleton.edges:
        name = skeleton.joints[joint]
        colour = LEFT if name.startswith('left') else RIGHT if name.startswith('right') else MIDDLE
        at = pixel_of(picture, axes, viewed_from(middle_of(skeleton, name), FRONT)[0])[0]
        assert near(image, at, colour), name


def test_left_is_right_of_the_picture_when_the_person_looks_at_us_and_up_is_up():
    image = picture_of({'prediction': pose()}).draw(0)
    left, right = ((np.abs(image.astype(int) - [int(colour[k:k + 2], 16) for k in (1, 3, 5)]).max(axis=-1) <= 3)
                   for colour in (LEFT, RIGHT))
    body = slice(40, 340)  # without the legend
    assert np.argwhere(left[body])[:, 1].min() > np.argwhere(right[body])[:, 1].max()
    picture = picture_of({'prediction': pose()})
    axes = picture.views['prediction'][2].axes
    rows = {name: pixel_of(picture, axes, viewed_from(np.array(STANDING[name]), FRONT)[0])[0][0] for name in STANDING}
    assert rows['head'] < rows['thorax'] < rows['hip'] < rows['left_knee'] < rows['left_ankle']
    assert near(picture.draw(0), pixel_of(picture, axes, viewed_from(middle_of(H36M, 'head'), FRONT)[0])[0], MIDDLE)


def test_a_metre_is_as_long_across_as_upwards():
    picture = picture_of({'prediction': pose()})
    axes = picture.views['prediction'][2].axes
    origin, across, up = axes.transData.transform([(0, 0), (1, 0), (0, 1)])
    assert across[0] - origin[0] == pytest.approx(up[1] - origin[1], rel=0.01)


def test_near_bones_hide_far_ones():
    """The right forearm crosses before the trunk, the left one behind it."""
    crossed = pose()
    for name, place in {'right_elbow': (-0.3, -0.3, 1.45), 'right_wrist': (0.3, -0.3, 1.45),
                        'left_elbow': (0.3, 0.3, 1.1), 'left_wrist': (-0.3, 0.3, 1.1)}.items():
        crossed[0, H36M.joints.index(name)] = place
    picture = picture_of({'prediction': crossed})
    image = picture.draw(0)
    axes = picture.views['prediction'][2].axes
    before, behind = pixel_of(picture, axes, viewed_from(np.array([(0, -0.3, 1.45), (0, 0.3, 1.1)]), FRONT)[0])
    assert near(image, before, RIGHT) and not near(image, before, MIDDLE)
    assert near(image, behind, MIDDLE) and not near(image, behind, LEFT)


def test_ground_truth_and_a_perfect_prediction_are_drawn_alike():
    moving = pose(frames=3) + np.linspace(0, 1, 3, dtype=np.float32)[:, None, None] * np.float32([1, 2, 0])
    picture = picture_of({'prediction': moving.copy()}, truth=moving)
    image = picture.draw(2)
    height, width = image.shape[:2]
    body = slice(int(0.14 * height), int(0.85 * height))
    half = width // 2
    apart = np.abs(image[body, :half].astype(int) - image[body, half:])
    assert apart.max() < 30  # no grey ghost looks out from behind, but for a trace of it at the limbs' round ends
    assert (apart > 0).mean() < 1e-3
    assert picture.marks['prediction'].get_text() == 'error 0.0 mm'


def test_an_error_is_told_and_its_ghost_is_seen():
    wrong = pose()
    wrong[..., 0] += np.float32(0.1)
    picture = picture_of({'prediction': wrong}, truth=pose())
    image = picture.draw(0)
    assert picture.marks['prediction'].get_text() == 'error 100.0 mm'
    axes = picture.views['prediction'][2].axes
    assert near(image, pixel_of(picture, axes, viewed_from(middle_of(H36M, 'head'), FRONT)[0])[0], '#AAAAAA')


def test_input_is_drawn_over_the_frame_of_the_video():
    keypoints = np.random.default_rng(0).uniform(100, 300, (1, 17, 2)).astype(np.float32)
    keypoints[0, COCO.joints.index('left_wrist')] = (40, 200)
    keypoints[0, COCO.joints.index('left_elbow')] = (20, 200)
    picture = picture_of({'prediction': pose()}, keypoints=keypoints, layout=COCO, picture_size=(400, 400), filmed=True)
    frame = np.zeros((40, 40, 3), np.uint8)
    frame[:, :20], frame[:20, 20:] = (255, 0, 0), (0, 255, 0)  # red on the left, green at the top right
    image = picture.draw(0, frame)
    axes = picture.input_lines.axes
    at = pixel_of(picture, axes, [(30, 200), (10, 390), (390, 10)])
    assert near(image, at[0], LEFT)
    assert near(image, at[1], '#FF0000')
    assert near(image, at[2], '#00FF00')


@pytest.mark.parametrize('layout', [COCO, MPII, H36M, HUMANEVA15], ids=lambda s: s.name)
def test_every_layout_of_keypoints_can_be_drawn(layout, tmp_path):
    keypoints = np.random.default_rng(0).uniform(0, 400, (1, len(layout), 2)).astype(np.float32)
    drawn = render_motion(tmp_path / 'a.png', H36M, {'prediction': pose()}, 25, keypoints=keypoints, layout=layout,
                          picture_size=(400, 400))
    assert drawn == 1


def test_no_text_is_cut_off():
    long = 'a very long name of a checkpoint that nobody would give one ' * 3
    picture = picture_of({long: pose(), 'b' * 90: pose()}, title=long * 2, truth=pose())
    picture.draw(0)
    axes = [view[2].axes for view in picture.views.values()]
    for text, room in [*((a.title, picture.figure.bbox.width / 3) for a in axes),
                       *((text, picture.figure.bbox.width) for text in picture.figure.texts)]:
        box = text.get_window_extent()
        assert box.width <= room
        assert box.y0 >= 0 and box.y1 <= picture.figure.bbox.height
    legend = picture.figure.legends[0].get_window_extent()
    assert legend.x0 > picture.clock.get_window_extent().x1 and legend.y0 >= 0


# ---- the world --------------------------------------------------------------------------------------------------


def test_a_camera_that_nobody_placed_is_level():
    unknown = Camera(np.array([1, 0, 0, 0], np.float32), np.zeros(3, np.float32), 100, 100)
    assert stands(unknown) is LEVEL
    assert azimuth_of(LEVEL) == pytest.approx(-90)
    camera_axes = np.array([[[1, 0, 0], [0, 1, 0], [0, 0, 1]]], np.float32)  # right, down, forward
    turned = stand_up(camera_axes, LEVEL, np.zeros((1, 3), np.float32))
    assert turned[0] == pytest.approx(np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]]), abs=1e-6)


def test_without_a_root_the_lowest_joint_of_each_frame_is_on_the_floor():
    poses = np.random.default_rng(0).normal(size=(4, 17, 3)).astype(np.float32)
    assert stand_up(poses, LEVEL)[..., 2].min(axis=1) == pytest.approx(np.zeros(4), abs=1e-6)


# ---- films ------------------------------------------------------------------------------------------------------


def test_a_gif_plays_at_its_speed(tmp_path):
    moving = pose(frames=30) + np.linspace(0, 1, 30, dtype=np.float32)[:, None, None] * np.float32([0, 0, 0.3])
    assert render_motion(tmp_path / 'a.gif', H36M, {'prediction': moving}, 25, size=1.5) == 30
    with Image.open(tmp_path / 'a.gif') as film:
        assert film.n_frames == 30 and film.info['loop'] == 0 and film.size == (150, 150)
        durations = []
        for number in range(30):
            film.seek(number)
            durations.append(film.info['duration'])
    assert sum(durations) == 1200
    assert [path.name for path in tmp_path.iterdir()] == ['a.gif']


def test_limit_and_step_choose_frames_of_poses_and_video_alike(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(MotionPicture, 'draw', lambda self, frame, image: seen.append(
        (frame, int(image[0, 0, 0]))) or np.zeros((2, 2, 3), np.uint8))
    video = (np.full((2, 2, 3), number, np.uint8) for number in range(200))
    render_motion(tmp_path / 'a.gif', H36M, {'prediction': pose(frames=100)}, 25, video=video, limit=10, step=3,
                  keypoints=np.zeros((100, 17, 2)), layout=COCO, picture_size=(9, 9))
    assert seen == [(0, 0), (3, 3), (6, 6), (9, 9)]
    seen.clear()
    short = (np.full((2, 2, 3), number, np.uint8) for number in range(5))
    drawn = render_motion(tmp_path / 'a.gif', H36M, {'prediction': pose(frames=100)}, 25, video=short,
                          keypoints=np.zeros((100, 17, 2)), layout=COCO, picture_size=(9, 9))
    assert drawn == 5 and [frame for frame, _ in seen] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize('suffix', [pytest.param('gif', marks=pytest.mark.slow), 'mp4'])
def test_frames_are_forgotten_as_they_are_written(tmp_path, suffix):
    """Check that only a handful of frames is in memory, however long the film is."""
    if suffix == 'mp4':
        pytest.importorskip('av')
    alive, most = [], 0

    class Frame(np.ndarray):
        pass

    def video():
        nonlocal most
        for number in range(60):
            frame = np.full((64, 64, 3), number, np.uint8).view(Frame)
            alive.append(weakref.ref(frame))
            if number % 10 == 9:  # a collection takes a while in a process that has run a thousand tests
                gc.collect()
                most = max(most, sum(ref() is not None for ref in alive))
            yield frame

    render_motion(tmp_path / f'a.{suffix}', H36M, {'prediction': pose(frames=60)}, 25, video=video(), size=1,
                  keypoints=np.full((60, 17, 2), 5.0), layout=COCO, picture_size=(64, 64))
    assert len(alive) == 60
    assert 1 <= most <= 5


def test_empty_nan_and_unequal_poses_are_refused(tmp_path):
    with pytest.raises(ValueError, match='one pose a frame'):
        render_motion(tmp_path / 'a.gif', H36M, {'a': pose(frames=2), 'b': pose(frames=3)}, 25)
    with pytest.raises(ValueError, match='NaN'):
        render_motion(tmp_path / 'a.gif', H36M, {'a': np.full((2, 17, 3), np.nan)}, 25)
    with pytest.raises(ValueError, match='expected one pose'):
        render_motion(tmp_path / 'a.gif', H36M, {'a': np.zeros((0, 17, 3))}, 25)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', ['a$x_$b', 'cost $5 to $6', r'a$\frac$', 'caf\udce9'])
def test_names_are_written_as_they_are(tmp_path, name):
    """Not as formulas, which dollars mark for matplotlib, nor as bytes that are no text."""
    picture = picture_of({name: pose()}, title=name)
    shown = [text.get_text() for text in picture.figure.texts]
    assert name.replace('\udce9', '?') in shown
    assert render_motion(tmp_path / 'a.png', H36M, {name: pose()}, 25, title=name, size=1) == 1


def test_a_frame_of_a_gif_is_shown_for_eleven_minutes_at_most(tmp_path):
    moving = pose(frames=2) + np.arange(2, dtype=np.float32)[:, None, None]
    assert render_motion(tmp_path / 'a.gif', H36M, {'prediction': moving}, 0.0001, size=1) == 2
    with Image.open(tmp_path / 'a.gif') as film:
        assert film.info['duration'] == 655350
