"""--predict from file to file: every layout and kind of file, lengths, blending, gaps, outputs, and what is refused."""

import json
import resource
import time
from types import SimpleNamespace

import keypoint_files as files
import numpy as np
import pytest
import torch
from conftest import SHARED, SMALL, h36m_trees, write_h36m

from common.datasets.h36m import CAMERAS
from common.datasets.synthetic import motion
from common.geometry.camera import normalise
from common.models import build_model
from common.models.lifter import Lifter
from common.models.lifting import blend, predictions
from common.sampler import TestWindows
from common.sequences import Sequence
from common.skeleton import BODY25, BODY25B, COCO, H36M, HALPE26, MPII, SKELETONS
from common.storage.npz import read_npz
from common.store import SequenceStore
from common.windows import blend_weights, first_cover, overlapping_starts, test_starts

F = 9  # frames of a window of the fixture `trained`
SIZE = ['--image-size', '1000', '1002']
REAL = SHARED / 'real2d' / 'pose2sim'


def clip(frames, seed=3):
    """Return root-relative poses (T, 17, 3), metres in camera axes, and pixels (T, 17, 2) of a walk."""
    camera = CAMERAS['S9'][0]
    world = motion('Walking', 1.0, max(frames, 2), np.random.default_rng(seed))[:frames].astype(np.float64)
    seen = camera.from_world(world)
    return seen - seen[:, :1], camera.project(world)


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
        (tmp_path / 'results').mkdir(exist_ok=True)
        output = tmp_path / 'results' / 'out.npz'
        line = refused(status, '-c', trained[0], '--evaluate', 'best.bin', '--predict', source, '--output', output,
                       '--device', 'cpu', *flags)
        assert not list(output.parent.iterdir())
        return line
    return main


def error(poses, truth):
    return 1000 * np.linalg.norm(poses - poses[:, :1] - truth, axis=-1).mean()


KINDS = {'alphapose.json': files.alphapose, 'openpose': files.openpose, 'mmpose.json': files.mmpose,
         'mmpose_list.json': files.mmpose_list, 'detectron.npz': files.detectron,
         'custom.npz': files.custom, 'array.npz': files.npz, 'array.npy': files.npy}


@pytest.mark.parametrize('name', KINDS)
@pytest.mark.parametrize('layout', ['h36m', '3dhp'])
def test_layouts_with_all_joints_predict_the_same_from_every_kind_of_file(lift, tmp_path, name, layout):
    _truth, pixels = clip(20)
    files.npy(tmp_path / 'reference.npy', pixels)
    expected, _ = lift(tmp_path / 'reference.npy', '--layout', 'h36m', *SIZE)
    KINDS[name](tmp_path / name, pixels if layout == 'h36m' else files.to_3dhp(pixels))
    for asked in (layout, 'auto'):  # auto sees by the bones that 17 keypoints are not COCO's
        got, out = lift(tmp_path / name, '--layout', asked, *SIZE)
        assert np.abs(got['poses'] - expected['poses']).max() < 1e-3
        assert f'layout {layout}' in out


@pytest.mark.parametrize('layout', [COCO, HALPE26, BODY25, BODY25B, MPII], ids=lambda layout: layout.name)
@pytest.mark.parametrize('write', [files.alphapose, files.openpose, files.mmpose, files.npy],
                         ids=lambda write: write.__name__)
def test_other_layouts_predict_nearly_the_same(lift, tmp_path, layout, write):
    truth, pixels = clip(20)
    files.npy(tmp_path / 'reference.npy', pixels)
    expected, _ = lift(tmp_path / 'reference.npy', *SIZE)
    path = tmp_path / ('folder' if write is files.openpose else 'in.npy' if write is files.npy else 'in.json')
    write(path, files.in_layout(pixels, layout))
    got, out = lift(path, *SIZE)
    assert f'layout {layout.name}' in out
    print(f'{layout.name}: {error(got["poses"], truth):.1f} mm, h36m {error(expected["poses"], truth):.1f} mm')
    assert error(got['poses'], truth) < error(expected['poses'], truth) + 60


