"""--predict of videos: keypoints found once and kept, times, turned pictures, folders, and what is refused."""

import sys
import types
import wave
from fractions import Fraction

import numpy as np
import pytest
from drawn_people import person, walking, write_video

from common.commands import videos
from common.commands.videos import rate_of
from common.detectors import videos_in
from common.drawing.video import read_video
from common.errors import FileError
from common.keypoints import detected, read_track
from common.storage.npz import read_npz, write_npz

av = pytest.importorskip('av')
LENGTH = 4


@pytest.fixture(scope='module')
def clip(tmp_path_factory):
    """Write a video of the drawn person; return its path and the keypoints (T, 17, 2) in pixels."""
    frames, truth = walking(LENGTH)
    path = tmp_path_factory.mktemp('clip') / 'clip.mp4'
    write_video(path, frames)
    return path, truth


class Told:
    """A detector that sees `people` (N, 17, 3) in the n-th frame, whatever that shows."""

    def __init__(self, *people, name='told'):
        self.people, self.name, self.frames = people, name, []

    def layout(self, keypoints):
        return 'coco'

    def detect(self, frames):
        for number, frame in enumerate(frames):
            self.frames.append(frame)
            yield self.people[min(number, len(self.people) - 1)]


@pytest.fixture
def told(monkeypatch):
    """told(*people) puts a detector that sees them in the place of MoveNet, and returns it."""
    def main(*people):
        detector = Told(*people)
        monkeypatch.setattr(videos, 'open_detector', lambda *_: detector)
        return detector
    return main


def scored(points, score=0.9):
    return np.concatenate([points, np.full((*points.shape[:-1], 1), score)], axis=-1)


STANDS = scored(person(240, 320)[1])[None]  # one person
NOBODY = np.zeros((0, 17, 3))


@pytest.fixture
def lift(run, trained, tmp_path):
    """lift(input, *flags) -> (members of the npz, what the program said)."""
    def main(source, *flags):
        output = tmp_path / 'out.npz'
        status, out, err = run('-c', trained[0], '--evaluate', 'best.bin', '--predict', source, '--output', output,
                               '--device', 'cpu', *flags)
        assert (status, err) == (0, ''), err
        return read_npz(output), out
    return main


@pytest.fixture
def bad(refused, trained, tmp_path):
    """bad(status, input, *flags) -> the one line of a refusal that leaves no output."""
    def main(status, source, *flags):
        line = refused(status, '-c', trained[0], '--evaluate', 'best.bin', '--predict', source, '--output',
                       tmp_path / 'out.npz', '--device', 'cpu', *flags)
        assert not (tmp_path / 'out.npz').exists()
        return line
    return main


# ---- a video ----------------------------------------------------------------------------------------------------


def test_a_video_is_lifted_and_its_keypoints_are_kept(lift, clip, tmp_path):
    path, truth = clip
    got, out = lift(path)
    assert 'MoveNet Thunder' in out and 'frames a second' in out and f'somebody in {LENGTH} of {LENGTH} frames' in out
    assert got['fps'] == 25 and got['size'].tolist() == [240, 320]
    np.testing.assert_allclose(got['seconds'], np.arange(LENGTH) / 25)
    found = read_npz(tmp_path / 'out.keypoints.npz')
    assert found['keypoints'].shape == (LENGTH, 1, 17, 2) and found['scores'].shape == (LENGTH, 1, 17)
    assert np.linalg.norm(found['keypoints'][:, 0, [5, 6, 11, 12]] - truth[:, [5, 6, 11, 12]], axis=-1).max() < 16
    again, out = lift(path)
    assert 'saw in' in out and 'frames a second' not in out
    (tmp_path / 'renamed.npz').write_bytes((tmp_path / 'out.keypoints.npz').read_bytes())
    given, out = lift(tmp_path / 'renamed.npz')
    assert 'clip.mp4 seen by MoveNet Thunder 4, layout coco' in out
    for name in ('poses', 'world', 'keypoints', 'seconds', 'fps', 'size'):
        np.testing.assert_array_equal(again[name], got[name])
        np.testing.assert_array_equal(given[name], got[name])


