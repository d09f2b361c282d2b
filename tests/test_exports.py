"""--export: files of other programs, read back by parsers of their own."""

from types import SimpleNamespace

import keypoint_files as files
import numpy as np
import pytest

from common.cli.parser import parse
from common.commands.people import config_of
from common.datasets.synthetic import motion
from common.errors import FileError
from common.exports import export
from common.exports.motion import of_world
from common.exports.trc import marker
from common.skeleton import H36M, H36M16, HUMANEVA15, HUMANEVA20, MPI_INF_3DHP, Skeleton
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


@pytest.mark.parametrize('status, name, words', [(2, 'clip.fbx', 'ends in .trc or .c3d or'), (2, '', 'ends in .trc'),
                                                 (1, 'none/clip.trc', 'missing')])
def test_other_suffixes_and_folders_are_refused_in_one_line(refused, tmp_path, monkeypatch, status, name, words):
    monkeypatch.chdir(tmp_path)
    line = refused(status, '--evaluate', 'x.bin', '--predict', 'in.npy', '--output', 'out.npz', '--export', name)
    assert '--export' in line or name in line
    assert words in line
    assert not list(tmp_path.iterdir())


def read_bvh(path):
    """Return (names, parents, offsets, ends, rows, frame time) of a BVH file: a parser by lines and a stack."""
    tokens = path.read_text().split('MOTION')
    names, parents, offsets, ends, channels, stack = [], [], [], {}, [], []
    for line in tokens[0].splitlines():
        word = line.split()
        if not word or word == ['HIERARCHY']:
            continue
        if word[0] in ('ROOT', 'JOINT'):
            names.append(word[1])
            parents.append(stack[-1] if stack else None)
            stack.append(len(names) - 1)
        elif word == ['End', 'Site']:
            stack.append(('end', stack[-1]))
        elif word[0] == '}':
            stack.pop()
        elif word[0] == 'OFFSET':
            value = [float(x) for x in word[1:]]
            if isinstance(stack[-1], tuple):
                ends[names[stack[-1][1]]] = value
            else:
                offsets.append(value)
        elif word[0] == 'CHANNELS':
            assert int(word[1]) == len(word) - 2
            channels += [(len(names) - 1, channel) for channel in word[2:]]
        else:
            assert word == ['{'], line
    assert not stack
    lines = tokens[1].split('\n')
    count, step = int(lines[1].split('Frames:')[1]), float(lines[2].split('Frame Time:')[1])
    rows = [[float(x) for x in line.split()] for line in lines[3:] if line]
    assert len(rows) == count and {len(row) for row in rows} == {len(channels)}
    return SimpleNamespace(names=names, parents=parents, offsets=offsets, ends=ends, channels=channels, rows=rows,
                           step=step)


def turn(axis, degrees):
    """Return Rodrigues' rotation about x, y or z."""
    k = np.zeros((3, 3))
    i = 'XYZ'.index(axis)
    k[(i + 2) % 3, (i + 1) % 3], k[(i + 1) % 3, (i + 2) % 3] = 1, -1
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k


def places(bvh, frame):
    """Return name -> where a joint is, and `NAME end` -> where an End Site is, cm: 4×4 matrices down the tree."""
    local = [np.eye(4) for _ in bvh.names]
    for j, offset in enumerate(bvh.offsets):
        local[j][:3, 3] = offset
    for (j, channel), value in zip(bvh.channels, bvh.rows[frame], strict=True):
        step = np.eye(4)
        if channel.endswith('position'):
            step['XYZ'.index(channel[0]), 3] = value
        else:
            step[:3, :3] = turn(channel[0], value)
        local[j] = local[j] @ step
    found, whole = {}, []
    for j, name in enumerate(bvh.names):
        whole.append(local[j] if bvh.parents[j] is None else whole[bvh.parents[j]] @ local[j])
        found[name] = whole[j][:3, 3]
        if name in bvh.ends:
            found[f'{name} end'] = (whole[j] @ [*bvh.ends[name], 1])[:3]
    return found


# Where the joints of Human3.6M are in the file.
IN_BVH = {'hip': 'Hips', 'right_hip': 'RightUpLeg', 'right_knee': 'RightLeg', 'right_ankle': 'RightLeg end',
          'left_hip': 'LeftUpLeg', 'left_knee': 'LeftLeg', 'left_ankle': 'LeftLeg end', 'spine': 'Spine',
          'thorax': 'Neck', 'neck': 'Head', 'head': 'Head end', 'left_shoulder': 'LeftArm', 'left_elbow': 'LeftForeArm',
          'left_wrist': 'LeftForeArm end', 'right_shoulder': 'RightArm', 'right_elbow': 'RightForeArm',
          'right_wrist': 'RightForeArm end'}