@pytest.mark.parametrize('write, layout', [(files.detectron, COCO), (files.custom, COCO)])
def test_files_that_know_their_picture_need_no_size(lift, tmp_path, write, layout):
    _, pixels = clip(12)
    write(tmp_path / 'in.npz', files.in_layout(pixels, layout))
    got, out = lift(tmp_path / 'in.npz')
    assert '1000×1002 pixels' in out
    assert 'layout coco' in out
    assert got['size'].tolist() == [1000, 1002]


def test_detectron_takes_the_best_box_and_its_low_scores(lift, tmp_path):
    _, pixels = clip(12)
    files.detectron(tmp_path / 'in.npz', pixels)
    got, out = lift(tmp_path / 'in.npz', '--layout', 'h36m')
    np.testing.assert_allclose(got['keypoints'], pixels, atol=1e-3)
    assert 'person: the only one' in out  # a second box on the same person


@pytest.mark.parametrize('frames', [1, F - 1, F, F + 1, 3 * F + 2])
@pytest.mark.parametrize('flags', [[], ['--overlap', '0'], ['--overlap', str(F - 1)], ['--causal']], ids=' '.join)
def test_every_frame_once_whatever_the_length(lift, tmp_path, frames, flags):
    _, pixels = clip(frames)
    files.npz(tmp_path / 'in.npz', pixels)
    got, _ = lift(tmp_path / 'in.npz', '--layout', 'h36m', *flags)
    assert got['frame'].tolist() == list(range(frames))
    assert got['poses'].shape == got['world'].shape == (frames, 17, 3)
    assert got['poses'].dtype == np.float32
    assert np.isfinite(got['poses']).all()


def test_frames_are_those_of_the_source(lift, tmp_path):
    """AlphaPose leaves frames without anybody out; they come back, between their neighbours."""
    _, pixels = clip(20)
    files.alphapose(tmp_path / 'in.json', pixels)
    whole = json.loads((tmp_path / 'in.json').read_text())
    (tmp_path / 'in.json').write_text(json.dumps([e for t, e in enumerate(whole) if t not in (0, 1, 7, 8)]))
    got, out = lift(tmp_path / 'in.json', '--layout', 'h36m', *SIZE)
    assert got['frame'].tolist() == list(range(2, 20))
    assert (~got['present']).nonzero()[0].tolist() == [5, 6]
    np.testing.assert_allclose(got['keypoints'][5], pixels[6] + (pixels[9] - pixels[6]) / 3, atol=1e-3)
    assert 'interpolated in time: 34 of the 306 keypoints that are used' in out


def test_predictions_are_those_of_the_evaluation(lift, run, trained, tmp_path):
    """Without overlap, prediction is evaluation: windows, mirroring, and the last window's overlap."""
    positions, detections = h36m_trees({'S9': {'Walking': 40}})
    write_h36m(tmp_path, positions, detections)
    status, _, err = run('-c', trained[0], '--evaluate', 'best.bin', '--data', tmp_path, '-ste', 'S9', '-k', 'gt',
                         '--export-predictions', tmp_path / 'e.npz', '--device', 'cpu')
    assert status == 0, err
    exported = read_npz(tmp_path / 'e.npz')
    np.save(tmp_path / 'in.npy', detections['S9']['Walking'][0][:40])
    got, _ = lift(tmp_path / 'in.npy', '--overlap', 0, '--layout', 'h36m', *SIZE)
    expected = exported['prediction'][exported['camera'] == 0]
    assert np.abs(expected[:, 0]).max() > 1e-4  # the model's own root, which poses are relative to
    np.testing.assert_allclose(got['poses'], expected - expected[:, :1], atol=1e-5)