def test_another_video_or_detector_is_looked_at_anew(lift, clip, told, tmp_path):
    path = tmp_path / 'clip.mp4'
    path.write_bytes(clip[0].read_bytes())
    detector = told(STANDS)
    lift(path)
    lift(path)
    assert len(detector.frames) == LENGTH
    write_video(path, walking(3)[0])
    lift(path)
    assert len(detector.frames) == LENGTH + 3
    detector.name = 'another'
    lift(path)
    assert len(detector.frames) == LENGTH + 6


def test_what_else_lies_where_keypoints_go_stays(bad, clip, told, tmp_path):
    told(STANDS)
    write_npz(tmp_path / 'out.keypoints.npz', keypoints=np.zeros((2, 17, 2)))
    before = (tmp_path / 'out.keypoints.npz').read_bytes()
    assert 'choose another --output' in bad(1, clip[0])
    assert (tmp_path / 'out.keypoints.npz').read_bytes() == before


def test_an_unsaid_output_is_not_written_over_what_else_lies_there(run, trained, clip, told, tmp_path):
    told(STANDS)
    video, output = tmp_path / 'clip.mp4', tmp_path / 'clip.npz'
    video.write_bytes(clip[0].read_bytes())
    flags = ['-c', trained[0], '--evaluate', 'best.bin', '--predict']
    assert run(*flags, video)[0] == run(*flags, video)[0] == 0  # what it became before is made again
    write_npz(tmp_path / 'own.npz', keypoints=read_npz(output)['keypoints'])
    other, made, own = tmp_path / 'clip.mov', output.read_bytes(), (tmp_path / 'own.npz').read_bytes()
    other.write_bytes(clip[0].read_bytes())
    for video_of, source, content in ((other, other, made), (video, video, own), (video, tmp_path, own),
                                      (video, video, b'no npz')):
        output.write_bytes(content)
        status, out, err = run(*flags, source)
        assert status == 1 and f'{output} is there already and was not made of {video_of}' in out + err
        assert output.read_bytes() == content
        other.unlink(missing_ok=True)
    assert run(*flags, video, '--output', output)[0] == 0  # whoever names it means it
    (tmp_path / 'clip_1.npz').write_bytes(b'mine')
    status, _, err = run(*flags, video, '--person', 'all')
    assert status == 1 and 'clip_1.npz is there already' in err and (tmp_path / 'clip_1.npz').read_bytes() == b'mine'


def test_a_folder_that_takes_no_output(refused, clip, tmp_path):
    video = tmp_path / 'clip.mp4'
    video.write_bytes(clip[0].read_bytes())
    (tmp_path / 'clip.npz').mkdir()
    assert refused(1, '--predict', video).endswith('clip.npz: it is a folder; name another file with --output')


def test_a_turned_video_stands_upright(lift, told, tmp_path):
    """A phone that is held upright writes lying pictures, and how they are to be turned."""
    frames, _ = walking(2)
    write_video(tmp_path / 'phone.mp4', [np.rot90(frame) for frame in frames], turned=True)
    detector = told(STANDS)
    got, _ = lift(tmp_path / 'phone.mp4')
    assert got['size'].tolist() == [240, 320]
    assert np.abs(detector.frames[0].astype(int) - frames[0]).mean() < 8


@pytest.mark.parametrize('across, down', [(2, 2), (1, 2)])
def test_pictures_that_change_their_size_or_shape(tmp_path, across, down):
    whole, _ = walking(3)
    for name, frames in (('a', whole), ('b', [frame[::down, ::across] for frame in whole])):
        with av.open(str(tmp_path / f'{name}.h264'), 'w') as container:
            stream = container.add_stream('libx264', rate=25, height=frames[0].shape[0], width=frames[0].shape[1])
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), 'rgb24')))
            container.mux(stream.encode(None))
    video = tmp_path / 'both.mp4'
    video.write_bytes((tmp_path / 'a.h264').read_bytes() + (tmp_path / 'b.h264').read_bytes())
    with read_video(video) as film:
        if across == down:
            pictures = list(film.frames)
            assert [picture.shape for picture in pictures] == 6 * [whole[0].shape]
            assert np.abs(pictures[5].astype(float) - whole[2]).mean() < 10
        else:
            with pytest.raises(FileError, match=f'up to frame 3, which is {whole[0].shape[1]}×'):
                list(film.frames)


