"""CMU motion capture: ASF/AMC to npz by data/prepare_data_cmu.py, and the loader of what it writes."""

import gzip
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.datasets import acclaim, load_dataset
from common.errors import FileError
from common.skeleton import H36M
from common.storage.npz import read_npz, write_npz
from data import prepare_data_cmu as prepare

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / 'data' / 'prepare_data_cmu.py'
NPZ = ('data_3d_cmu.npz', 'data_2d_cmu_gt.npz', 'data_2d_cmu_noisy.npz')

# A person in centimetres, y up, facing +z in a T pose: bone -> (parent, direction, length, axis, dof).
BONES = {
    'lhipjoint': ('root', '1 0 0', 10, '0 0 0', ''), 'rhipjoint': ('root', '-1 0 0', 10, '0 0 0', ''),
    'lfemur': ('lhipjoint', '0 -1 0', 40, '0 0 0', 'rx ry rz'), 'rfemur': ('rhipjoint', '0 -1 0', 40, '0 0 0', 'rz rx'),
    'ltibia': ('lfemur', '0 -1 0', 45, '0 0 0', 'rx'), 'rtibia': ('rfemur', '0 -1 0', 45, '0 0 0', 'rx'),
    'lowerback': ('root', '0 1 0', 20, '0 0 0', ''), 'upperneck': ('lowerback', '0 1 0', 40, '0 0 0', ''),
    'head': ('upperneck', '0 1 0', 15, '0 0 0', ''),
    'lclavicle': ('lowerback', '1 0 0', 20, '0 0 0', ''), 'rclavicle': ('lowerback', '-1 0 0', 20, '0 0 0', ''),
    'lhumerus': ('lclavicle', '1 0 0', 30, '0 0 90', 'rx ry rz'),
    'rhumerus': ('rclavicle', '-1 0 0', 30, '90 0 90', 'rx'),
    'lradius': ('lhumerus', '1 0 0', 25, '0 0 0', 'ry'), 'rradius': ('rhumerus', '-1 0 0', 25, '0 0 0', ''),
}
REST = {
    'hip': (0, 0, 0), 'right_hip': (-10, 0, 0), 'right_knee': (-10, -40, 0), 'right_ankle': (-10, -85, 0),
    'left_hip': (10, 0, 0), 'left_knee': (10, -40, 0), 'left_ankle': (10, -85, 0), 'spine': (0, 20, 0),
    'thorax': (0, 20, 0), 'neck': (0, 60, 0), 'head': (0, 75, 0), 'left_shoulder': (20, 20, 0),
    'left_elbow': (50, 20, 0), 'left_wrist': (75, 20, 0), 'right_shoulder': (-20, 20, 0),
    'right_elbow': (-50, 20, 0), 'right_wrist': (-75, 20, 0),
}


def asf_text(bones=BONES, order='TX TY TZ RX RY RZ', axis='XYZ', length='2.54', head=15):
    """Return an ASF file; with length 2.54 one unit is a centimetre."""
    lines = ['# a comment', ':version 1.10', ':units', '  mass 1.0', f'  length {length}', '  angle deg',
             ':documentation', '  begin free text', ':root', f'   order {order}', f'   axis {axis}',
             '   position 0 0 0', '   orientation 0 0 0', ':bonedata']
    for number, (name, (_, direction, size, angles, dof)) in enumerate(bones.items(), 1):
        size = head if name == 'head' else size
        lines += ['  begin', f'  id {number}', f'  name {name}', f'  direction {direction}', f'  length {size}',
                  f'  axis {angles} XYZ', *([f'  dof {dof}', '  limits (-1 1)'] if dof else []), '  end']
    lines += [':hierarchy', '  begin', *(f'  {bone[0]} {name}' for name, bone in bones.items()), '  end']
    return '\n'.join(lines) + '\n'


def amc_text(*frames, first=1):
    """Return an AMC file; a frame gives the values of the bones that do not rest."""
    lines = ['#!OML:ASF', ':FULLY-SPECIFIED', ':DEGREES']
    for number, frame in enumerate(frames or ({},), first):
        lines.append(str(number))
        rest = {'root': '0 0 0 0 0 0', **{name: ' '.join(['0'] * len(bone[4].split())) for name, bone in BONES.items()}}
        lines += [f'{name} {values}' for name, values in {**rest, **frame}.items() if values]
    return '\n'.join(lines) + '\n'


