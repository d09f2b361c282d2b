"""--export: files of other programs, read back by parsers of their own."""

import keypoint_files as files
import numpy as np
import pytest

from common.exports import export
from common.exports.motion import of_world
from common.exports.trc import marker
from common.skeleton import H36M, HUMANEVA20
from common.storage.npz import read_npz


def read_trc(path):
    """Return (head by name, marker names, table (T, 2 + 3 M)) of a TRC file, read by what its format says."""
    lines = path.read_text().split('\n')
    assert lines[0].split('\t')[:3] == ['PathFileType', '4', '(X/Y/Z)']
    head = dict(zip(lines[1].split('\t'), lines[2].split('\t'), strict=True))
    columns = lines[3].split('\t')
    assert columns[:2] == ['Frame#', 'Time']
    names = columns[2::3]
    assert lines[4].split('\t') == ['', ''] + [f'{axis}{m + 1}' for m in range(len(names)) for axis in 'XYZ']
    assert lines[5] == '' and lines[-1] == ''
    rows = [[float(cell) for cell in line.split('\t')] for line in lines[6:-1]]
    assert {len(row) for row in rows} == {2 + 3 * int(head['NumMarkers'])}
    assert len(rows) == int(head['NumFrames'])
    return head, names, np.array(rows)


def test_trc_holds_positions_times_and_names(tmp_path):
    world = np.random.default_rng(0).normal(size=(5, 17, 3)).astype(np.float32)
    seconds = np.array([0.5, 0.54, 0.59, 0.62, 0.66])
    export(tmp_path / 'a.trc', of_world(H36M, world, seconds, 25.0))
    head, names, table = read_trc(tmp_path / 'a.trc')
    assert (head['Units'], head['DataRate'], head['OrigDataStartFrame']) == ('m', '25', '1')
    assert names == ['Hip', 'RHip', 'RKnee', 'RAnkle', 'LHip', 'LKnee', 'LAnkle', 'Spine', 'Neck', 'UpperNeck', 'Head',
                     'LShoulder', 'LElbow', 'LWrist', 'RShoulder', 'RElbow', 'RWrist']
    assert table[:, 0].tolist() == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(table[:, 1], seconds, atol=1e-6)
    got = table[:, 2:].reshape(5, 17, 3)
    np.testing.assert_allclose(got[..., 1], world[..., 2], atol=1e-6)  # up
    np.testing.assert_allclose(got[..., 0], world[..., 0], atol=1e-6)
    np.testing.assert_allclose(got[..., 2], -world[..., 1], atol=1e-6)  # not a mirror image: z is towards the camera


def test_every_marker_has_a_name_of_its_own():
    assert marker('left_lower_elbow') == 'LLowerElbow'
    assert len({marker(joint) for joint in HUMANEVA20.joints}) == len(HUMANEVA20)


def lifted(run, trained, tmp_path, *flags):
    """Return the npz of a short clip of --predict with these flags."""
    pixels = np.random.default_rng(1).normal(0, 2, (12, 17, 2)).cumsum(axis=0) + files_person()
    files.npz(tmp_path / 'in.npz', pixels)
    status, out, err = run('-c', trained[0], '--evaluate', 'best.bin', '--predict', tmp_path / 'in.npz', '--output',
                           tmp_path / 'out.npz', '--layout', 'h36m', '--device', 'cpu', '--as-is', *flags)
    assert (status, err) == (0, ''), err
    return read_npz(tmp_path / 'out.npz'), out


def files_person():
    """Return the pixels (17, 2) of somebody who stands."""
    return 500 + 2.0 * np.array([
        (0, 0), (-13, 0), (-14, 45), (-14, 90), (13, 0), (14, 45), (14, 90), (0, -24), (0, -48), (0, -56), (0, -68),
        (17, -46), (24, -18), (26, 8), (-17, -46), (-24, -18), (-26, 8)])


def test_predict_exports_the_world(run, trained, tmp_path):
    got, out = lifted(run, trained, tmp_path, '--export', tmp_path / 'out.trc')
    assert f'{tmp_path / "out.trc"}: 12 frames' in out
    _head, _names, table = read_trc(tmp_path / 'out.trc')
    np.testing.assert_allclose(table[:, 3::3], got['world'][..., 2], atol=1e-6)
    np.testing.assert_allclose(table[:, 1], got['seconds'], atol=1e-6)


@pytest.mark.parametrize('status, name, words', [(2, 'clip.fbx', 'ends in .trc'), (1, 'none/clip.trc', 'missing'),
                                                 (2, '', 'ends in .trc')])
def test_other_suffixes_and_folders_are_refused_in_one_line(refused, tmp_path, monkeypatch, status, name, words):
    monkeypatch.chdir(tmp_path)
    line = refused(status, '--evaluate', 'x.bin', '--predict', 'in.npy', '--output', 'out.npz', '--export', name)
    assert '--export' in line or name in line
    assert words in line
    assert not list(tmp_path.iterdir())