def test_uneven_frames_keep_their_times(lift, told, tmp_path):
    times = [0, 0.04, 0.2, 0.24, 0.4]
    write_video(tmp_path / 'uneven.mp4', walking(5)[0], times=times)
    told(STANDS)
    got, out = lift(tmp_path / 'uneven.mp4')
    assert 'at 10 fps on average, unevenly' in out
    np.testing.assert_allclose(got['seconds'], times, atol=0.002)
    assert got['fps'] == pytest.approx(10, rel=0.01)
    got, _ = lift(tmp_path / 'uneven.mp4', '--fps', 50)
    np.testing.assert_allclose(got['seconds'], np.arange(5) / 50)


@pytest.mark.parametrize('frames, fps', [(1, 30), (3, 240)])
def test_one_frame_and_many_a_second(lift, told, tmp_path, frames, fps):
    write_video(tmp_path / 'short.mp4', walking(frames)[0], fps=fps)
    told(STANDS)
    got, _ = lift(tmp_path / 'short.mp4')
    assert len(got['poses']) == frames and got['fps'] == pytest.approx(fps)


def test_several_people_and_frames_without_anybody(lift, clip, told):
    """Two people, one of whom is missing in a frame: --person picks by rank."""
    aside = STANDS - (60, 0, 0.2)
    told(np.concatenate([STANDS, aside]), aside, NOBODY, np.concatenate([aside, STANDS]))
    first, out = lift(clip[0])
    assert '2 people' in out
    second, _ = lift(clip[0], '--person', 2)
    assert first['present'].tolist() == [True, True, False, True]
    assert second['present'].tolist() == [True, False, False, True]
    hips = [list(first['keypoint_names']).index(name) for name in ('left_hip', 'right_hip')]
    away = (second['keypoints'] - first['keypoints'])[0, hips]
    np.testing.assert_allclose(np.abs(away), [[60, 0], [60, 0]], atol=0.01)


def test_the_film_of_a_video_has_it_behind(lift, clip, told, tmp_path):
    told(STANDS)
    _, out = lift(clip[0], '--render', '--viz-output', tmp_path / 'film.png')
    assert f'{clip[0]}: its frame 0 is drawn behind frame 0 of the keypoints, their first' in out


@pytest.mark.parametrize('times, said, fps, uneven', [
    ([0, 0.1, 0.2], 10, 10, False), ([5, 5.1, 5.2], 10, 10, False), ([0, 0.1, 0.2], 25, 10, False),
    ([0, 0.033, 0.067, 0.1], 30, 30, False), ([0, 0.1, 0.5], 10, 4, True), ([0, None, 0.5], 12, 12, False),
    ([0, 0.2, 0.1], 12, 12, False), ([3], 24, 24, False), ([], None, None, False)])
def test_frames_per_second_are_those_of_the_times(times, said, fps, uneven):
    got, seconds = rate_of(times, said)
    assert got == pytest.approx(fps) if fps else got is None
    assert (seconds is not None) == uneven
    if uneven:
        np.testing.assert_allclose(seconds, times)


# ---- folders ----------------------------------------------------------------------------------------------------


def test_a_folder_is_lifted_and_gone_on_with(run, trained, clip, told, tmp_path):
    flags = ('-c', trained[0], '--evaluate', 'best.bin', '--predict', tmp_path, '--device', 'cpu')
    detector = told(STANDS)
    for name in ('a.mp4', 'c.MP4'):
        (tmp_path / name).write_bytes(clip[0].read_bytes())
    (tmp_path / 'b.mov').write_bytes(b'no video')
    status, out, err = run(*flags)
    assert status == 1 and '1 of 3 videos were not lifted: b.mov' in err and len(err.splitlines()) == 1
    assert 'b.mov: left out:' in out
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        'a.keypoints.npz', 'a.mp4', 'a.npz', 'b.mov', 'c.MP4', 'c.keypoints.npz', 'c.npz']
    (tmp_path / 'b.mov').unlink()
    (tmp_path / 'c.npz').unlink()
    before = (tmp_path / 'a.npz').stat().st_mtime_ns
    status, out, err = run(*flags)
    assert (status, err) == (0, '') and 'a.npz is there already' in out
    assert len(detector.frames) == 2 * LENGTH and (tmp_path / 'a.npz').stat().st_mtime_ns == before
    np.testing.assert_array_equal(read_npz(tmp_path / 'a.npz')['poses'], read_npz(tmp_path / 'c.npz')['poses'])