def posed(tmp_path, frame, **asf):
    """Return joint -> position in centimetres in the source's axes, for one frame of the little person."""
    (tmp_path / '01.asf').write_text(asf_text(**asf))
    (tmp_path / '01_01.amc').write_text(amc_text(frame))
    skeleton = acclaim.read_asf(tmp_path / '01.asf')
    joints = acclaim.joint_positions(skeleton, acclaim.read_amc(tmp_path / '01_01.amc', skeleton))
    assert joints.shape == (1, 17, 3)
    return dict(zip(H36M.joints, joints[0], strict=True))


def write_little_people(folder, subjects=('01', '02', '03', '04'), frames=30):
    """Write one clip of walking for each subject, all of different size."""
    folder.mkdir(exist_ok=True)
    for index, subject in enumerate(subjects):
        (folder / f'{subject}.asf').write_text(asf_text(head=15 + index))
        motion = amc_text(*({'root': f'{k} 85 {2 * k} 0 0 0'} for k in range(frames)))
        (folder / f'{subject}_01.amc').write_text(motion)
    return folder


# ---- forward kinematics, by hand --------------------------------------------------------------------------------


@pytest.mark.parametrize('frame, expected', [
    ({}, {}),
    ({'root': '1 2 3 0 0 0'}, {name: np.add(place, (1, 2, 3)) for name, place in REST.items()}),
    # A quarter turn of the body about the vertical: what was to the left, x, comes to -z.
    ({'root': '0 0 0 0 90 0'}, {name: (z, y, -x) for name, (x, y, z) in REST.items()}),
    # x before y: up, y, goes to z and from there to x; left, x, goes to -z.
    ({'root': '0 0 0 90 90 0'}, {name: (y, -z, -x) for name, (x, y, z) in REST.items()}),
    # The shin turns with the thigh.
    ({'lfemur': '90 0 0'}, {'left_knee': (10, 0, -40), 'left_ankle': (10, 0, -85)}),
    ({'lfemur': '-90 0 0', 'ltibia': '90'}, {'left_knee': (10, 0, 40), 'left_ankle': (10, -45, 40)}),
    # x before z: the thigh lies along -z when z turns it; in the other order it would end along x.
    ({'lfemur': '90 0 90'}, {'left_knee': (10, 0, -40), 'left_ankle': (10, 0, -85)}),
    # The dof of this bone are written z first; still x is applied first.
    ({'rfemur': '90 0'}, {'right_knee': (30, 0, 0), 'right_ankle': (75, 0, 0)}),
    ({'rfemur': '0 90'}, {'right_knee': (-10, 0, -40), 'right_ankle': (-10, 0, -85)}),
    ({'rfemur': '90 90'}, {'right_knee': (-10, 0, -40), 'right_ankle': (-10, 0, -85)}),
    # The axis turns this bone's x to y: C M C^-1, where C^-1 M C would bend the arm forward instead.
    ({'lhumerus': '90 0 0'}, {'left_elbow': (20, 20, -30), 'left_wrist': (20, 20, -55)}),
    ({'lhumerus': '0 90 0'}, {}),  # its y is -x: the arm turns about itself
    # Axis x 90 then z 90: x goes to y, so x turns the arm about y.
    ({'rhumerus': '90'}, {'right_elbow': (-20, 20, 30), 'right_wrist': (-20, 20, 55)}),
    ({'lradius': '90'}, {'left_wrist': (50, 20, -25)}),
])
def test_a_pose_computed_by_hand(tmp_path, frame, expected):
    joints = posed(tmp_path, frame)
    for name, place in {**REST, **expected}.items():
        np.testing.assert_allclose(joints[name], place, atol=1e-9, err_msg=name)


def test_root_channels_follow_order_and_rotations_follow_axis(tmp_path):
    """The channels come in the order of `order`, the rotations in that of `axis`."""
    joints = posed(tmp_path, {'root': '90 90 0 3 2 1'}, order='RX RY RZ TZ TY TX', axis='ZYX')
    # y before x: left (x) goes to -z and then to y; down goes to -z.
    np.testing.assert_allclose(joints['left_hip'], (1, 12, 3), atol=1e-9)
    np.testing.assert_allclose(joints['left_knee'], (1, 12, -37), atol=1e-9)


def test_unit_is_an_inch_divided_by_the_length(tmp_path):
    path = tmp_path / 'a.asf'
    for length, unit in (('2.54', 0.01), ('0.45', 0.0254 / 0.45)):
        path.write_text(asf_text(length=length))
        assert acclaim.read_asf(path).unit == pytest.approx(unit)


