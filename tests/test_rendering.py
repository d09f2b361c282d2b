"""--render from the command line: what it writes, of which sequences, and what it refuses."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import SMALL, h36m_trees, write_h36m
from PIL import Image

import run_ktpformer
from common.commands.render import lift, scene, select
from common.config import Evaluate
from common.datasets import load_dataset
from common.drawing import page
from common.drawing.video import write_film
from common.errors import FlagError
from common.geometry.camera import Camera
from common.models import build_model
from common.skeleton import COCO, H36M
from common.storage.npz import read_npz, write_npz


@pytest.fixture
def render(trained, h36m_folder):
    """Return the flags that render with the small trained model."""
    return ['-c', trained[0], '--data', h36m_folder, '--evaluate', 'best.bin', '--render', '--device', 'cpu']


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_film_is_written_and_its_export_is_the_prediction(run, render, trained, h36m_folder, tmp_path):
    """The export is the prediction of the table: --export-predictions writes the same numbers."""
    flags = ['--viz-subject', 'S9', '--viz-action', 'SittingDown', '--viz-camera', 2]
    status, out, err = run(*render, *flags, '--viz-output', tmp_path / 'a.gif', '--viz-size', 2, '--viz-export',
                           tmp_path / 'a.npy')
    assert (status, err) == (0, '')
    with Image.open(tmp_path / 'a.gif') as film:
        assert (film.n_frames, film.size) == (30, (600, 200))
    poses = np.load(tmp_path / 'a.npy')
    assert poses.shape == (30, 17, 3) and poses.dtype == np.float32
    run('-c', trained[0], '--data', h36m_folder, '--evaluate', 'best.bin', '--export-predictions', tmp_path / 'e.npz',
        '--device', 'cpu')
    rows = read_npz(tmp_path / 'e.npz')
    mine = (rows['subject'] == 'S9') & (rows['action'] == 'SittingDown') & (rows['camera'] == 2)
    assert np.abs(rows['prediction'][mine] - poses).max() < 1e-6
    error = 1000 * np.linalg.norm(poses - rows['truth'][mine], axis=-1).mean()
    assert f'prediction: {error:.2f} mm MPJPE' in out
    assert entries(tmp_path) == ['a.gif', 'a.npy', 'e.npz']


def test_limits_shorten_the_film_but_not_the_export(run, render, tmp_path):
    status, out, _ = run(*render, '--viz-output', tmp_path / 'a.gif', '--viz-limit', 9, '--viz-downsample', 2,
                         '--viz-size', 1, '--viz-no-ground-truth', '--viz-export', tmp_path / 'a.npz')
    assert status == 0
    assert 'h36m, keypoints gt: S9 Directions, camera 0, 21 frames' in out
    with Image.open(tmp_path / 'a.gif') as film:
        assert (film.n_frames, film.size) == (5, (200, 100))
        assert film.info['duration'] == 40  # every other of 50 frames a second
    export = read_npz(tmp_path / 'a.npz')
    assert export['prediction'].shape == (21, 17, 3)
    assert list(export['joints']) == list(H36M.joints)


def test_two_checkpoints_are_drawn_side_by_side(run, render, trained, tmp_path):
    status, out, _ = run(*render, '--viz-compare', 'epoch_1.bin', '--viz-output', tmp_path / 'a.png', '--viz-size', 1)
    assert status == 0
    assert 'KTPFormer checkpoint/best.bin: ' in out and 'KTPFormer checkpoint/epoch_1.bin: ' in out
    with Image.open(tmp_path / 'a.png') as strip:
        assert strip.size == (400, 500)


def test_checkpoints_of_the_same_name_are_told_apart(run, h36m_folder, trained, tmp_path):
    for run_of, name in (('one', 'best.bin'), ('two', 'epoch_1.bin')):
        (tmp_path / run_of / 'checkpoint').mkdir(parents=True)
        (tmp_path / run_of / 'checkpoint' / 'best.bin').write_bytes((trained[0] / name).read_bytes())
    one, two = (tmp_path / run_of / 'checkpoint' / 'best.bin' for run_of in ('one', 'two'))
    status, out, _ = run('--data', h36m_folder, '--evaluate', one, '--render', '--viz-compare', two, '--viz-output',
                         tmp_path / 'a.png', '--viz-size', 1, '--device', 'cpu')
    assert status == 0
    assert 'KTPFormer one/checkpoint/best.bin: ' in out and 'KTPFormer two/checkpoint/best.bin: ' in out


def test_a_page_is_written(run, render, monkeypatch, tmp_path):
    """It holds what a film of the same flags would show; of too many frames some, which is said."""
    flags = [*render, '--viz-compare', 'epoch_1.bin', '--viz-output', tmp_path / 'a.html']
    status, out, err = run(*flags, '--viz-limit', 9)
    assert (status, err) == (0, '')
    assert re.search(r'wrote .*a\.html: 9 frames, 0\.\d+ MB; open it in a browser', out) and 'is kept' not in out
    text = (tmp_path / 'a.html').read_text()
    assert '<h1>h36m, keypoints gt: S9 Directions, camera 0</h1>' in text
    for name in ('KTPFormer checkpoint/best.bin', 'KTPFormer checkpoint/epoch_1.bin', 'ground truth'):
        assert f'"name":"{name}"' in text
    monkeypatch.setattr(page, 'MOST', 2000)  # 3 poses and the keypoints of 21 frames have 3,927 numbers
    status, out, _ = run(*flags)
    assert status == 0 and 'one frame in 2 is kept, so that the page stays small' in out and ': 11 frames, ' in out


def test_an_mp4_is_drawn_over_a_video(run, render, tmp_path):
    pytest.importorskip('av')
    write_film(tmp_path / 'v.mp4', (np.full((100, 100, 3), 10 * k, np.uint8) for k in range(14)), 50)
    status, out, _ = run(*render, '--viz-video', tmp_path / 'v.mp4', '--viz-skip', 4, '--viz-output',
                         tmp_path / 'a.mp4', '--viz-bitrate', 500, '--viz-size', 1)
    assert status == 0
    assert 'wrote' in out and ': 10 frames' in out
    assert 'is it the right video' not in out


def test_a_video_of_another_shape_is_told(run, render, tmp_path):
    pytest.importorskip('av')
    write_film(tmp_path / 'v.mp4', (np.zeros((90, 160, 3), np.uint8) for k in range(3)), 50)
    _, out, _ = run(*render, '--viz-video', tmp_path / 'v.mp4', '--viz-output', tmp_path / 'a.gif', '--viz-size', 1)
    assert 'is it the right video' in out


def test_a_take_of_one_frame_is_drawn(run, trained, tmp_path):
    write_h36m(tmp_path, *h36m_trees({'S1': {'Walking': 1}}))
    for name in ('a.gif', 'a.png'):
        status, _, err = run('-c', trained[0], '--data', tmp_path, '--evaluate', 'best.bin', '--render',
                             '--viz-subject', 'S1', '--viz-output', tmp_path / name, '--viz-size', 1, '--device', 'cpu')
        assert (status, err) == (0, '')


# ---- without truth ----------------------------------------------------------------------------------------------


def test_a_take_without_3d_is_drawn_alone(run, trained, tmp_path):
    positions, detections = h36m_trees({'S9': {'Walking': 12, 'Unseen 1': 15}})
    del positions['S9']['Unseen 1']
    write_h36m(tmp_path, positions, detections)
    flags = ('-c', trained[0], '--data', tmp_path, '--evaluate', 'best.bin', '--render', '--viz-output',
             tmp_path / 'a.gif', '--viz-size', 1, '--device', 'cpu', '--viz-action')
    status, out, _ = run(*flags, 'Unseen 1')
    assert status == 0 and 'MPJPE' not in out
    with Image.open(tmp_path / 'a.gif') as film:
        assert film.size == (200, 100)
    status, out, _ = run(*flags, 'Walking')
    assert status == 0 and 'MPJPE' in out


def custom_file(folder, keypoints, layout=COCO, size=(640, 480), **changes):
    sides = [list(layout.left), list(layout.right)]
    metadata = {'layout_name': layout.name, 'num_joints': len(layout), 'keypoints_symmetry': sides,
                'video_metadata': {'clip.mp4': {'w': size[0], 'h': size[1]}}}
    write_npz(folder / 'data_2d_custom_mine.npz', positions_2d={'clip.mp4': {'custom': [keypoints]}},
              metadata=metadata | changes)


@pytest.fixture(scope='module')
def coco_model(tmp_path_factory):
    """Return the checkpoint folder of a model trained on COCO keypoints."""
    folder = tmp_path_factory.mktemp('coco')
    positions, detections = h36m_trees({'S1': {'Walking': 30}})
    sides = [list(COCO.left), list(COCO.right)]
    write_h36m(folder, positions, detections, {'layout_name': 'coco', 'num_joints': 17, 'keypoints_symmetry': sides},
               'coco')
    assert run_ktpformer.main(['-k', 'coco', '--data', str(folder), '-str', 'S1', '--no-eval', '-e', '1', '-c',
                               str(folder / 'c'), '-l', str(folder / 'l'), *SMALL]) == 0
    return folder / 'c'


def keypoints_of(frames):
    return np.random.default_rng(0).uniform(50, 400, (frames, 17, 2)).astype(np.float32)


def test_custom_videos_are_rendered_and_exported(run, coco_model, tmp_path):
    custom_file(tmp_path, keypoints_of(20))
    flags = ('-d', 'custom', '-k', 'mine', '--data', tmp_path, '-c', coco_model, '--evaluate', 'last.bin', '--render')
    status, out, err = run(*flags, '--viz-output', tmp_path / 'a.gif', '--viz-size', 1, '--viz-export',
                           tmp_path / 'a.npy', '--viz-subject', 'clip.mp4', '--viz-action', 'custom')
    assert (status, err) == (0, '')
    assert 'frames a second are not known: 25 are assumed' in out
    assert np.load(tmp_path / 'a.npy').shape == (20, 17, 3)
    pytest.importorskip('av')
    write_film(tmp_path / 'v.mp4', (np.zeros((48, 64, 3), np.uint8) for k in range(20)), 10)
    status, out, _ = run(*flags, '--viz-output', tmp_path / 'a.gif', '--viz-size', 1, '--viz-video', tmp_path / 'v.mp4')
    assert status == 0 and 'assumed' not in out
    with Image.open(tmp_path / 'a.gif') as film:
        assert film.info['duration'] == 100  # the video's 10 frames a second


def test_custom_videos_cannot_be_trained_on_or_measured(refused, coco_model, tmp_path):
    custom_file(tmp_path, keypoints_of(20))
    for flags in ((), ('-c', coco_model, '--evaluate', 'last.bin'), ('-c', coco_model, '--resume')):
        line = refused(2, '-d', 'custom', '-k', 'mine', '--data', tmp_path, *flags)
        assert '2D without 3D' in line


def test_broken_custom_files_are_refused(refused, coco_model, trained, tmp_path):
    flags = ('-d', 'custom', '-k', 'mine', '--data', tmp_path, '--render', '--viz-output', tmp_path / 'a.gif')
    good = keypoints_of(20)
    assert 'prepare_data_2d.py' in refused(1, *flags, '-c', coco_model, '--evaluate', 'last.bin')
    custom_file(tmp_path, good)
    assert 'layout coco' in refused(1, *flags, '-c', trained[0], '--evaluate', 'best.bin')
    spoilt = good.copy()
    spoilt[3, 2] = np.nan
    for keypoints, changes, words in ((spoilt, {}, 'NaN'), (good[:0], {}, 'no frames'),
                                      (good, {'video_metadata': {}}, 'w and h of clip.mp4'),
                                      (good, {'video_metadata': None}, 'w and h'),
                                      (good, {'layout_name': 'nobody'}, 'unknown keypoint layout')):
        custom_file(tmp_path, keypoints, **changes)
        assert words in refused(1, *flags, '-c', coco_model, '--evaluate', 'last.bin')
    assert entries(tmp_path) == ['data_2d_custom_mine.npz']


# ---- any data set -----------------------------------------------------------------------------------------------


def test_a_data_set_without_intrinsics_or_places_stands_upright():
    """HumanEva's cameras have no known lens, and MPI-INF-3DHP's stand at the origin with y down."""
    dataset = load_dataset('synthetic', None)
    placed = dataset.cameras['S5'][0]
    for camera in (replace(placed, intrinsic=None), Camera(np.array([1, 0, 0, 0], np.float32), np.zeros(3, np.float32),
                                                           1000, 1000)):
        moved = dataset.positions['S5']['Walking']
        world = moved if camera.translation.any() else placed.from_world(moved)
        changed = replace(dataset, cameras={'S5': [camera]}, positions={'S5': {'Walking': world}},
                          detections={'S5': {'Walking': dataset.detections['S5']['Walking'][:1]}})
        sequence = changed.view('S5', 'Walking', 0)
        panels, truth, _ = scene(sequence, {'perfect': sequence.poses}, changed, 1)
        assert panels['perfect'] == pytest.approx(truth, abs=1e-5)
        assert truth[..., 2].min() == pytest.approx(0, abs=1e-5)
        head, ankle = (truth[:, H36M.joints.index(name), 2] for name in ('head', 'left_ankle'))
        assert (head - ankle > 1).all()
        limb = np.linalg.norm(truth[:, 1] - truth[:, 2], axis=-1)
        assert limb == pytest.approx(np.linalg.norm(moved[:, 1] - moved[:, 2], axis=-1), abs=1e-5)


def test_truth_before_a_placed_camera_stands_in_the_world():
    """With a camera that was placed, truth is the world itself, but for the height of the floor."""
    dataset = load_dataset('synthetic', None)
    sequence = dataset.view('S5', 'Walking', 1, downsample=3)
    _, truth, _ = scene(sequence, {}, dataset, 3)
    world = dataset.positions['S5']['Walking'][::3]
    offset = truth[0, 0] - world[0, 0]  # a scene keeps the camera's place at the origin
    assert truth == pytest.approx(world + offset, abs=1e-4)


def test_a_refinement_needs_truth(h36m_folder):
    dataset = load_dataset('h36m', h36m_folder, 'gt')
    sequence = dataset.view('S9', 'Sitting', 0)
    config = {'channels': 48, 'depth': 1, 'heads': 8, 'hidden': 32, 'refine': True}
    model = build_model('htnet', config, H36M, H36M)
    assert set(lift(model, sequence, dataset, Evaluate(root='zero'), torch.device('cpu'))) == {'predicted', 'refined'}
    with pytest.raises(FlagError, match='true depth of the root'):
        lift(model, replace(sequence, poses=None, root=None), dataset, Evaluate(), torch.device('cpu'))


def test_predict_with_render_films_every_frame(trained, run, refused, tmp_path):
    """--predict with --render: the keypoints beside the pose, as many frames as went in."""
    (sequence,) = load_dataset('synthetic', None).sequences(['S5'], ['Walking'])[:1]
    points = 500 * (sequence.keypoints[:12] + 1)
    np.save(tmp_path / 'walk.npy', points)
    flags = ['-c', trained[0], '--evaluate', 'best.bin', '--predict', tmp_path / 'walk.npy', '--image-size', 1000, 1000,
             '--output', tmp_path / 'o.npz', '--render', '--device', 'cpu']
    status, _, err = run(*flags, '--viz-output', tmp_path / 'o.gif', '--viz-size', 1)
    assert (status, err) == (0, '')
    with Image.open(tmp_path / 'o.gif') as film:
        assert (film.n_frames, film.size) == (12, (200, 100))
    assert run(*flags, '--viz-output', tmp_path / 'o.html')[0] == 0
    assert '<h1>walk.npy, layout h36m</h1>' in (tmp_path / 'o.html').read_text()
    assert '--viz-subject is not for --predict' in refused(
        2, *flags, '--viz-output', tmp_path / 'p.gif', '--viz-subject', 'S1')
    assert '--render needs --viz-output' in refused(2, *flags)


def test_subjects_without_3d_are_drawn(trained, run, refused, tmp_path):
    """S2 of Human3.6M, whose 3D is not given out: nobody knows where its cameras stood."""
    positions, detections = h36m_trees({'S9': {'Walking': 20}})
    unseen = {'Walking': [view[:12] for view in detections['S9']['Walking']]}
    write_h36m(tmp_path, positions, detections | {'S2': unseen})
    flags = ['-c', trained[0], '--data', tmp_path, '--evaluate', 'best.bin', '--device', 'cpu']
    status, out, _ = run(*flags, '--render', '--viz-subject', 'S2', '--viz-output', tmp_path / 'o.gif', '--viz-size', 1)
    assert status == 0 and 'S2 Walking, camera 0, 12 frames' in out
    assert 'unknown subject S2' in refused(2, *flags, '-ste', 'S2')
    assert run(*flags, '-ste', 'S9')[0] == 0


def test_select_takes_whole_names_first(h36m_folder):
    dataset = load_dataset('h36m', h36m_folder, 'gt')
    assert select(dataset, 'S1', 'Directions', 3) == ('S1', 'Directions', 3)
    assert select(dataset, 'S1', 'SittingD', 0) == ('S1', 'SittingDown 1', 0)
    assert select(dataset, None, None, 0) == ('S9', 'Directions', 0)


# ---- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('flags, words', [
    (['--viz-subject', 'S77'], 'there are S1, S9, S11'),
    (['--viz-action', 'Flying'], 'S9 has Directions, Sitting, SittingDown'),
    (['--viz-subject', 'S1', '--viz-action', 'D'], 'ambiguous, write one of Directions, Directions 1'),
    (['--viz-camera', '4'], 'has 4 cameras, from 0 to 3'),
    (['--viz-camera', '-1'], 'of at least 0'),
    (['--viz-bitrate', '9'], 'ends in .mp4'),
    (['--viz-skip', '9'], 'needs --viz-video'),
    (['--viz-size', '0'], 'of at least 1'),
    (['--by-subject'], '--by-subject is not for --render'),
    (['--plots', 'x'], '--plots is not for --render'),
    (['--viz-export', 'a.csv'], 'ends in .npy or .npz'),
])
def test_bad_values_of_render_flags_are_refused(refused, render, tmp_path, flags, words):
    assert words in refused(2, *render, '--viz-output', tmp_path / 'a.gif', *flags)
    assert not entries(tmp_path)


def test_render_flags_that_lack_another_flag_are_refused(refused, render, tmp_path):
    assert 'needs --render' in refused(2, '--evaluate', 'best.bin', '--viz-camera', 0)
    assert '--render is not for --check-data' in refused(2, '--check-data', '--render')
    assert 'name it with --evaluate' in refused(2, '--render', '--viz-output', 'a.gif')
    assert 'needs --viz-output FILE or --viz-export' in refused(2, *render)
    assert 'ends in .gif or .mp4 or .png' in refused(2, *render, '--viz-output', 'a.avi')
    assert '--viz-limit needs --viz-output' in refused(2, *render, '--viz-export', 'a.npy', '--viz-limit', 3)


def test_files_that_cannot_be_read_or_written_are_refused(refused, render, trained, tmp_path):
    missing = tmp_path / 'none' / 'a.gif'
    assert f'folder {missing.parent} is missing' in refused(1, *render, '--viz-output', missing)
    output = ['--viz-output', tmp_path / 'a.gif']
    assert 'nothing.bin is neither in' in refused(1, *render, *output, '--viz-compare', 'nothing.bin')
    pytest.importorskip('av')
    (tmp_path / 'v.mp4').touch()
    assert 'not a readable video' in refused(1, *render, *output, '--viz-video', tmp_path / 'v.mp4')
    assert 'is missing' in refused(1, *render, *output, '--viz-video', tmp_path / 'w.mp4')
    write_film(tmp_path / 'v.mp4', (np.zeros((48, 64, 3), np.uint8) for k in range(5)), 10)
    line = refused(1, *render, *output, '--viz-video', tmp_path / 'v.mp4', '--viz-skip', 5)
    assert 'no frames after the first 5' in line
    assert entries(tmp_path) == ['v.mp4']


def test_diverged_weights_are_refused(refused, trained, h36m_folder, tmp_path):
    shutil.copy(trained[0] / 'best.bin', tmp_path / 'nan.bin')
    saved = torch.load(tmp_path / 'nan.bin', weights_only=True)
    for tensor in saved['model_pos'].values():
        tensor.fill_(float('nan')) if tensor.is_floating_point() else None
    del saved['digest']
    torch.save(saved, tmp_path / 'nan.bin')
    line = refused(1, '-c', tmp_path, '--data', h36m_folder, '--evaluate', 'nan.bin', '--render', '--viz-output',
                   tmp_path / 'a.gif', '--device', 'cpu')
    assert 'NaN' in line
    assert entries(tmp_path) == ['nan.bin']


def test_no_file_is_written_over_another(refused, render, tmp_path):
    """Neither over what is read nor over another output; and nothing that is asked for is left out in silence."""
    (tmp_path / 'v.mp4').write_bytes(b'a film')
    assert '--viz-output' in refused(2, *render, '--viz-output', tmp_path / 'v.mp4', '--viz-video', tmp_path / 'v.mp4')
    assert (tmp_path / 'v.mp4').read_bytes() == b'a film'
    same = [tmp_path / 'same.npz'] * 2
    plain = [flag for flag in render if flag != '--render']
    assert 'is also --results: choose another name' in \
        refused(2, *plain, '--results', same[0], '--export-predictions', same[1])
    assert '--causal is not for --render' in \
        refused(2, *render, '--viz-output', tmp_path / 'a.gif', '--causal')
    assert '--results is not for --check-data' in \
        refused(2, '-d', 'synthetic', '--check-data', '--results', tmp_path / 'r.json')
    assert '--plots is not for --predict' in \
        refused(2, '--evaluate', 'best.bin', '--predict', tmp_path / 'k.npy', '--output', tmp_path / 'o.npz', '--plots',
                tmp_path)
