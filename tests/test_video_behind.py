"""A video behind a user's keypoints: which of its frames, at what speed, and what it tells that their file does not."""

import json

import keypoint_files as files
import numpy as np
import pytest
from test_predict import clip

from common.drawing import pictures
from common.drawing.video import frames_at, write_film
from common.storage.npz import read_npz

FRAMES, FPS, SIZE = 60, 25, (500, 501)


@pytest.fixture
def film(run, trained, tmp_path, monkeypatch):
    """film(numbers, *flags, ...) -> (what the film shows, members of the npz, lines of the csv, what was said).

    The keypoints are those of as many frames of a walk, in an AlphaPose file under these numbers. Frame N of the video
    is of grey 4 * N.
    """
    pytest.importorskip('av')
    shown = {}

    def render_motion(output, skeleton, panels, fps, *, video, numbers, **others):
        behind = [round(float(image.mean()) / 4) for image in video]
        shown.update(fps=fps, behind=behind, rows=len(panels['prediction']), first=int(numbers[0]))
        return len(shown['behind'])
    monkeypatch.setattr(pictures, 'render_motion', render_motion)

    def main(numbers, *flags, status=0, size=SIZE):
        greys = (np.full((size[1] // 2 * 2, size[0], 3), 4 * k, np.uint8) for k in range(FRAMES))
        write_film(tmp_path / 'v.mp4', greys, FPS, 4000)
        files.alphapose(tmp_path / 'in.json', clip(len(numbers))[1] / 2)
        entries = json.loads((tmp_path / 'in.json').read_text())
        (tmp_path / 'in.json').write_text(json.dumps([
            entry | {'image_id': f'{number}.jpg'} for entry, number in zip(entries, numbers, strict=True)]))
        got, out, err = run('-c', trained[0], '--evaluate', 'best.bin', '--predict', tmp_path / 'in.json', '--layout',
                            'h36m', '--output', tmp_path / 'o.npz', '--csv', tmp_path / 'o.csv', '--device', 'cpu',
                            '--render', '--viz-output', tmp_path / 'o.mp4', '--viz-video', tmp_path / 'v.mp4', *flags)
        assert got == status, err
        if status:
            return err
        return shown, read_npz(tmp_path / 'o.npz'), (tmp_path / 'o.csv').read_text().splitlines(), out
    return main


def seconds(lines):
    return [float(line.split(',')[1]) for line in lines[1:]]


def test_a_person_who_enters_later_is_drawn_where_they_are(film):
    shown, got, lines, out = film(range(37, 57))
    assert shown == {'fps': 25, 'rows': 20, 'first': 37, 'behind': list(range(37, 57))}
    assert got['frame'].tolist() == list(range(37, 57))
    np.testing.assert_allclose(got['seconds'], np.arange(37, 57) / 25)
    np.testing.assert_allclose(seconds(lines), got['seconds'], atol=1e-4)
    assert got['size'].tolist() == [500, 500]
    assert 'at 25 fps, as the video, 500×500 pixels' in out
    assert 'its frame 37 is drawn behind frame 37 of the keypoints, their first, and so on' in out
    assert 'is it the right video' not in out


def test_of_every_second_frame_every_second_is_shown(film):
    shown, got, lines, out = film(range(10, 50, 2))
    assert shown == {'fps': 12.5, 'rows': 20, 'first': 10, 'behind': list(range(10, 50, 2))}
    assert got['fps'] == 12.5
    np.testing.assert_allclose(seconds(lines), np.arange(10, 50, 2) / 25, atol=1e-4)
    assert 'at 25 fps, as the video, one in 2 of them: 12.5 a second' in out


def test_frames_without_anybody_are_shown_too(film):
    shown, *_ = film([3, 4, 5, 9, 10, 12])
    assert shown['behind'] == list(range(3, 13))


def test_flags_win_over_the_video(film):
    shown, got, lines, _ = film(range(5, 15), '--fps', 50, '--image-size', 520, 520, '--viz-skip', 20)
    assert shown == {'fps': 50, 'rows': 10, 'first': 5, 'behind': list(range(20, 30))}
    assert got['size'].tolist() == [520, 520]
    assert seconds(lines)[1] == pytest.approx(6 / 50)
    assert film(range(5, 15), '--viz-skip', 0)[0]['behind'] == list(range(10))


def test_numbers_that_count_from_one(film):
    shown, *_, out = film(range(1, FRAMES + 1))
    assert shown['behind'] == list(range(FRAMES))
    assert 'they are taken to count from 1 (--viz-skip says which frame is the first)' in out


def test_a_video_that_is_shorter_or_of_another_shape_is_told(film):
    shown, *_, out = film(range(50, 70))
    assert shown['behind'] == list(range(50, 60))
    assert 'it ends before them, with frame 59' in out
    err = film(range(100, 120), status=1)
    assert 'v.mp4 has 60 frames and the keypoints begin with frame 100: --viz-skip N says which' in err
    *_, out = film(range(10), '--image-size', 500, 501, size=(800, 450))
    assert 'has pictures of 800x450, the keypoints are in pixels of 500x501: is it the right video?' in out


def test_frames_by_number():
    def at(numbers, total=10):
        return list(frames_at(iter(np.arange(total)), numbers))
    assert at([0, 1, 2]) == [0, 1, 2]
    assert at([3, 5, 5, 9]) == [3, 5, 5, 9]
    assert at([8, 9, 10, 11]) == [8, 9]
    assert at([10]) == at([]) == []