def test_world_is_z_up_on_the_floor_and_centred(tmp_path):
    folder = write_little_people(tmp_path / 'mocap', ('01',))
    motion = prepare.convert(folder).positions['01']['Motion 01_01']
    assert motion.shape == (13, 17, 3) and motion.dtype == np.float32  # 29 intervals at 120 Hz are 12.08 at 50 Hz
    place = dict(zip(H36M.joints, motion.transpose(1, 0, 2), strict=True))
    np.testing.assert_allclose(place['left_ankle'][:, 2], prepare.ANKLE_HEIGHT, atol=1e-6)
    np.testing.assert_allclose(place['head'][:, 2] - place['left_ankle'][:, 2], 1.60, atol=1e-6)
    # 2 cm a frame forward (z, now -y) and 1 cm to the left (x): 2.4 and 1.2 m/s.
    np.testing.assert_allclose(np.diff(place['hip'], axis=0) * 50, np.tile([1.2, -2.4, 0], (12, 1)), atol=1e-4)
    np.testing.assert_allclose((place['left_hip'] - place['right_hip'])[0], (0.2, 0, 0), atol=1e-6)
    low, high = motion.min((0, 1)), motion.max((0, 1))
    np.testing.assert_allclose((low + high)[:2], 0, atol=1e-6)


def test_smoothing_keeps_lines_and_resampling_keeps_the_first_frame():
    line = np.arange(40.0)[:, None] * [1, -2]
    np.testing.assert_allclose(prepare.smooth(line, 1), line, atol=1e-9)
    spike = np.zeros(21)
    spike[10] = 1
    assert prepare.smooth(spike, 1)[10] == pytest.approx(0.3989, abs=1e-3)  # the peak of a unit Gaussian
    np.testing.assert_allclose(prepare.resample(line, 120, 50)[:, 0], np.arange(17) * 2.4)
    assert len(prepare.resample(np.zeros((13, 2)), 120, 50)) == 6
    assert len(prepare.resample(prepare.smooth(np.zeros((1, 2)), 1), 120, 50)) == 1


# ---- labels, files, split ---------------------------------------------------------------------------------------


@pytest.mark.parametrize('description, label', [
    ('walk', 'Walk'), ('walk, veer right', 'Walk'), ('run/jog', 'Run'), ('wash self', 'WashSelf'),
    ('slow walk', 'SlowWalk'), ('walking, sitting, looking', 'Walk'), ('jumps kicks and punches', 'JumpsKicks'),
    ('playground - climb', 'Playground'), ('genie (human subject)', 'Genie'), ('fishing', 'Fishing'),
    ('Unknown', 'Motion'), ('', 'Motion'), ('90-degree turn', 'Motion'), ('swing', 'Swing'), ('carry 20lb', 'CarryLb'),
])
def test_labels_are_the_first_activity_in_one_word(description, label):
    assert prepare.label(description) == label


def test_labels_come_from_the_index(tmp_path):
    folder = write_little_people(tmp_path / 'mocap', ('01', '02'))
    (folder / prepare.INDEX).write_text('"Motion, \u201call of it\u201d",,\n\nMOTION,DESCRIPTION,SUBJECT\n,,\n'
                                        '01_01,"bend over, rise",Subject #1\n', encoding='utf-8')
    assert [list(actions) for actions in prepare.convert(folder).positions.values()] == [
        ['BendOver 01_01'], ['Motion 02_01']]


@pytest.mark.parametrize('clip, skeletons, stem', [
    ('07_01', ('0', '07', '07_0'), '07'), ('charleston1', ('char', 'charleston', '07'), 'charleston'),
    ('zombie', ('zombie',), 'zombie'), ('a_b_01', ('a', 'a_b'), 'a_b'),
    ('131_01', ('13', '1'), None), ('07_01', ('08',), None), ('walk', ('zombie',), None),
])
def test_a_clip_finds_its_skeleton_by_its_name(clip, skeletons, stem):
    if stem:
        assert prepare.skeleton_of(clip, Path(f'{clip}.amc'), skeletons) == stem
    else:
        missing = clip.rpartition('_')[0] or clip
        with pytest.raises(FileError, match=rf'{clip}\.amc has no skeleton: {missing}\.asf is missing'):
            prepare.skeleton_of(clip, Path(f'{clip}.amc'), skeletons)


