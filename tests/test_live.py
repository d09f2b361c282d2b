"""--predict camera:0 and --live: what comes of each picture from those before it, and how such a stream ends."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHARED
from drawn_people import walking, write_video
from matplotlib import pyplot
from matplotlib.colors import to_rgb
from test_predict_video import NOBODY, STANDS, Told

from common.commands import live
from common.drawing import video
from common.drawing.camera import running
from common.drawing.look import LEFT
from common.drawing.video import Film
from common.drawing.window import Window
from common.errors import DivergedError, FileError
from common.geometry.camera import normalise
from common.keypoints.clip import usual_zoom
from common.keypoints.layouts import stature
from common.keypoints.stream import Stream
from common.models.lifting import lift_newest
from common.models.loading import LoadedLifter
from common.models.videopose3d import VideoPose3D, VideoPose3DConfig
from common.skeleton import COCO, H36M
from common.storage.npz import read_npz

pytest.importorskip('av')
REAL = SHARED / 'real2d' / 'video' / 'cam01.mp4'


@pytest.fixture(autouse=True)
def without_a_screen(monkeypatch):
    for name in ('DISPLAY', 'WAYLAND_DISPLAY'):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope='module')
def clip(tmp_path_factory):
    """Write a video of the drawn person, 4 frames, 2 a second."""
    path = tmp_path_factory.mktemp('live') / 'clip.mp4'
    write_video(path, walking(4)[0], fps=2)
    return path


@pytest.fixture
def fast(tmp_path):
    """Write 12 frames, 20 a second."""
    write_video(tmp_path / 'fast.mp4', walking(12)[0], fps=20)
    return tmp_path / 'fast.mp4'


@pytest.fixture
def lift(run, trained, tmp_path):
    """lift(name of the output, input, *flags) -> (members of the npz, what the program said)."""
    def main(name, source, *flags):
        status, out, err = run('-c', trained[0], '--evaluate', 'best.bin', '--predict', source, '--output',
                               tmp_path / name, '--device', 'cpu', *flags)
        assert (status, err) == (0, ''), err
        return read_npz(tmp_path / name), out
    return main


@pytest.fixture
def bad(refused, trained):
    """bad(status, input, *flags) -> the one line of a refusal."""
    def main(status, source, *flags):
        return refused(status, '-c', trained[0], '--evaluate', 'best.bin', '--predict', source, '--device', 'cpu',
                       *flags)
    return main


@pytest.fixture
def told(monkeypatch):
    """told(see) puts in MoveNet's place what sees see(n) in the n-th picture that it is given."""
    def main(see):
        class Seeing(Told):
            def detect(self, frames):
                for number, _ in enumerate(frames):
                    yield see(number)
        monkeypatch.setattr(live, 'open_detector', lambda *_: Seeing())
    return main


# ---- the whole of it --------------------------------------------------------------------------------------------


def test_live_is_the_causal_lifting_of_the_clip(lift, clip):
    same = ('--zoom', 1, '--smooth', 0.8, '--min-score', 0)
    got, out = lift('live.npz', clip, '--live', *same)
    assert 'MoveNet Thunder 4 follows one person until Ctrl-C' in out and 'no window' in out
    assert 'frames a second; latency from a picture to its pose: median' in out
    assert 'One-Euro' in str(got['smoothing']) and 'smoothed: One-Euro' in out
    if len(got['frame']) < 4:
        pytest.skip('this machine is too slow for two pictures a second')
    found, _ = lift('found.npz', clip, '--causal', *same)
    assert set(got) == set(found)
    for name in ('poses', 'world', 'keypoints', 'keypoints_seen', 'frame', 'seconds', 'fps', 'present'):
        np.testing.assert_allclose(got[name], found[name], atol=1e-4 if name == 'keypoints' else 2e-6, err_msg=name)


def test_pictures_that_come_too_fast_are_dropped(lift, fast, told):
    def see(number):
        time.sleep(0.15)
        return STANDS
    told(see)
    got, out = lift('live.npz', fast, '--live')
    assert 1 < len(got['frame']) < 12 and got['frame'][-1] == 11
    np.testing.assert_allclose(got['seconds'], got['frame'] / 20, atol=1e-3)
    assert f'{12 - len(got["frame"])} of 12 pictures dropped; somebody in {len(got["frame"])} of' in out