def y_up(world):
    return np.stack([world[..., 0], world[..., 2], -world[..., 1]], axis=-1)


def fitted(skeleton, poses):
    """Return poses (T, J, 3) with the median length in each bone, their directions and the middle of the hips kept."""
    at = dict(zip(skeleton.joints, np.moveaxis(poses, 1, 0), strict=True))
    at['hip'] = (at['left_hip'] + at['right_hip']) / 2
    new = {'hip': at['hip']}
    while len(new) < len(skeleton):
        for j, p in skeleton.edges:
            child, parent = skeleton.joints[j], skeleton.joints[p]
            if parent in new:
                bone = at[child] - at[parent]
                length = np.sqrt((bone ** 2).sum(-1, keepdims=True))
                new[child] = new[parent] + bone / length * np.median(length)
    return np.stack([new[name] for name in skeleton.joints], axis=1)


def walk(frames):
    return motion('Walking', 1.0, frames, np.random.default_rng(3))[:frames].astype(np.float64)


def exported(tmp_path, skeleton, world, seconds=None, fps=50.0):
    seconds = np.arange(len(world)) / fps if seconds is None else seconds
    export(tmp_path / 'a.bvh', of_world(skeleton, world, seconds, fps))
    return read_bvh(tmp_path / 'a.bvh')


@pytest.mark.parametrize('noise', [0, 0.03], ids=['walk', 'noisy'])
def test_bvh_has_the_poses_with_fitted_lengths(tmp_path, noise):
    """Within 0.01 mm, whatever the rotations are."""
    world = walk(30) + np.random.default_rng(0).normal(0, noise, (30, 17, 3))
    bvh = exported(tmp_path, H36M, world)
    assert bvh.step == pytest.approx(0.02)
    want = 100 * fitted(H36M, y_up(world))
    for frame in range(30):
        found = places(bvh, frame)
        got = np.array([found[IN_BVH[joint]] for joint in H36M.joints])
        np.testing.assert_allclose(got, want[frame], atol=1e-3)


def test_bvh_of_any_directions_is_right_where_rotations_lock(tmp_path):
    """Also legs straight ahead, which are 90 degrees about x, arms straight up, and bones without a length."""
    world = np.concatenate([np.random.default_rng(4).normal(size=(20, 17, 3)), sitting()[None]])
    bvh = exported(tmp_path, H36M, world)
    want = 100 * fitted(H36M, y_up(world))
    for frame in range(21):
        found = places(bvh, frame)
        np.testing.assert_allclose([found[IN_BVH[joint]] for joint in H36M.joints], want[frame], atol=1e-3)
    world[3, 13] = world[3, 12]
    assert np.isfinite(exported(tmp_path, H36M, world).rows).all()


def sitting():
    """Return (17, 3), z up, of somebody who sits, faces the camera (-y) and has arms and shins straight."""
    points = {'hip': (0, 0, .5), 'spine': (0, 0, .7), 'thorax': (0, 0, .9), 'neck': (0, 0, 1.), 'head': (0, 0, 1.2)}
    for side, x in (('left', .1), ('right', -.1)):
        points |= {f'{side}_hip': (x, 0, .5), f'{side}_knee': (x, -.4, .5), f'{side}_ankle': (x, -.8, .5),
                   f'{side}_shoulder': (x, 0, .9), f'{side}_elbow': (x, 0, 1.2), f'{side}_wrist': (x, 0, 1.4)}
    return np.array([points[name] for name in H36M.joints])


def test_the_rest_pose_has_no_rotations(tmp_path):
    """Somebody who stands as a T and faces the camera; straight limbs go along with the trunk."""
    points = {'hip': (0, 0, 1), 'spine': (0, 0, 1.2), 'thorax': (0, 0, 1.5), 'neck': (0, 0, 1.6), 'head': (0, 0, 1.8)}
    for side, sign in (('left', 1), ('right', -1)):
        points |= {f'{side}_hip': (.1 * sign, 0, 1), f'{side}_knee': (.1 * sign, 0, .5),
                   f'{side}_ankle': (.1 * sign, 0, 0), f'{side}_shoulder': (.2 * sign, 0, 1.5),
                   f'{side}_elbow': (.5 * sign, 0, 1.5), f'{side}_wrist': (.7 * sign, 0, 1.5)}
    pose = np.array([points[name] for name in H36M.joints])
    bvh = exported(tmp_path, H36M, pose[None].repeat(2, axis=0))
    np.testing.assert_allclose(bvh.rows[0], [0, 100, 0] + [0] * (3 * len(bvh.names)), atol=1e-6)
    assert bvh.names[0] == 'Hips' and set(bvh.ends) == {'Head', *(
        f'{side}{part}' for side in ('Left', 'Right') for part in ('Leg', 'ForeArm'))}


