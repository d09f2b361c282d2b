"""The files of people's public reports and of detectors' documentation: as good as the plain file, or a remedy."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_layouts_of_people import CASES, MOCAP

from common.storage.npz import read_npz
from data import prepare_data_cmu

pytestmark = pytest.mark.skipif(not (MOCAP.is_dir() and CASES.is_dir()), reason=f'no motion at {MOCAP} or no {CASES}')
ROOT = Path(__file__).parents[1]
SIZE = ('--image-size', 1920, 1080)
NONE = ()
# case -> (file, flags, what a refusal says or None for a result like the plain file's)
FILES = {
    '01_openpose_coco18': [('op18', SIZE, None)],
    '02_alphapose_open_cmu': [(name, SIZE, None) for name in ('alphapose_open.json', 'alphapose_cmu.json', 'sep-json')],
    '03_mmpose_inferencer': [(name, SIZE, None) for name in (
        'predictions', 'mm_video.json', 'mm_generator.json', 'mm_merged.json')],
    '04_ultralytics': [(name, SIZE, None) for name in (
        'yolo_frames.json', 'yolo_frames_dict.json', 'yolo_json', 'labels', 'yolo_xy.npy', 'yolo_data.npz')],
    '05_rtmlib_arrays': [(name, SIZE, None) for name in ('rtm_one.npz', 'rtm_ragged.npz', 'rtm_ragged.npy')],
    '07_mediapipe_movenet': [
        *((name, SIZE, None) for name in ('mediapipe.npy', 'mediapipe_px.npy', 'mediapipe.json', 'movenet.npy')),
        ('mediapipe.npy', NONE, 'add --image-size WIDTH HEIGHT'), ('movenet_sq.npy', SIZE, 'write x first')],
    '08_coco_annotations': [
        ('coco_dataset.json', NONE, None), ('mb145.json', (*SIZE, '--min-score', 0), None),
        *((name, SIZE, None) for name in ('mb145.json', 'mb145_list.json', 'gast1.json', 'coco_results.json'))],
    '09_other_json': [('comfy.json', NONE, None), *((name, SIZE, None) for name in ('stgcn.json', 'tfpose', 'nulls'))],
    '12_missing_minus_one': [(name, SIZE, None) for name in (
        'miss_minus1.npy', 'miss_nan.npy', 'miss_zero.npy', 'miss_minus1_scored.npy', 'miss_v1.json')],
    '20_same_count_other_layout': [
        *((name, SIZE, None) for name in (
            'kinect25.npy', 'posetrack17.npy', 'posetrack17.json', 'h36m16.npy', 'sapiens308.json', 'halpe26.json',
            'halpe68.json', 'halpe136.json', 'wholebody133.json', 'wholebody133_mm.json', 'wholebody133.npz',
            'halpe136.npy', 'halpe_coco_wholebody_136.json')), ('yx.npy', SIZE, 'write x first')],
    '22_other_files': [
        *((name, SIZE, None) for name in ('RESULT.JSON', 'mhformer_keypoints.npz', 'mhformer_two.npz',
                                          'cust/data_2d_custom_nometa.npz')),
        ('clip.mp4.npz', NONE, None), ('cust/data_2d_custom_two.npz', ('-ste', 'a.mp4'), None),
        ('cust/data_2d_custom_two.npz', NONE, 'name one with -ste: a.mp4, b.mp4'),
        ('dlc.csv', SIZE, "DeepLabCut's table"), ('sleap.analysis.h5', SIZE, 'SLEAP'), ('kpts.pkl', SIZE, 'a pickle')],
    '23_names_of_frames': [
        ('cam2_names', SIZE, None), ('two_videos.json', SIZE, 'name one with -ste: cam1, cam2'),
        ('two_videos.json', (*SIZE, '-ste', 'cam1'), None), ('two_videos_mixed.json', (*SIZE, '-ste', 'cam1'), None)],
}
NEARER = {'20_same_count_other_layout', '22_other_files', '23_names_of_frames'}  # filmed from 4.2 m


@pytest.fixture(scope='module')
def people(tmp_path_factory):
    """A folder with CMU's subjects 06 and 13, and the plain files of `00_reference` and of a camera at 4.2 m."""
    folder = tmp_path_factory.mktemp('cases')
    (folder / 'mocap').mkdir()
    for path in MOCAP.iterdir():
        if path.name[:2] in ('06', '13') or path.suffix not in ('.asf', '.gz', '.amc'):
            (folder / 'mocap' / path.name).symlink_to(path)
    assert prepare_data_cmu.main([str(folder / 'mocap'), '--data', str(folder)]) == 0
    make(folder, '00_reference')
    return folder


def make(folder, case):
    subprocess.run([sys.executable, CASES / case / 'make.py'], cwd=ROOT, check=True, capture_output=True, env={
        **os.environ, 'CASES_CMU': str(folder / 'data_3d_cmu.npz'), 'CASES_OUT': str(folder)})


@pytest.mark.parametrize('case', FILES)
def test_a_case_is_as_good_as_the_plain_file_or_says_what_to_do(run, trained, people, tmp_path, capfd, case):
    def lift(source, *flags):
        (tmp_path / 'out.npz').unlink(missing_ok=True)
        # One scale for all: the size of the person on the screen is another test's matter.
        status, _, err = run('-c', trained[0], '--evaluate', 'best.bin', '--predict', people / source, '--output',
                             tmp_path / 'out.npz', '--device', 'cpu', '--zoom', 1, *flags)
        return status, err

    def error(truth):
        poses = read_npz(tmp_path / 'out.npz')['poses']
        count = min(len(poses), len(truth))
        assert count >= 100
        return 1000 * np.linalg.norm(poses[:count] - poses[:count, :1] - truth[:count], axis=-1).mean()

    make(people, case)
    if case in NEARER:
        make(people, '20_same_count_other_layout')
    plain, truth = ('lay_ref.npy', 'lay_truth.npy') if case in NEARER else ('ref.npy', 'truth.npy')
    truth = np.load(people / truth)
    assert lift(plain, *SIZE) == (0, '')
    poses = read_npz(tmp_path / 'out.npz')['poses']
    for source, flags, refusal in FILES[case]:
        status, err = lift(source, *flags)
        if refusal is not None:
            assert status in (1, 2) and refusal in err and err.count('\n') == 1, (source, err)
            continue
        assert (status, err) == (0, ''), (source, err)
        got = len(read_npz(tmp_path / 'out.npz')['poses'])
        reference = 1000 * np.linalg.norm(poses[:got] - poses[:got, :1] - truth[:got], axis=-1).mean()
        assert error(truth) < 1.1 * reference, source