@pytest.mark.parametrize('overlap', [0, 1, 4, 8])
@pytest.mark.parametrize('length', [1, 5, 9, 10, 30])
def test_blending_keeps_what_all_windows_agree_on(length, overlap):
    start = overlapping_starts(length, F, overlap)
    truth = np.random.default_rng(0).normal(size=(length, 2, 3))
    windows = truth[np.clip(start[:, None] + np.arange(F), 0, length - 1)]
    np.testing.assert_allclose(blend(windows, start, length, overlap), truth, rtol=1e-5)


def test_without_overlap_blending_takes_the_first_window_of_each_frame():
    start = overlapping_starts(20, F, 0)
    np.testing.assert_array_equal(start, test_starts(20, F))
    windows = np.random.default_rng(0).normal(size=(len(start), F, 2, 3))
    first = first_cover(np.zeros_like(start), start, [20], F)
    np.testing.assert_allclose(blend(windows, start, 20, 0), windows[first], rtol=1e-5)


def test_blend_weights_sum_to_one_where_two_windows_overlap():
    weights = blend_weights(F, 4)
    np.testing.assert_allclose(weights[-4:] + weights[:4], 1)
    assert (weights > 0).all()


def test_blending_smooths_the_seams():
    """Two windows that disagree by 1 meet in steps, not in one."""
    windows = np.stack([np.zeros((F, 1, 1)), np.ones((F, 1, 1))])
    assert np.abs(np.diff(blend(windows, np.array([0, 5]), 14, 4)[:, 0, 0])).max() < 0.4


def test_a_constant_motion_stays_constant(lift, tmp_path):
    _, pixels = clip(1)
    np.save(tmp_path / 'in.npy', np.repeat(pixels, 40, axis=0))
    got, _ = lift(tmp_path / 'in.npy', '--layout', 'h36m', *SIZE, '--overlap', 4, '--zoom', 1)
    # A model may tell frames apart by their place in the window, every fifth frame has the same one.
    assert np.abs(got['poses'][5:25] - got['poses'][10:30]).max() < 1e-4
    got, _ = lift(tmp_path / 'in.npy', '--layout', 'h36m', *SIZE, '--causal')
    assert np.ptp(got['poses'], axis=0).max() < 1e-4


def test_causal_is_the_last_frame_of_windows_that_end_at_each(lift, trained, tmp_path):
    """Held against the model itself; what comes later changes nothing."""
    _, pixels = clip(25)
    files.npz(tmp_path / 'in.npz', pixels)
    got, out = lift(tmp_path / 'in.npz', '--layout', 'h36m', '--causal', '--zoom', 1)
    assert 'latency on cpu, one frame at a time over 200 frames: median' in out
    files.npz(tmp_path / 'cut.npz', pixels[:14])
    cut, _ = lift(tmp_path / 'cut.npz', '--layout', 'h36m', '--causal', '--zoom', 1)
    np.testing.assert_allclose(cut['poses'], got['poses'][:14], atol=1e-5)
    padded = np.concatenate([np.repeat(pixels[:1], F - 1, axis=0), pixels])
    for end in (0, 3, 24):
        files.npz(tmp_path / 'one.npz', padded[end:end + F])
        one, _ = lift(tmp_path / 'one.npz', '--layout', 'h36m', '--overlap', 0, '--zoom', 1)
        np.testing.assert_allclose(one['poses'][-1], got['poses'][end], atol=1e-5)