def test_what_is_no_folder_of_videos(tmp_path):
    assert videos_in(tmp_path) == [] and videos_in(tmp_path / 'none') == []
    for name in ('b.mp4', 'a.AVI', 'notes.md', '.hidden.mp4'):
        (tmp_path / name).touch()
    assert [path.name for path in videos_in(tmp_path)] == ['a.AVI', 'b.mp4']
    (tmp_path / 'a_000_keypoints.json').touch()
    assert videos_in(tmp_path) == []  # a detector's folder, with the video beside its output


def test_two_videos_for_one_output_are_refused(refused, trained, tmp_path):
    for name in ('a.mp4', 'a.mov'):
        (tmp_path / name).touch()
    line = refused(1, '-c', trained[0], '--evaluate', 'best.bin', '--predict', tmp_path)
    assert 'a.npz: rename' in line


@pytest.mark.parametrize('flags', [['--output', 'x.npz'], ['--csv', 'x.csv'], ['--export', 'x.trc'],
                                   ['--render', '--viz-output', 'x.png']])
def test_outputs_of_one_video_are_not_for_a_folder(refused, trained, tmp_path, monkeypatch, flags):
    (tmp_path / 'a.mp4').touch()
    monkeypatch.chdir(tmp_path)
    line = refused(2, '-c', trained[0], '--evaluate', 'best.bin', '--predict', tmp_path, *flags)
    assert f'{flags[-2]} is for one video' in line


# ---- what is refused --------------------------------------------------------------------------------------------


def test_a_video_without_anybody(bad, clip, told, tmp_path):
    told(NOBODY)
    assert f'told sees nobody in its {LENGTH} frames' in bad(1, clip[0])
    assert not (tmp_path / 'out.keypoints.npz').exists()