def test_clips_of_a_named_skeleton_go_to_the_subject_with_the_same_bones(tmp_path):
    folder = write_little_people(tmp_path / 'mocap', ('03', '05'))
    (folder / 'dance.asf').write_text(asf_text(head='16.00').replace('a comment', 'another comment'))
    (folder / 'mime.asf').write_text(asf_text(head=99))
    for name in ('dance', 'mime2'):
        (folder / f'{name}.amc').write_text(amc_text())
    conversion = prepare.convert(folder)
    assert conversion.aliases == {'dance': '05'}
    assert {subject: list(actions) for subject, actions in conversion.positions.items()} == {
        '03': ['Motion 03_01'], '05': ['Motion 05_01', 'Motion dance'], 'mime': ['Motion mime2']}


def test_every_fourth_subject_is_tested_on():
    assert prepare.split(list('abcdefgh')) == (list('abcefg'), list('dh'))
    assert prepare.split(list('abc')) == (list('ab'), list('c'))
    assert prepare.split(['a']) == (['a'], ['a'])


def test_gzip_subfolders_and_capitals_are_read(tmp_path):
    plain = write_little_people(tmp_path / 'plain', ('01',))
    packed = tmp_path / 'packed'
    (packed / 'subjects').mkdir(parents=True)
    (packed / 'subjects' / '01.ASF.gz').write_bytes(gzip.compress((plain / '01.asf').read_bytes()))
    (packed / '01_01.amc.GZ').write_bytes(gzip.compress((plain / '01_01.amc').read_bytes().replace(b'\n', b'\r\n')))
    first, second = (prepare.convert(folder).positions['01']['Motion 01_01'] for folder in (plain, packed))
    np.testing.assert_array_equal(first, second)


# ---- the command ------------------------------------------------------------------------------------------------


def test_runs_from_anywhere(tmp_path):
    write_little_people(tmp_path / 'mocap')
    done = subprocess.run([sys.executable, SCRIPT, 'mocap'], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')
    assert '4 subjects, 4 clips, 52 frames at 50 a second' in done.stdout
    assert re.search(r'test +04 +1 clips', done.stdout)
    assert sorted(path.name for path in (tmp_path / 'data').iterdir()) == sorted(NPZ)


def test_deterministic_and_independent_of_other_clips(tmp_path):
    folder = write_little_people(tmp_path / 'mocap')
    for out in ('a', 'b/c'):
        assert prepare.main([str(folder), '--data', str(tmp_path / out)]) == 0
    for name in NPZ:
        assert (tmp_path / 'a' / name).stat().st_size == (tmp_path / 'b/c' / name).stat().st_size
    first, second = (read_npz(tmp_path / out / NPZ[2])['positions_2d'] for out in ('a', 'b/c'))
    alone = prepare.convert(write_little_people(tmp_path / 'few', ('01',))).views['noisy']
    for other in (second, alone):
        np.testing.assert_array_equal(first['01']['Motion 01_01'], other['01']['Motion 01_01'])
    for subject, left, right in (('01', 0, 1), ('02', 0, 0)):  # no two views share their noise
        exact = read_npz(tmp_path / 'a' / NPZ[1])['positions_2d']
        noise = [first[s]['Motion ' + s + '_01'][k] - exact[s]['Motion ' + s + '_01'][k]
                 for s, k in (('01', left), (subject, right))]
        assert abs(noise[0] - noise[1]).max() > 1


def edit(name, old, new, count=1):
    def change(folder):
        path = folder / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, count))
    return change


def truncate(folder):
    path = folder / '02_01.amc'
    (folder / '02_01.amc.gz').write_bytes(gzip.compress(path.read_bytes())[:-40])
    path.unlink()