def test_output_says_all_it_takes_to_use_it(lift, tmp_path):
    _truth, pixels = clip(20)
    files.npz(tmp_path / 'in.npz', pixels)
    got, _out = lift(tmp_path / 'in.npz', '--layout', 'h36m', '--csv', tmp_path / 'out.csv')
    with np.load(tmp_path / 'out.npz', allow_pickle=False) as plain:
        assert set(plain.files) == set(got)
    assert tuple(got['joints']) == H36M.joints
    assert tuple(got['parents']) == H36M.parents
    assert got['fps'] == 50
    assert str(got['units']) == 'metres'
    assert 'x right, y down, z forward' in str(got['axes'])
    assert 'put on the floor' in str(got['placement'])
    assert '--predict' in str(got['command'])
    assert (got['poses'][:, 0] == 0).all()
    assert (got['world'][:, 0, :2] == 0).all()
    feet = got['world'][:, [3, 6], 2]
    np.testing.assert_allclose(feet.min(axis=1), 0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(got['world'][:, 1] - got['world'][:, 2], axis=-1),
                               np.linalg.norm(got['poses'][:, 1] - got['poses'][:, 2], axis=-1), atol=1e-5)
    lines = (tmp_path / 'out.csv').read_text().splitlines()
    assert len(lines) == 21
    assert lines[0].startswith('frame,seconds,hip_x,hip_y,hip_z,right_hip_x')
    np.testing.assert_allclose([float(v) for v in lines[3].split(',')[2:]], got['world'][2].ravel(), atol=1e-4)


@pytest.mark.parametrize('lens', [['--intrinsics', 1145, 1145, 512, 515], ['--fov', 47]], ids=lambda x: x[0])
def test_trajectory_gives_the_root_and_a_world_on_the_floor(lift, tmp_path, lens):
    _truth, pixels = clip(20)
    files.npz(tmp_path / 'in.npz', pixels)
    got, out = lift(tmp_path / 'in.npz', '--layout', 'h36m', '--trajectory', *lens)
    assert got['root'].shape == (20, 3)
    assert (got['root'][:, 2] > 0.1).all()
    assert 'least squares of the reprojection' in out
    assert got['world'][:, [3, 6], 2].min() == pytest.approx(0, abs=1e-6)
    shift = got['world'][:, 0] - np.stack([got['root'][:, 0], got['root'][:, 2], -got['root'][:, 1]], axis=1)
    assert np.ptp(shift, axis=0).max() < 1e-5


def test_low_scores_and_gaps_are_filled(lift, tmp_path):
    _, pixels = clip(20)
    scored = files.with_scores(pixels)
    scored[4:6, 3, 2] = 0.1
    scored[9, 5] = 0
    scored[12, 6, 0] = np.nan
    pixels_there = scored.copy()
    np.savez(tmp_path / 'in.npz', keypoints=pixels_there, size=[1000, 1002])
    got, out = lift(tmp_path / 'in.npz', '--layout', 'h36m')
    np.testing.assert_allclose(got['keypoints'][4, 3], pixels[3, 3] + (pixels[6, 3] - pixels[3, 3]) / 3, atol=1e-3)
    assert (~got['keypoints_seen']).sum() == 4
    assert 'interpolated in time: 4 of the 340' in out
    got, out = lift(tmp_path / 'in.npz', '--layout', 'h36m', '--min-score', '0.05')
    assert (~got['keypoints_seen']).sum() == 2


def test_a_person_away_for_two_seconds_is_named(lift, tmp_path):
    _, pixels = clip(150)
    files.openpose(tmp_path / 'in', pixels)
    for t in range(30, 95):
        (tmp_path / 'in' / f'clip_{t:012d}_keypoints.json').write_text('{"people": []}')
    got, out = lift(tmp_path / 'in', '--layout', 'h36m', *SIZE, '--fps', 30)
    assert 'nobody in frames 30 to 94, 2.2 s: what is written there is a guess' in out
    assert got['present'].sum() == 85
    assert np.isfinite(got['poses']).all()


