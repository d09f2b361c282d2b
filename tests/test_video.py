"""Films: what is written is what is read back, and every failure is one line."""

import sys

import numpy as np
import pytest
from PIL import Image

from common.drawing.video import read_video, write_film
from common.errors import FileError


def frames_of(count, size=(48, 64)):
    for number in range(count):
        frame = np.zeros((*size, 3), np.uint8)
        frame[:, :32], frame[:, 32:] = (4 * number, 0, 0), (0, 0, 200)
        yield frame


@pytest.fixture(scope='module')
def clip(tmp_path_factory):
    """Write twenty frames, 25 a second, 64 × 48; the red of the left half is four times the frame's number."""
    pytest.importorskip('av')
    path = tmp_path_factory.mktemp('video') / 'clip.mp4'
    write_film(path, frames_of(20), 25, bitrate=2000)
    return path


def test_mp4_is_read_back_frame_by_frame(clip):
    with read_video(clip) as film:
        assert film.fps == 25 and film.size == (64, 48)
        frames = list(film.frames)
    assert len(frames) == 20
    assert [frame[24, 10, 0] for frame in frames] == pytest.approx(np.arange(20) * 4, abs=6)
    assert all(abs(int(frame[24, 50, 2]) - 200) < 8 for frame in frames)


def test_frames_are_skipped_stepped_and_scaled(clip):
    with read_video(clip, largest=32, skip=5, step=4) as film:
        frames = list(film.frames)
        assert film.size == (32, 24)
    assert [frame[12, 5, 0] for frame in frames] == pytest.approx([20, 36, 52, 68], abs=6)
    assert frames[0].shape == (24, 32, 3)


def test_nothing_is_read_after_the_block(clip):
    with read_video(clip) as film:
        assert next(film.frames).shape == (48, 64, 3)
    assert len(list(film.frames)) == 0


def test_one_frame_can_be_written(tmp_path):
    for suffix in ('gif', 'png'):
        write_film(tmp_path / f'one.{suffix}', frames_of(1), 25)
        with Image.open(tmp_path / f'one.{suffix}') as picture:
            assert picture.size == (64, 48)


def test_a_strip_stacks_its_frames(tmp_path):
    write_film(tmp_path / 'a.png', frames_of(3), 25)
    with Image.open(tmp_path / 'a.png') as strip:
        assert strip.size == (64, 144)
        assert [strip.getpixel((5, 48 * k + 9))[0] for k in range(3)] == [0, 4, 8]


@pytest.mark.parametrize('fps', [10, 24, 30, 50, 60, 120])
def test_a_gif_lasts_as_long_as_its_frames(tmp_path, fps):
    """Times are rounded to hundredths of a second, but do not drift; what is too fast to be shown is left out."""
    write_film(tmp_path / 'a.gif', frames_of(60), fps)
    with Image.open(tmp_path / 'a.gif') as film:
        durations = []
        for number in range(film.n_frames):
            film.seek(number)
            durations.append(film.info['duration'])
    assert min(durations) >= 20
    assert sum(durations) == pytest.approx(1000 * 60 / fps, abs=30)
    assert (film.n_frames == 60) == (fps <= 50)


def test_a_gif_keeps_flat_colours_and_what_does_not_change(tmp_path):
    write_film(tmp_path / 'a.gif', frames_of(4), 25)
    with Image.open(tmp_path / 'a.gif') as film:
        film.seek(3)
        assert film.convert('RGB').getpixel((50, 24)) == (0, 0, 200)


def test_frames_of_a_film_have_palettes_of_their_own(tmp_path):
    random = np.random.default_rng(0)
    noisy = [random.integers(0, 255, (30, 30, 3), dtype=np.uint8) // (1, 1, 1 + 9 * k) for k in range(3)]
    write_film(tmp_path / 'a.gif', [frame.astype(np.uint8) for frame in noisy], 10, drawn=False)
    with Image.open(tmp_path / 'a.gif') as film:
        for number, frame in enumerate(noisy):
            film.seek(number)
            assert np.abs(np.asarray(film.convert('RGB')).astype(int) - frame).mean() < 25


def test_an_odd_side_of_an_mp4_is_cut(tmp_path):
    pytest.importorskip('av')
    write_film(tmp_path / 'a.mp4', frames_of(3, (49, 65)), 25)
    with read_video(tmp_path / 'a.mp4') as film:
        assert film.size == (64, 48)


# ---- failures ---------------------------------------------------------------------------------------------------


def one_line(error):
    assert '\n' not in str(error.value)
    return str(error.value)


def test_videos_that_cannot_be_read_are_refused(tmp_path, clip):
    empty, garbage, cut = tmp_path / 'empty.mp4', tmp_path / 'garbage.mp4', tmp_path / 'cut.mp4'
    empty.touch()
    garbage.write_bytes(np.random.default_rng(0).bytes(5000))
    cut.write_bytes(clip.read_bytes()[:600])
    for path in (empty, garbage, cut):
        with pytest.raises(FileError, match='not a readable video') as error, read_video(path):
            pass
        assert str(path) in one_line(error)
    with pytest.raises(FileError, match='is missing'), read_video(tmp_path / 'none.mp4'):
        pass
    with pytest.raises(FileError, match='not a file'), read_video(tmp_path):
        pass
    with pytest.raises(FileError, match='no frames after the first 20'), read_video(clip, skip=20):
        pass


def test_a_missing_encoder_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'av', None)
    with pytest.raises(FileError, match='pip install av') as error:
        write_film(tmp_path / 'a.mp4', frames_of(2), 25)
    one_line(error)
    with pytest.raises(FileError, match='pip install av'), read_video(tmp_path / 'a.mp4'):
        pass
    write_film(tmp_path / 'a.gif', frames_of(2), 25)
    assert [path.name for path in tmp_path.iterdir()] == ['a.gif']


def test_an_unwritable_place_leaves_nothing(tmp_path):
    for name in ('none/a.gif', 'a.avi'):
        with pytest.raises(FileError, match='cannot write'):
            write_film(tmp_path / name, frames_of(2), 25)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('suffix', ['gif', 'mp4', 'png'])
def test_a_film_that_breaks_off_leaves_the_old_one(tmp_path, suffix):
    if suffix == 'mp4':
        pytest.importorskip('av')
    path = tmp_path / f'a.{suffix}'
    path.write_text('old')

    def broken():
        yield from frames_of(3)
        raise FileError('the video breaks off')

    with pytest.raises(FileError, match='breaks off'):
        write_film(path, broken(), 25)
    assert path.read_text() == 'old'
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