@pytest.mark.parametrize('number, status', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_and_what_was_lifted_is_written(run, trained, fast, told, tmp_path, number, status):
    def see(index):
        if index == 1:
            os.kill(os.getpid(), number)
        return STANDS
    told(see)
    flags = ('-c', trained[0], '--evaluate', 'best.bin', '--predict', fast, '--live', '--device', 'cpu')
    got, out, err = run(*flags, '--output', tmp_path / 'out.npz')
    assert got == status and 'the end: ' in out
    assert err == (f'run_ktpformer.py: error: stopped by {number.name}; {tmp_path / "out.npz"} holds what was lifted\n')
    assert len(read_npz(tmp_path / 'out.npz')['poses']) == 2
    assert run(*flags)[0] == status


@pytest.mark.parametrize('error', [FileError, DivergedError])
def test_what_was_lifted_is_kept_where_it_breaks_off(bad, fast, told, tmp_path, error):
    def see(index):
        if index == 1:
            raise error('the camera is gone')
        return STANDS
    told(see)
    assert bad(1, fast, '--live', '--output', tmp_path / 'out.npz').endswith('error: the camera is gone')
    assert len(read_npz(tmp_path / 'out.npz')['poses']) == 1


def test_somebody_who_goes_is_neither_lifted_nor_kept(lift, fast, told):
    looked = []

    def see(index):
        looked.append(index)
        return NOBODY if index in (0, 3, 4) else STANDS
    told(see)
    got, out = lift('live.npz', fast, '--live')
    somebody = len(set(looked) - {0, 3, 4})
    assert len(got['frame']) == somebody and got['frame'][0] > 0 and got['present'].all()
    assert f'somebody in {somebody} of {len(looked)}' in out


def test_nobody_at_all(bad, run, trained, monkeypatch, tmp_path):
    """A camera that shows no person: ffmpeg's test picture stands for the device."""
    monkeypatch.setattr(video, 'DEVICES', {sys.platform: ('lavfi', 'testsrc=size=64x48:rate=10:duration=0.{}')})
    line = bad(1, 'camera:3', '--output', tmp_path / 'out.npz')
    assert line.endswith(f'camera:3: nobody was seen; {tmp_path / "out.npz"} is not written')
    assert list(tmp_path.iterdir()) == []
    status, out, err = run('-c', trained[0], '--evaluate', 'best.bin', '--predict', 'camera:3', '--device', 'cpu')
    assert (status, err) == (0, '') and 'somebody in 0 of' in out and 'camera:3: 64×48 pixels, 10 a second' in out



# ---- what is refused --------------------------------------------------------------------------------------------


def test_without_a_camera(bad, monkeypatch):
    line = bad(1, 'camera:999')
    assert '--predict clip.mp4 --live plays a video like one' in line
    if sys.platform == 'linux':
        assert 'there is no camera /dev/video999, ' in line
    assert 'expected camera:0, or another number of a camera' in bad(2, 'camera:x')
    monkeypatch.setattr(video, 'DEVICES', {sys.platform: ('lavfi', 'nothing={}')})
    assert 'camera nothing=0 cannot be opened' in bad(1, 'camera:0')
    monkeypatch.setattr(video, 'DEVICES', {})
    assert 'reads no cameras' in bad(1, 'camera:0')


@pytest.mark.parametrize('flags', [
    ['--overlap', 2], ['--csv', 'x.csv'], ['--export', 'x.trc'], ['--person', 1], ['--fps', 5], ['--layout', 'coco'],
    ['--image-size', 9, 9], ['--trajectory', '--fov', 60], ['--fov', 60], ['--intrinsics', 1, 1, 1, 1], ['--as-is'],
    ['--detector', 'rtmlib'], ['--detector-files', 'a.onnx'], ['-ste', 'S1'],
    ['--render', '--viz-output', 'x.gif']])
def test_flags_that_need_a_whole_clip(bad, clip, flags, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for source in ('camera:0', clip):
        line = bad(2, source, *(['--live'] if source == clip else []), *flags)
        assert f'error: {flags[0]} ' in line and 'leave it out' in line and 'is not for --' in line


def test_what_is_no_video_is_not_played(bad, tmp_path):
    np.save(tmp_path / 'in.npy', np.zeros((3, 17, 2)))
    assert 'in.npy is none' in bad(2, tmp_path / 'in.npy', '--live')
    assert 'is none' in bad(2, tmp_path, '--live')
    assert 'none.mp4 is missing' in bad(1, tmp_path / 'none.mp4', '--live')
    (tmp_path / 'text.mkv').write_bytes(b'no video at all')
    assert 'text.mkv is not a readable video' in bad(1, tmp_path / 'text.mkv', '--live')


# ---- keypoints as they come -------------------------------------------------------------------------------------

SIZE = (240, 320)
NOSE, WRIST = COCO.joints.index('nose'), COCO.joints.index('left_wrist')


def stream(frames=1, zoom=1.0):
    return Stream(COCO, COCO, SIZE, frames, zoom, 0.3)


def seen_at(x, unsure=()):
    person = STANDS[0] + (x, 0, 0)
    person[list(unsure), 2] = 0.1
    return person


def test_a_keypoint_is_held_and_then_guessed():
    keypoints = stream()
    keypoints.add(seen_at(0), 0.0)
    for seconds, off in ((0.5, 0), (1.0, 0), (1.1, 30), (1.2, 40)):
        got = keypoints.add(seen_at(off or 10, [WRIST]), seconds)
        assert got.pixels[WRIST, 0] - STANDS[0, WRIST, 0] == pytest.approx(off), seconds
        assert not got.seen[WRIST] and got.seen.sum() == 16
        assert got.confidence[-1, WRIST] == 0 and got.confidence[-1, NOSE] == pytest.approx(0.9)
    first = stream().add(seen_at(5, [WRIST]), 0.0)  # not seen as yet: there is nothing better than the guess
    assert first.pixels[WRIST, 0] - STANDS[0, WRIST, 0] == pytest.approx(5)


def test_a_gap_is_filled_once_the_person_is_back():
    keypoints = stream(frames=9)
    keypoints.add(seen_at(0), 0.0)
    assert keypoints.add(None, 0.25) is None and keypoints.add(None, 0.5) is None
    got = keypoints.add(seen_at(30), 0.75)
    assert len(got.screen) == 4
    at = got.screen[:, NOSE, 0] * SIZE[0] / 2
    np.testing.assert_allclose(at - at[0], [0, 10, 20, 30], atol=1e-4)
    keypoints.add(None, 1.5)
    assert keypoints.add(None, 1.8) is None and not keypoints.rows
    assert len(keypoints.add(seen_at(60), 2.0).screen) == 1


def test_size_and_place_are_those_of_the_last_seconds():
    keypoints, people = stream(frames=30, zoom=None), []
    for number in range(40):
        small = seen_at(0)
        small[:, :2] = small[:, :2] * (0.5 if number < 20 else 0.25) + 40
        people.append(small)
        got = keypoints.add(small, number / 10)
        lately = normalise(np.array(people)[max(0, number - 20):, :, :2], *SIZE)
        assert got.zoom == pytest.approx(usual_zoom(stature(lately, COCO)))
        assert len(got.screen) == min(30, number + 1)
    assert got.zoom > 1.5  # enlarged, and so brought to the middle
    assert np.abs(np.median(got.screen[-1], axis=0)).max() < 0.3


def test_random_keypoints_are_never_missing():
    random, keypoints = np.random.default_rng(0), stream(frames=5, zoom=None)
    seconds = 0.0
    for _ in range(300):
        seconds += random.choice([0.02, 0.3, 0.9])
        person = seen_at(random.normal(0, 20), np.flatnonzero(random.random(17) < 0.7))
        got = keypoints.add(None if random.random() < 0.3 else person, seconds)
        if got is not None:
            assert np.isfinite(got.screen).all() and np.isfinite(got.pixels).all()


# ---- the pose of the newest frame, the camera, the window -------------------------------------------------------


def test_a_model_of_the_middle_frame_reads_the_newest_again():
    torch.manual_seed(1)
    model = VideoPose3D(VideoPose3DConfig(9, 16, (3, 3)), H36M, COCO).eval()
    lifter = LoadedLifter(model, 'any', {}, COCO, H36M, {}, '', None)
    screen = np.random.default_rng(0).normal(0, 0.3, (7, 17, 2)).astype(np.float32)
    got = lift_newest(lifter, screen, np.ones((7, 17), np.float32), 'predicted', flip=False)
    window = screen[[2, 3, 4, 5, 6, 6, 6, 6, 6]]
    with torch.inference_mode():
        np.testing.assert_allclose(got, model(torch.from_numpy(window)[None])[0, 0], atol=1e-6)


def test_the_camera_keeps_the_newest_picture_alone():
    times = []

    def frames(end):
        for number in range(5):
            times.append(2 + 0.1 * number)
            yield np.full((2, 2, 3), number, np.uint8)
        if end:
            raise FileError('it broke off')

    film = Film(10, (2, 2), frames(False), None, times)
    with running(film, paced=False) as camera:
        camera._thread.join()
        got = list(camera.pictures(lambda: False))
    assert [(picture.number, picture.image[0, 0, 0]) for picture in got] == [(4, 4)] and camera.dropped == 4
    assert got[0].seconds == pytest.approx(0.4)
    times.clear()
    began = time.perf_counter()
    with running(Film(10, (2, 2), frames(True), None, times), paced=True) as camera:
        got = []
        with pytest.raises(FileError, match='it broke off'):
            got.extend(camera.pictures(lambda: False))
        assert got[0].seconds == 0 and got[-1].number == 4
        assert all(picture.arrived - began >= picture.seconds for picture in got)
    times.clear()
    with running(Film(10, (2, 2), frames(False), None, times), paced=True) as camera:
        assert list(camera.pictures(lambda: True)) == []


def test_pictures_are_later_than_those_before_whatever_their_time_stamps_say():
    """Speeds are distances over the time between two pictures."""
    times = [2, 2.1, 2.1, 2.05, None, 2.9, 2.8]
    camera = running(Film(10, (2, 2), iter(()), None, times), paced=False)
    with camera as reading:
        seconds = [reading._seconds(number) for number in range(len(times))]
    np.testing.assert_allclose(seconds, [0, 0.1, 0.2, 0.3, 0.4, 0.9, 1.0])


def blue(window):
    drawn = np.asarray(window._canvas.buffer_rgba())[..., :3]
    return [int((np.abs(part - 255 * np.array(to_rgb(LEFT))).max(axis=-1) < 3).sum())
            for part in np.split(drawn[:int(0.9 * len(drawn))], 2, axis=1)]


def test_the_window_shows_a_person_and_takes_them_away():
    pyplot.switch_backend('agg')
    window = Window(H36M, COCO, SIZE, 'a clip', 0)
    picture = np.full((320, 240, 3), 200, np.uint8)
    pose = np.random.default_rng(0).uniform(0, 1, (17, 3)).astype(np.float32)
    window.show(picture, 3, STANDS[0, :, :2], pose)
    left, right = blue(window)
    assert left > 50 and right > 50
    window.show(picture, 4, None, None)
    assert blue(window) == [0, 0]
    window.show(picture, 5, STANDS[0, :, :2], pose)
    assert blue(window) == [left, right]
    window.close()
    assert window.closed and not pyplot.get_fignums()
    window.show(picture, 6, None, None)
    window.respond()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which('Xvfb'), reason='needs Xvfb')
def test_a_window_on_a_screen(trained, clip):
    pytest.importorskip('tkinter')
    screen = subprocess.Popen(['Xvfb', ':93', '-screen', '0', '1200x700x24'], stderr=subprocess.DEVNULL)
    try:
        time.sleep(1)
        done = subprocess.run([sys.executable, 'run_ktpformer.py', '-c', trained[0], '--evaluate', 'best.bin',
                               '--predict', clip, '--live', '--device', 'cpu'], capture_output=True, text=True,
                              cwd=Path(__file__).parents[1], env={**os.environ, 'DISPLAY': ':93'}, check=True)
    finally:
        screen.kill()
        screen.wait()
    assert 'or the window is closed' in done.stdout and 'somebody in ' in done.stdout and done.stderr == ''


@pytest.mark.slow
@pytest.mark.skipif(not REAL.exists(), reason='the recording is not there')
def test_a_real_person_is_followed(lift):
    got, out = lift('live.npz', REAL, '--live')
    assert len(got['poses']) and 'scaled by' in out
    assert np.isfinite(got['poses']).all() and got['keypoints_seen'].mean() > 0.6  # 5 of 17 are made of others


def test_what_was_kept_is_forgotten_where_no_picture_came(tmp_path):
    """A camera that stalls: frames from before would stand beside those from after, as if they followed each other."""
    keypoints = stream(frames=9)
    for number in range(9):
        keypoints.add(seen_at(number), number / 10)
    assert len(keypoints.add(seen_at(30), 10.0).screen) == 1
    assert len(keypoints.add(seen_at(30), 10.9).screen) == 2