def test_people_are_picked_by_number_or_score(lift, bad, tmp_path):
    """By number where the file has numbers, else by score over all frames; a stranger's good moment counts little."""
    _, pixels = clip(30)
    files.alphapose(tmp_path / 'in.json', pixels, idx=7)
    mine = json.loads((tmp_path / 'in.json').read_text())
    files.alphapose(tmp_path / 'in.json', 500 + pixels, idx=2)
    other = json.loads((tmp_path / 'in.json').read_text())[:20]
    (tmp_path / 'in.json').write_text(json.dumps(mine + other))
    size = ['--image-size', 2000, 2002, '--layout', 'h36m']
    got, out = lift(tmp_path / 'in.json', *size)
    np.testing.assert_allclose(got['keypoints'], pixels, atol=1e-3)
    assert "person: number 7 by the file's own count, in 30 of 30 frames of 2 people (2, 7" in out
    got, _ = lift(tmp_path / 'in.json', *size, '--person', 2)
    np.testing.assert_allclose(got['keypoints'][:20], pixels[:20] + 500, atol=1e-3)
    assert '--person 4: the file has no such person; there are 2, 7' in \
        bad(2, tmp_path / 'in.json', *size, '--person', 4)
    for entry in mine + other:
        del entry['idx']
        entry['score'] = 1.0
    for entry in other:
        entry['score'] = 2.0 if entry['image_id'] in ('6.jpg', '7.jpg') else 0.5
    (tmp_path / 'in.json').write_text(json.dumps(mine + other))
    got, out = lift(tmp_path / 'in.json', *size)
    assert 'person: the one whose score over all frames is the best, in 30 of 30 frames, of 2 people' in out
    np.testing.assert_allclose(got['keypoints'], pixels, atol=1e-3)
    assert '--person 3: the file does not number people' in bad(2, tmp_path / 'in.json', *size, '--person', 3)


def test_a_person_of_unusual_size_is_scaled(lift, tmp_path):
    """In a picture four times as large, or filling it: the same poses up to the perspective."""
    _, pixels = clip(20)
    files.npy(tmp_path / 'in.npy', pixels)
    expected, out = lift(tmp_path / 'in.npy', '--layout', 'h36m', *SIZE)
    assert 'half-widths' not in out
    np.save(tmp_path / 'in.npy', pixels + [1500, 1500])
    far, out = lift(tmp_path / 'in.npy', '--layout', 'h36m', '--image-size', 4000, 4008)
    assert 'half-widths of the picture tall; people trained on are about 0.82: scaled by' in out
    assert np.abs(far['poses'] - expected['poses']).mean() < 0.1
    np.save(tmp_path / 'in.npy', pixels - [250, 250])
    near, _ = lift(tmp_path / 'in.npy', '--layout', 'h36m', '--image-size', 500, 501, '--as-is')
    assert np.abs(near['poses'] - expected['poses']).mean() < 0.1
    _plain, out = lift(tmp_path / 'in.npy', '--layout', 'h36m', '--image-size', 500, 501, '--as-is', '--zoom', 1)
    assert 'half-widths' not in out


def refuse_cases():
    _, pixels = clip(12)
    swapped, upside = pixels[..., ::-1], np.stack([pixels[..., 0], 1002 - pixels[..., 1]], axis=-1)
    return {
        'looks normalised already': (1, normalise(pixels, 1000, 1002), []),
        'does not say how large the picture is': (2, pixels, None),
        'x and y seem to be swapped: write x first, or turn the video, or say --as-is': (1, swapped, []),
        'y seems to grow upwards: write height - y, or turn the video, or say --as-is': (1, upside, []),
        'read as layout coco, its bones have impossible relative lengths': (1, pixels, ['--layout', 'coco']),
        'with --layout h36m they would do': (1, pixels, ['--layout', '3dhp']),
        'lie outside of a picture of 300×300': (1, pixels, ['--image-size', 300, 300]),
        'give the size of the picture that the detector saw': (1, pixels, ['--image-size', 300, 300]),
        'width and height seem to be swapped: --image-size 2000 1000':
            (1, pixels + [900, 0], ['--image-size', 1000, 2000]),
        'no keypoint has a score of 0.3 or more': (1, pixels * np.nan, []),
        'there is no frame or no keypoint': (1, pixels[:0], []),
        'has 12 keypoints, which no known layout has; there are coco 17': (1, pixels[:, :12], []),
        'has 17 keypoints, but --layout mpii has 16; its bones fit h36m': (1, pixels, ['--layout', 'mpii']),
        'there is no frame or no keypoint in it': (1, np.zeros((0, 17, 2)), []),
        'expected one array (frames, keypoints, 2 or 3)': (1, pixels[0], []),
        '--overlap 9: windows answer for 9 frames': (2, pixels, ['--overlap', 9]),
        '-ste other': (2, 'custom', ['-ste', 'other']),
        'are for --trajectory': (2, pixels, ['--fov', 40]),
    }