def test_knees_and_elbows_are_hinges(tmp_path):
    """A bent knee turns about x alone, an elbow about y alone, heels go back and hands forwards: so their signs."""
    bvh = exported(tmp_path, H36M, walk(40))
    angles = {name: [] for name in bvh.names}
    for (j, channel), values in zip(bvh.channels, np.transpose(bvh.rows), strict=True):
        if channel.endswith('rotation'):
            angles[bvh.names[j]].append(values)
    for bone, axis, sign in (('LeftLeg', 1, 1), ('RightLeg', 1, 1), ('LeftForeArm', 2, -1), ('RightForeArm', 2, 1)):
        about = sign * angles[bone].pop(axis)
        bent = about > 15.01
        assert bent.any() and about.min() > -1
        assert np.abs(angles[bone])[:, bent].max() < 1e-3
        assert np.abs(angles[bone]).max() < 2  # degrees, of nearly straight ones


def test_uneven_times_become_even(tmp_path):
    """Somebody who moves on at constant speed does so in the file too."""
    seconds = np.array([0, 0.1, 0.15, 0.3, 0.4])
    world = sitting() + seconds[:, None, None] * [1.0, 0, 0]
    bvh = exported(tmp_path, H36M, world, seconds, 10.0)
    assert bvh.step == pytest.approx(0.1)
    np.testing.assert_allclose([row[0] for row in bvh.rows], [0, 10, 20, 30, 40], atol=1e-4)


@pytest.mark.parametrize('skeleton', [H36M16, HUMANEVA15, HUMANEVA20, MPI_INF_3DHP], ids=lambda s: s.name)
def test_every_body_that_is_lifted_has_a_bvh(tmp_path, skeleton):
    at = dict(zip(H36M.joints, walk(6).swapaxes(0, 1), strict=True))
    world = np.stack([at[name.replace('upper_', '').replace('lower_', '')] for name in skeleton.joints], axis=1)
    found = places(exported(tmp_path, skeleton, world), 2)
    middle = (world[2, skeleton.joints.index('left_hip')] + world[2, skeleton.joints.index('right_hip')]) / 2
    np.testing.assert_allclose(found['Hips'], 100 * y_up(middle), atol=1e-3)
    assert np.linalg.norm(found['LeftForeArm end'] - 100 * y_up(at['left_wrist'][2])) < 1


def test_a_body_without_limbs_is_refused(tmp_path):
    points = Skeleton('points', ('hip', 'head'), (-1, 0))
    with pytest.raises(FileError, match='points'):
        exported(tmp_path, points, np.zeros((2, 2, 3)))
    assert not list(tmp_path.iterdir())


def test_predict_writes_a_bvh_of_one_frame(run, trained, tmp_path):
    files.npz(tmp_path / 'in.npz', files_person()[None])
    status, _out, err = run('-c', trained[0], '--evaluate', 'best.bin', '--predict', tmp_path / 'in.npz', '--output',
                            tmp_path / 'out.npz', '--layout', 'h36m', '--device', 'cpu', '--export', tmp_path / 'o.bvh')
    assert (status, err) == (0, '')
    want = 100 * fitted(H36M, y_up(read_npz(tmp_path / 'out.npz')['world'].astype(np.float64)))
    found = places(read_bvh(tmp_path / 'o.bvh'), 0)
    np.testing.assert_allclose([found[IN_BVH[joint]] for joint in H36M.joints], want[0], atol=1e-3)


def test_a_clip_that_is_too_long_for_a_c3d_is_told_before_it_is_lifted(refused, trained, tmp_path, monkeypatch):
    pytest.importorskip('ezc3d')
    monkeypatch.setattr('common.exports.c3d.MOST_FRAMES', 11)
    files.npz(tmp_path / 'in.npz', np.zeros((12, 17, 2)) + files_person())
    line = refused(1, '-c', trained[0], '--evaluate', 'best.bin', '--predict', tmp_path / 'in.npz', '--output',
                   tmp_path / 'out.npz', '--layout', 'h36m', '--device', 'cpu', '--as-is', '--export',
                   tmp_path / 'out.c3d')
    assert 'a C3D holds at most 11 frames, got 12' in line
    assert [path.name for path in tmp_path.iterdir()] == ['in.npz']


@pytest.mark.parametrize('name, own', [('a/clip.trc', 'a/clip_3.trc'), ('.trc', '_3.trc'), ('a.b.bvh', 'a.b_3.bvh')])
def test_a_person_has_files_of_their_own(name, own):
    config = parse(['--predict', 'in.json', '--output', 'out.npz', '--person', 'all', '--export', name])
    assert config_of(config, 3).predict.export == own
    assert config_of(config, 3).predict.npz == 'out_3.npz'