def test_files_that_are_no_video(bad, clip, told, tmp_path):
    told(STANDS)
    whole = clip[0].read_bytes()
    (tmp_path / 'cut.mp4').write_bytes(whole[:len(whole) // 3])
    (tmp_path / 'text.mkv').write_bytes(b'no video at all')
    (tmp_path / 'empty.avi').touch()
    for name in ('cut.mp4', 'text.mkv', 'empty.avi'):
        assert f'{name} is not a readable video' in bad(1, tmp_path / name)
    assert 'none.mp4 is missing' in bad(1, tmp_path / 'none.mp4')


def test_sound_alone(bad, told, tmp_path):
    told(STANDS)
    with wave.open(str(tmp_path / 'sound.wav'), 'wb') as sound:
        sound.setparams((1, 2, 8000, 0, 'NONE', ''))
        sound.writeframes(bytes(1600))
    (tmp_path / 'sound.wav').rename(tmp_path / 'sound.mp4')
    assert 'sound.mp4 holds no video' in bad(1, tmp_path / 'sound.mp4')


def test_without_pyav(bad, clip, told, monkeypatch):
    told(STANDS)
    monkeypatch.setitem(sys.modules, 'av', None)
    assert bad(1, clip[0]).endswith('reading a video needs PyAV: pip install av')


def test_an_mp4_without_pyav_is_refused_before_anything_is_lifted(refused, trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'av', None)
    write_npz(tmp_path / 'in.npz', keypoints=np.tile(person(240, 320)[1], (4, 1, 1)), size=(240, 320))
    assert refused(1, '-c', trained[0], '--evaluate', 'best.bin', '--predict', tmp_path / 'in.npz', '--output',
                   tmp_path / 'out.npz', '--viz-output', tmp_path / 'film.mp4').endswith('pip install av')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['in.npz']


def test_flags_that_do_not_fit(bad, clip, tmp_path):
    np.save(tmp_path / 'in.npy', np.zeros((3, 17, 2)))
    assert '--image-size is not for a video' in bad(2, clip[0], '--image-size', 240, 320)
    assert 'is none' in bad(2, tmp_path / 'in.npy', '--detector', 'movenet')
    assert 'MoveNet has its own' in bad(2, clip[0], '--detector-files', 'a.onnx')
    assert 'nothing is downloaded' in bad(2, clip[0], '--detector', 'rtmlib')


GOOD = {'keypoints': np.full((2, 1, 17, 2), 5.0), 'scores': np.ones((2, 1, 17)), 'detector': 'd', 'video': 'v.mp4',
        'size': (9, 9)}


@pytest.mark.parametrize('change, said', [
    ({'keypoints': np.ones((2, 17, 2))}, 'expected (frames, people'),
    ({'keypoints': np.ones((0, 1, 17, 2))}, 'expected (frames, people'),
    ({'scores': np.ones((2, 17))}, 'expected (frames, people'),
    ({'scores': np.array(['a'])}, 'scores is no array of real numbers'),
    ({'seconds': np.array([0.0])}, 'seconds is not a rising time'),
    ({'seconds': np.array([1.0, 0.0])}, 'seconds is not a rising time'),
    ({'seconds': np.array([0.0, np.inf])}, 'seconds is not a rising time'),
    ({'fps': np.array([1.0, 2.0])}, 'fps is'), ({'size': np.array([1.0])}, "picture's size")])
def test_damaged_keypoints_of_ours(bad, tmp_path, change, said):
    write_npz(tmp_path / 'kept.npz', **(GOOD | change))
    assert said in bad(1, tmp_path / 'kept.npz')


def test_keypoints_are_written_and_read_back(tmp_path):
    people = [STANDS, NOBODY, np.concatenate([STANDS + (1, 0, 0), STANDS + (90, 0, -0.5)])]
    detected.write(tmp_path / 'k.npz', people, size=np.array([240, 320]), fps=None, detector='d', video='v.mp4',
                   sha256='s', layout=None, seconds=np.array([0, 0.1, 0.4]))
    assert detected.is_of(read_npz(tmp_path / 'k.npz'), 'd', 's')
    assert not detected.is_of(read_npz(tmp_path / 'k.npz'), 'd', 't')
    track = read_track(tmp_path / 'k.npz')
    np.testing.assert_allclose(track.points[[0, 2]], [STANDS[0, :, :2], STANDS[0, :, :2] + (1, 0)], rtol=1e-6)
    assert np.isnan(track.points[1]).all() and (track.scores[1] == 0).all()
    assert track.seconds is not None and track.seconds.tolist() == [0, 0.1, 0.4]
    assert track.size == (240, 320) and track.fps is None


# ---- rtmlib, replaced by what answers like it -------------------------------------------------------------------


class Model:
    """As a model of rtmlib: called with a picture in BGR, it answers what `answer` says."""

    answer = staticmethod(lambda picture, **more: None)

    def __init__(self, file, backend, device):
        assert (backend, device) == ('onnxruntime', 'cpu')
        print('load', file)
        self.model_input_size = None
        shape = types.SimpleNamespace(shape=[1, 3, 256, 192])
        self.session = types.SimpleNamespace(get_inputs=lambda: [shape])

    def __call__(self, picture, **more):
        return type(self).answer(self, picture, **more)


@pytest.fixture
def rtmlib(monkeypatch, tmp_path):
    """Put models into the place of the package's and return it; a.onnx and b.onnx are files."""
    package = types.ModuleType('rtmlib')
    for name in ('YOLOX', 'RTMPose', 'RTMO'):
        setattr(package, name, type(name, (Model,), {}))
    runtime = types.ModuleType('onnxruntime')
    runtime.get_available_providers = lambda: ['CPUExecutionProvider']
    monkeypatch.setitem(sys.modules, 'rtmlib', package)
    monkeypatch.setitem(sys.modules, 'onnxruntime', runtime)
    for name in ('a.onnx', 'b.onnx'):
        (tmp_path / name).write_bytes(name.encode())
    return package


def test_rtmlib_of_two_files(lift, clip, rtmlib, tmp_path):
    seen, boxes = [], [np.array([[0, 0, 9, 9.0]])] * 2 + [np.array([])] + [np.array([[0, 0, 9, 9.0]])]

    def find(model, picture):
        assert model.model_input_size == (256, 192)
        seen.append(picture)
        return boxes[len(seen) - 1]

    def tell(model, picture, bboxes):
        assert model.model_input_size == (192, 256) and len(bboxes) == 1
        return STANDS[..., :2], STANDS[..., 2]

    rtmlib.YOLOX.answer, rtmlib.RTMPose.answer = find, tell
    got, out = lift(clip[0], '--detector', 'rtmlib', '--detector-files', f'{tmp_path}/a.onnx,{tmp_path}/b.onnx')
    assert got['present'].tolist() == [True, True, False, True] and 'layout coco' in out
    assert seen[0][5, 5].tolist() == pytest.approx([195, 205, 205], abs=4)  # blue first
    assert 'load' not in out


def test_rtmlib_of_one_file_and_with_nobody(bad, clip, rtmlib, tmp_path):
    rtmlib.RTMO.answer = lambda model, picture: (np.zeros((1, 17, 2)), np.zeros((1, 17)))
    assert 'sees nobody' in bad(1, clip[0], '--detector', 'rtmlib', '--detector-files', tmp_path / 'a.onnx')


def test_rtmlib_with_what_it_cannot_use(bad, clip, rtmlib, tmp_path, monkeypatch):
    flags = (clip[0], '--detector', 'rtmlib', '--detector-files')
    assert 'c.onnx is missing' in bad(1, *flags, tmp_path / 'c.onnx')
    rtmlib.RTMO.answer = lambda model, picture: picture[0, 0, 0, 0, 0]
    assert 'cannot be used: too many indices' in bad(1, *flags, tmp_path / 'a.onnx')
    rtmlib.RTMO.__init__ = lambda self, file, **more: 1 / 0
    assert 'a.onnx is not a readable ONNX file (division by zero)' in bad(1, *flags, tmp_path / 'a.onnx')
    monkeypatch.setitem(sys.modules, 'rtmlib', None)
    assert bad(1, *flags, tmp_path / 'a.onnx').endswith('pip install rtmlib onnxruntime')


def test_pixels_that_are_wider_than_high_make_nobody_thin(tmp_path, run, trained):
    """1440 by 1080 pixels of 16 by 9, as camcorders write them; keypoints of a file are told that they may differ."""
    frames, keypoints = walking(3, 240, 320)
    narrow = [np.ascontiguousarray(frame[:, ::2]) for frame in frames]
    with av.open(str(tmp_path / 'wide.mp4'), 'w') as container:
        stream = container.add_stream('libx264', rate=25, height=320, width=120)
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)
        for frame in narrow:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, 'rgb24')))
        container.mux(stream.encode(None))
    with read_video(tmp_path / 'wide.mp4') as film:
        pictures = list(film.frames)
        assert (film.size, film.stretch) == ((240, 320), 2)
    assert np.abs(pictures[0].astype(float) - frames[0]).mean() < 15
    with read_video(tmp_path / 'wide.mp4', largest=160) as film:
        assert film.size == (120, 160)
    np.savez(tmp_path / 'k.npz', keypoints=keypoints)
    status, out, err = run('-c', trained[0], '--evaluate', 'best.bin', '--predict', tmp_path / 'k.npz', '--layout',
                           'coco', '--output', tmp_path / 'o.npz', '--render', '--viz-output', tmp_path / 'o.png',
                           '--viz-video', tmp_path / 'wide.mp4', '--as-is', '--device', 'cpu')
    assert (status, err) == (0, '')
    assert 'has pixels 2 times as wide as high, and is taken as 240×320' in out


def test_a_video_that_is_too_long_is_not_looked_at(lift, clip, told, monkeypatch, bad):
    told(STANDS)
    monkeypatch.setattr(videos, 'MOST_FRAMES', 2)
    assert 'it goes on for more than 2 frames; cut it into parts' in bad(1, clip[0])