@pytest.mark.parametrize('message', refuse_cases())
def test_mistakes_are_named_with_their_remedy(bad, tmp_path, message):
    status, pixels, flags = refuse_cases()[message]
    if isinstance(pixels, str):
        files.custom(tmp_path / 'in.npz', clip(5)[1])
        assert message in bad(status, tmp_path / 'in.npz', *flags)
        return
    np.save(tmp_path / 'in.npy', pixels)
    size = [] if flags is None or '--image-size' in flags else SIZE
    assert message in bad(status, tmp_path / 'in.npy', *size, *(flags or []))


def test_as_is_lets_through_what_only_looks_wrong(lift, tmp_path):
    _, pixels = clip(12)
    np.save(tmp_path / 'in.npy', pixels[..., ::-1])
    got, _ = lift(tmp_path / 'in.npy', *SIZE, '--layout', 'h36m', '--as-is')
    np.testing.assert_allclose(got['keypoints'], pixels[..., ::-1], atol=1e-3)


TEXTS = {
    'cut off': '[{"image_id": "0.jpg", "keypoints": [1, 2,',
    'is JSON that is not read': '{"shapes": [], "imagePath": "a.jpg"}',
    'found int': '3',
    'holds nobody: its list is empty': '[]',
    'there is nobody in its 1 frames': '{"people": []}',
    'is not a list of numbers': '[{"image_id": "0.jpg", "keypoints": ["a"]}]',
    'expected x, y and score of each keypoint': '[{"image_id": "0.jpg", "keypoints": [1, 2, 3, 4, 5]}]',
    'entry 1 has no image_id': '[{"image_id": 0, "keypoints": [1, 2, 3]}, {}]',
    'some people have 1 keypoints and others 2':
        '[{"image_id": 0, "keypoints": [1, 2, 3]}, {"image_id": 1, "keypoints": [1, 2, 3, 4, 5, 6]}]',
    'frame 0 has no list called instances': '{"instance_info": [{}]}',
    'scores have shape (1,), expected one for each of 2 keypoints':
        '[{"frame_id": 1, "instances": [{"keypoints": [[1, 2], [3, 4]], "keypoint_scores": [1]}]}]',
    'there is nobody in its 0 frames': '{"instance_info": []}',
    'nested': '[' * 100000,
}


@pytest.mark.parametrize('message', TEXTS)
def test_broken_json_is_refused(bad, tmp_path, message):
    (tmp_path / 'in.json').write_text(TEXTS[message])
    assert message in bad(1, tmp_path / 'in.json', *SIZE)


def test_broken_files_are_refused(bad, tmp_path):
    assert 'none.npz is missing' in bad(1, tmp_path / 'none.npz', *SIZE)
    (tmp_path / 'empty').mkdir()
    assert 'empty holds no .json file' in bad(1, tmp_path / 'empty', *SIZE)
    (tmp_path / 'in.abc').touch()
    assert 'expected a video (.mp4, .mov, …), .json, .npz, .npy or a folder' in bad(1, tmp_path / 'in.abc', *SIZE)
    for name in ('in.npy', 'in.npz', 'in.json'):
        (tmp_path / name).write_bytes(b'\x93NUMPY\x01\x00')
        assert f'{name} is not' in bad(1, tmp_path / name, *SIZE)
    _, pixels = clip(4)
    files.openpose(tmp_path / 'two', pixels)
    (tmp_path / 'two' / 'other_000000000001_keypoints.json').write_text('{"people": []}')
    assert 'holds 2 videos: name one with -ste: clip, other' in bad(2, tmp_path / 'two', *SIZE)
    (tmp_path / 'two' / 'other_000000000001_keypoints.json').write_text('[]')
    files.detectron(tmp_path / 'd.npz', pixels)
    members = read_npz(tmp_path / 'd.npz')
    np.savez(tmp_path / 'd.npz', boxes=members['boxes'][:2], keypoints=members['keypoints'])
    assert 'boxes and keypoints are not two lists of as many frames' in bad(1, tmp_path / 'd.npz', *SIZE)