@pytest.mark.parametrize('change, sentence', [
    (truncate, r'02_01\.amc\.gz is not a whole gzip file'),
    (lambda folder: (folder / '02_01.amc').write_text(''), r'02_01\.amc is empty'),
    (lambda folder: (folder / '02.asf').write_text(' \n'), r'02\.asf is empty'),
    (lambda folder: (folder / '02.asf').unlink(), r'02_01\.amc has no skeleton: 02\.asf is missing'),
    (lambda folder: (folder / '02_01.amc.gz').write_bytes(b''), r'02_01\.amc and .*02_01\.amc\.gz are both called'),
    (lambda folder: (folder / '02_01.amc').write_text('1\n'), r'02_01\.amc ends too early: frame 1 has no bone root'),
    (lambda folder: (folder / '02_01.amc').write_text(':DEGREES\n'), r'02_01\.amc ends too early: there is no frame'),
    (edit('02_01.amc', 'lfemur 0 0 0', 'lfemur 0 0'), r'02_01\.amc line 6: bone lfemur has 2 values, expected 3'),
    (edit('02_01.amc', 'ltibia 0', 'ltibia 0 1'), r'02_01\.amc line \d+: bone ltibia has 2 values, expected 1'),
    (edit('02_01.amc', 'lfemur 0 0 0', 'lfemur 0 x 0'), r'line 6: bone lfemur has "0 x 0", expected 3 finite numbers'),
    (edit('02_01.amc', 'lfemur 0 0 0', 'lfemur 0 nan 0'), r'line 6: .*expected 3 finite numbers'),
    (edit('02_01.amc', 'lfemur 0 0 0\n', ''), r'02_01\.amc line \d+: frame 1 has no bone lfemur'),
    (edit('02_01.amc', 'lfemur 0 0 0\n', 'lfemur 0 0 0\n' * 2), r'line 7: bone lfemur occurs twice'),
    (edit('02_01.amc', 'lfemur', 'tail'), r'02_01\.amc line 6: tail is not a bone that moves'),
    (edit('02_01.amc', '\n3\n', '\n4\n'), r'02_01\.amc line \d+: frame 4 follows frame 2'),
    (edit('02_01.amc', '\n1\n', '\n'), r'02_01\.amc line 4: root comes before the first frame number'),
    (edit('02_01.amc', ':DEGREES', ':RADIANS'), r'02_01\.amc line 3: angles in radians'),
    (edit('02_01.amc', 'root 0 85 0', 'root 0 1e300 0'), r'02_01\.amc covers 1e\+298 m, expected less than 50 m'),
    (edit('02.asf', 'name lfemur', 'name tail'), r'02\.asf line \d+: the hierarchy names lfemur'),
    (edit('02.asf', '  lhipjoint lfemur\n', ''), r'02\.asf has no bone lfemur'),
    (edit('02.asf', '  root lhipjoint', '  lfemur lhipjoint'), r'02\.asf has no bone lhipjoint'),
    (edit('02.asf', '  root rhipjoint', '  root lhipjoint'), r'02\.asf line \d+: bone lhipjoint has two parents'),
    (edit('02.asf', 'name rhipjoint', 'name lhipjoint'), r'02\.asf line \d+: bone lhipjoint occurs twice'),
    (edit('02.asf', '  direction 1 0 0\n', ''), r'02\.asf line \d+: bone lhipjoint has no direction'),
    (edit('02.asf', '  direction 1 0 0', '  direction 1 0'), r'02\.asf line 18: 2 values, expected 3'),
    (edit('02.asf', '  axis 0 0 0 XYZ', '  axis 0 0 0 XXZ'), r'02\.asf line 20: axis order "XXZ"'),
    (edit('02.asf', '  dof rx ry rz', '  dof rx l'), r'02\.asf line \d+: dof rx l, expected some of rx ry rz'),
    (edit('02.asf', 'TX TY TZ', 'TX TY'), r'02\.asf line 10: root order TX TY RX RY RZ'),
    (edit('02.asf', '   order TX TY TZ RX RY RZ\n', ''), r'02\.asf says no order under :root'),
    (edit('02.asf', 'angle deg', 'angle rad'), r'02\.asf line 6: angles in rad, expected deg'),
    (edit('02.asf', 'length 2.54', 'length 0'), r'02\.asf line 5: length 0, expected more than 0'),
    (edit('02.asf', '  length 2.54\n', ''), r'02\.asf says no length under :units'),
])
def test_error_is_a_sentence_and_nothing_is_written(tmp_path, capsys, change, sentence):
    folder = write_little_people(tmp_path / 'mocap', ('01', '02'))
    change(folder)
    assert prepare.main([str(folder), '--data', str(tmp_path / 'out')]) == 1
    out, err = capsys.readouterr()
    assert out == '' and re.match(r'prepare_data_cmu\.py: error: .*' + sentence, err) and err.count('\n') == 1
    assert not (tmp_path / 'out').exists()


def test_folders_without_motion_are_refused(tmp_path, capsys):
    (tmp_path / '01.asf').write_text(asf_text())
    for folder, sentence in ((tmp_path, 'holds no .amc'), (tmp_path / 'none', 'there is no folder')):
        assert prepare.main([str(folder), '--data', str(tmp_path / 'out')]) == 1
        assert sentence in capsys.readouterr().err