def test_unwritable_output_is_refused(refused, trained, tmp_path):
    _, pixels = clip(4)
    files.npz(tmp_path / 'in.npz', pixels)
    flags = ['-c', trained[0], '--evaluate', 'best.bin', '--predict', tmp_path / 'in.npz', '--layout', 'h36m']
    assert 'is missing or read-only' in refused(1, *flags, '--output', tmp_path / 'no' / 'out.npz')
    assert 'is missing or read-only' in \
        refused(1, *flags, '--output', tmp_path / 'out.npz', '--csv', tmp_path / 'no' / 'out.csv')
    assert not (tmp_path / 'out.npz').exists()
    before = (tmp_path / 'in.npz').read_bytes()
    assert 'is also --predict: choose another name' in refused(2, *flags, '--output', tmp_path / 'in.npz')
    assert (tmp_path / 'in.npz').read_bytes() == before


@pytest.mark.parametrize('flags, message', [
    (['--predict', 'x'], '--predict needs --output FILE.npz'),
    (['--predict', 'x.mp4', '-c', 'mine'], 'name that with --evaluate FILE'),
    (['--output', 'x.npz'], '--output is for --predict'), (['--fov', '40'], '--fov is for --predict'),
    (['--predict', 'x', '--evaluate', 'y', '--output', 'o.npz', '--trajectory'], '--trajectory needs the lens'),
    (['--predict', 'x', '--evaluate', 'y', '--output', 'o.npz', '--fov', '40', '--intrinsics', '1', '1', '1', '1'],
     'exclude each other'),
    (['--predict', 'x', '--evaluate', 'y', '--output', 'o.npz', '--layout', 'hand'], "expected auto, coco, h36m"),
    (['--predict', 'x', '--evaluate', 'y', '--output', 'o.npz', '--results', 'r'], '--results is not for --predict'),
    (['--predict', 'x', '--evaluate', 'y', '--output', 'o.npz', '--subset', '0.5'], '--subset is not for --predict'),
    (['--predict', 'x', '--evaluate', 'y', '--output', 'o.npz', '--image-size', '0', '5'],
     'a number of at least 1 up to'),
    (['-d', 'synthetic', '--causal'], '--causal is not for --model ktpformer: leave it out'),
    (['--causal', '--evaluate', 'x', '--target', 'all'], 'exclude each other'),
], ids=lambda x: ' '.join(x) if isinstance(x, list) else '')
def test_contradicting_flags_are_refused(refused, flags, message):
    assert message in refused(2, *flags)


@pytest.mark.parametrize('flags', [('-d', 'cmu'), ('-k', 'foo')])
def test_what_a_checkpoint_of_ours_says_itself_is_refused(refused, trained, tmp_path, flags):
    files.npz(tmp_path / 'in.npz', clip(20)[1])
    line = refused(2, '-c', trained[0], '--evaluate', 'best.bin', '--predict', tmp_path / 'in.npz', '--output',
                   tmp_path / 'out.npz', *flags)
    assert f'{flags[0]} is for public files' in line and not (tmp_path / 'out.npz').exists()


@pytest.mark.parametrize('frames', [3_000, pytest.param(30_000, marks=pytest.mark.slow)])
def test_many_frames_take_bounded_time_and_memory(lift, tmp_path, frames):
    _, pixels = clip(300)
    np.save(tmp_path / 'in.npy', np.concatenate([pixels, pixels[::-1]] * (frames // 600)).astype(np.float32))
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    got, _ = lift(tmp_path / 'in.npy', '--layout', 'h36m', *SIZE)
    assert got['poses'].shape == (frames, 17, 3)
    assert time.perf_counter() - begun < frames / 125
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * frames  # KiB


@pytest.mark.skipif(not REAL.is_dir(), reason=f'no real detections at {REAL}')
@pytest.mark.parametrize('camera', ['cam01', 'cam02', 'cam03', 'cam04'])
def test_real_detections_go_in_and_come_out(lift, camera):
    got, out = lift(REAL / f'{camera}_json', '--image-size', 1088, 1920, '--fps', 60)
    assert got['frame'].tolist() == list(range(100))
    assert 'OpenPose JSON, layout body25b' in out
    height = got['world'][..., 2]
    assert (height[:, H36M.joints.index('head')] > height[:, [3, 6]].max(axis=1)).all()


def test_a_refinement_is_left_out_of_predict(run, trained, h36m_folder, tmp_path):
    """It reads the true depth of the root, which nobody knows here."""
    assert run('-k', 'gt', '--data', h36m_folder, '-str', 'S1', *SMALL, '-e', 1, '--refine', '--init',
               trained[0] / 'best.bin', '-c', tmp_path / 'c', '-l', tmp_path / 'l')[0] == 0
    files.npz(tmp_path / 'in.npz', clip(12)[1])
    status, out, err = run('-c', tmp_path / 'c', '--evaluate', 'last.bin', '--predict', tmp_path / 'in.npz', '--output',
                           tmp_path / 'out.npz', '--layout', 'h36m')
    assert (status, err) == (0, '')
    assert 'its part that reads each camera\'s focal length and centre, and the true depth of the root' in out


@pytest.mark.parametrize('name, layout, flags', [
    ('h36m', 'h36m', []), ('3dhp', '3dhp', ['-d', '3dhp']), ('h36m', 'coco', ['-k', 'detectron_pt_coco']),
    ('humaneva15', 'humaneva15', ['-d', 'humaneva15'])])
def test_layouts_of_public_files_come_from_flags(run, tmp_path, name, layout, flags):
    config = {'frames': 9, 'channels': 32, 'depth': 1, 'heads': 8, 'kpa': True, 'tpa': True}
    model = build_model('ktpformer', config, SKELETONS[name], SKELETONS[layout])
    torch.save({'epoch': 3, 'lr': 1e-4, 'model_pos': model.state_dict()}, tmp_path / 'public.bin')
    files.npz(tmp_path / 'in.npz', clip(12)[1])
    status, out, err = run('--evaluate', tmp_path / 'public.bin', '--predict', tmp_path / 'in.npz', '--output',
                           tmp_path / 'out.npz', *flags)
    assert (status, err) == (0, '')
    assert f'keypoints of layout {layout}, joints of {name}' in out
    assert tuple(read_npz(tmp_path / 'out.npz')['joints']) == SKELETONS[name].joints


@pytest.mark.parametrize('overlap', [0, 3])
def test_windows_over_a_store_cover_its_frames(overlap):
    store = SequenceStore([_sequence(np.zeros((20, 17, 2), np.float32))], H36M, H36M, torch.device('cpu'))
    windows = TestWindows.overlapping(store, F, overlap)
    assert windows.rows.shape == (len(windows.start), F)
    assert windows.rows.max() == 19
    assert predictions(_Still(F), store, windows)['predicted'].shape == (len(windows.start), F, 17, 3)


class _Still(Lifter):
    def __init__(self, frames):
        super().__init__(SimpleNamespace(frames=frames))

    def forward(self, keypoints):
        return torch.zeros(*keypoints.shape[:-1], 3)


def _sequence(keypoints):
    return Sequence('', '', 0, keypoints, np.zeros((*keypoints.shape[:2], 3), np.float32))