def test_output_folders_that_cannot_be_made_are_refused(tmp_path, capsys):
    folder = write_little_people(tmp_path / 'mocap', ('01',))
    (tmp_path / 'file').write_text('')
    for out in ('file', 'file/below'):
        assert prepare.main([str(folder), '--data', str(tmp_path / out)]) == 1
        assert 'cannot make the folder' in capsys.readouterr().err


# ---- the loader -------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def little_data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('cmu')
    assert prepare.main([str(write_little_people(folder / 'mocap')), '--data', str(folder)]) == 0
    return folder


def test_the_loader_reads_what_the_converter_wrote(little_data):
    conversion = prepare.convert(little_data / 'mocap')
    for keypoints in ('gt', 'noisy'):
        dataset = load_dataset('cmu', little_data, keypoints)
        assert (dataset.name, dataset.keypoints, dataset.fps) == ('cmu', keypoints, 50)
        assert dataset.skeleton is H36M and dataset.layout is H36M
        assert (dataset.subjects_train, dataset.subjects_test) == (('01', '02', '03'), ('04',))
        for subject, cameras in conversion.cameras.items():
            for camera, expected in zip(dataset.cameras[subject], cameras, strict=True):
                for name in ('orientation', 'translation', 'intrinsic'):
                    np.testing.assert_array_equal(getattr(camera, name), getattr(expected, name))
                    assert getattr(camera, name).dtype == np.float32
                assert (camera.width, camera.height) == (expected.width, expected.height)
            for action, motion in conversion.positions[subject].items():
                np.testing.assert_array_equal(dataset.positions[subject][action], motion)
                np.testing.assert_array_equal(dataset.detections[subject][action],
                                              conversion.views[keypoints][subject][action])
        assert len(dataset.sequences(dataset.subjects_test)) == 4
    assert load_dataset('cmu', little_data).keypoints == 'noisy'


def without(tree, *path):
    *path, last = path
    for key in path:
        tree = tree[key]
    del tree[last]


def put(value, *path):
    def change(members):
        tree = members
        for key in path[:-1]:
            tree = tree[key]
        tree[path[-1]] = value
    return change


@pytest.mark.parametrize('change, sentence', [
    (lambda members: without(members, 'cameras'), 'cameras is not there'),
    (lambda members: without(members, 'metadata'), 'metadata says fps'),
    (lambda members: without(members, 'positions_3d'), 'has no positions_3d'),
    (lambda members: without(members, 'cameras', '02'), 'cameras of subject 02 are missing'),
    (put([], 'cameras', '02'), 'cameras of subject 02 are missing'),
    (put('x', 'cameras', '02', 1), 'camera 1 of subject 02: orientation is not 4 finite numbers'),
    (put([1, 0, 0], 'cameras', '02', 1, 'orientation'), 'camera 1 of subject 02: orientation is not 4 finite numbers'),
    (put([2, 0, 0, 0], 'cameras', '02', 1, 'orientation'), 'orientation is not a unit quaternion'),
    (put([0, 0, float('nan')], 'cameras', '02', 1, 'translation'), 'translation is not 3 finite numbers'),
    (put('far', 'cameras', '02', 1, 'translation'), 'translation is not 3 finite numbers'),
    (lambda members: without(members, 'cameras', '02', 1, 'intrinsic'), 'intrinsic is not 9 finite numbers'),
    (put(0, 'cameras', '02', 1, 'width'), "width is 0, expected pixels"),
    (put(0, 'metadata', 'fps'), "metadata says fps '0'"),
    (put('50', 'metadata', 'fps'), "metadata says fps '50'"),
    (lambda members: without(members, 'metadata', 'subjects_test'), 'metadata has no subjects_test'),
    (put('01', 'metadata', 'subjects_train'), 'metadata has no subjects_train'),
    (put(['01', '99'], 'metadata', 'subjects_train'), 'subjects_train names 99, which positions_3d has not'),
])
def test_malformed_3d_files_are_refused_by_name(little_data, tmp_path, change, sentence):
    members = read_npz(little_data / NPZ[0])
    change(members)
    write_npz(tmp_path / NPZ[0], **members)
    (tmp_path / NPZ[1]).write_bytes((little_data / NPZ[1]).read_bytes())
    with pytest.raises(FileError, match=re.escape(sentence)) as caught:
        load_dataset('cmu', tmp_path, 'gt')
    assert str(tmp_path / NPZ[0]) in str(caught.value) and '\n' not in str(caught.value)
