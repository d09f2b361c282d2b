"""BVH files in data/prepare_data_cmu.py: the CMU database in its other form, and what --export writes."""

import gzip
import re
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from raw_files import converted, refusal
from scipy.spatial.transform import Rotation
from test_cmu import write_little_people
from test_exports import IN_BVH, places, read_bvh

from common.datasets import acclaim, bvh, load_dataset
from common.datasets.synthetic import motion
from common.errors import FileError
from common.exports import export
from common.exports.motion import of_world
from common.skeleton import H36M
from data import prepare_data_cmu as prepare

MOCAP = Path(__file__).resolve().parents[2] / 'shared' / 'mocap'

# ASF bone -> the joint that begins with it in the MotionBuilder-friendly conversion.
NAMES = {'root': 'Hips', 'lowerback': 'LowerBack', 'upperback': 'Spine', 'thorax': 'Spine1', 'lowerneck': 'Neck',
         'upperneck': 'Neck1', 'head': 'Head'}
for side, letter in (('Left', 'l'), ('Right', 'r')):
    NAMES |= {f'{letter}hipjoint': f'{letter.upper()}HipJoint', f'{letter}femur': f'{side}UpLeg',
              f'{letter}tibia': f'{side}Leg', f'{letter}foot': f'{side}Foot', f'{letter}toes': f'{side}ToeBase',
              f'{letter}clavicle': f'{side}Shoulder', f'{letter}humerus': f'{side}Arm',
              f'{letter}radius': f'{side}ForeArm', f'{letter}wrist': f'{side}Hand',
              f'{letter}hand': f'{side}FingerBase', f'{letter}fingers': f'{side}HandIndex1',
              f'{letter}thumb': f'{letter.upper()}Thumb'}


def to_bvh(skeleton, motion, rest_first=True, scale=1.0):
    """Return a take as BVH text as the conversion writes it: in ASF units, with 120 frames a second after a rest pose.

    A bone's rotation goes to the joint where it begins; there C M C^-1, by scipy, is cut into angles about z, y and x.
    """
    count = len(motion['root'])
    columns, lines = [], ['HIERARCHY']

    def values(name):
        """Return the values about x, y and z (T, 3) of a bone."""
        bone = skeleton.bones[name]
        by_dof = dict(zip(bone.dof, motion[name].T, strict=True)) if bone.dof else {}
        return np.stack([by_dof.get(f'r{axis}', np.zeros(count)) for axis in 'xyz'], axis=-1)

    def add(name, offset, indent):
        bone = skeleton.bones[name]
        inside, tip = indent + '\t', scale * bone.length * np.array(bone.direction)
        frame = Rotation.from_euler('xyz', bone.angles, degrees=True)
        local = frame * Rotation.from_euler('xyz', values(name), degrees=True) * frame.inv()
        six = name == 'root'
        if six:
            columns.append(scale * motion['root'][:, :3])
        columns.append(local.as_euler('ZYX', degrees=True))
        lines.extend([f'{indent}{"ROOT" if six else "JOINT"} {NAMES[name]}', f'{indent}{{',
                      f'{inside}OFFSET ' + ' '.join(f'{x:.5f}' for x in offset), f'{inside}CHANNELS '
                      + ('6 Xposition Yposition Zposition ' if six else '3 ') + 'Zrotation Yrotation Xrotation '])
        children = skeleton.children.get(name, ())
        for child in children:
            add(child, tip, inside)
        if not children:
            lines.extend([f'{inside}End Site', f'{inside}{{', f'{inside}\tOFFSET ' + ' '.join(f'{x:.5f}' for x in tip),
                          f'{inside}}}'])
        lines.append(f'{indent}}}')

    add('root', (0, 0, 0), '')
    rows = np.concatenate(columns, axis=1)
    if rest_first:
        rows = np.concatenate([np.zeros((1, rows.shape[1])), rows])
    lines += ['MOTION', f'Frames: {len(rows)}', 'Frame Time: .0083333']
    return '\n'.join([*lines, *(' '.join(f'{value:.4f}' for value in row) for row in rows)]) + '\n'


CLIPS = ('02_03', '07_01', '16_22', '38_02')


@pytest.fixture(scope='session')
def both(tmp_path_factory):
    """Return folders with the same real takes: ASF and AMC; BVH."""
    if not MOCAP.is_dir():
        pytest.skip(f'the real motion is not at {MOCAP}')
    folders = [tmp_path_factory.mktemp(name) for name in ('amc', 'bvh')]
    for clip in CLIPS:
        for name in (f'{clip[:2]}.asf', f'{clip}.amc.gz'):
            shutil.copy(MOCAP / name, folders[0] / name)
        skeleton = acclaim.read_asf(MOCAP / f'{clip[:2]}.asf')
        text = to_bvh(skeleton, acclaim.read_amc(MOCAP / f'{clip}.amc.gz', skeleton))
        (folders[1] / clip[:2]).mkdir()
        (folders[1] / clip[:2] / f'{clip}.bvh').write_text(text)
    return folders


# ---- the same motion ---------------------------------------------------------------------------------------------


def test_bvh_and_amc_of_a_take_give_the_same_joints(both):
    amc, from_bvh = (prepare.convert(folder) for folder in both)
    assert from_bvh.notes == [
        'the unit of the BVH files is the ASF unit (5.64 cm): in it, everyone is 1.1 to 2.1 m tall from the ankles to '
        'the top of the head', 'the first frame of 4 BVH files is a rest pose, and was left out']
    assert (from_bvh.train, from_bvh.test) == (amc.train, amc.test) == (['02', '07', '16'], ['38'])
    for subject, actions in amc.positions.items():
        assert list(actions) == list(from_bvh.positions[subject])
        for action, want in actions.items():
            got = from_bvh.positions[subject][action]
            assert got.shape == want.shape and got.dtype == np.float32
            assert np.linalg.norm(got - want, axis=-1).max() < 1e-5, action  # 0.01 mm: angles have 4 decimals


def test_kinematics_are_those_of_a_naive_reader(both):
    path = both[1] / '02' / '02_03.bvh'
    got, naive = bvh.joint_positions(bvh.read_bvh(path)), read_bvh(path)
    for frame in (0, 1, 50, len(got) - 1):
        found = places(naive, frame)
        want = [np.mean([found[name] for name in bvh.PLACES_OF_JOINTS[joint]], axis=0) for joint in H36M.joints]
        np.testing.assert_allclose(got[frame], want, atol=1e-9)


def test_what_export_writes_can_be_read(tmp_path):
    world = motion('Walking', 1.0, 60, np.random.default_rng(3)).astype(np.float64)
    (tmp_path / 'in').mkdir()
    path = tmp_path / 'in' / 'walk_1.bvh'
    export(path, of_world(H36M, world, np.arange(len(world)) / 50, 50.0))
    take = bvh.read_bvh(path)
    assert (take.fps, bvh.unit_of(path, take)) == (50, 'centimetre')
    got, naive = bvh.joint_positions(take), read_bvh(path)
    found = places(naive, 30)
    for joint, name in IN_BVH.items():
        if joint != 'thorax':  # here it is the middle of the shoulders
            np.testing.assert_allclose(got[30, H36M.joints.index(joint)], found[name], atol=1e-6, err_msg=joint)
    conversion = prepare.convert(tmp_path / 'in')
    assert len(conversion.notes) == 1  # no frame is left out
    read = conversion.positions['walk']['Motion walk_1']
    assert read.shape == world.shape
    relative = [poses - poses[:, :1] for poses in (read, world)]
    legs = [H36M.joints.index(f'{side}_{joint}') for side in ('left', 'right') for joint in ('hip', 'knee', 'ankle')]
    assert np.abs(relative[0] - relative[1])[:, legs].max() < 1e-3


# ---- a small person, by hand -------------------------------------------------------------------------------------

# Joint -> (parent, offset in cm): in its rest pose it stands as a T, towards +z.
PERSON = {'Hips': (None, (0, 0, 0)), 'LeftUpLeg': ('Hips', (10, 0, 0)), 'LeftLeg': ('LeftUpLeg', (0, -40, 0)),
          'LeftFoot': ('LeftLeg', (0, -45, 0)), 'RightUpLeg': ('Hips', (-10, 0, 0)),
          'RightLeg': ('RightUpLeg', (0, -40, 0)), 'RightFoot': ('RightLeg', (0, -45, 0)),
          'LowerBack': ('Hips', (0, 0, 0)), 'Spine': ('LowerBack', (0, 20, 0)), 'LeftArm': ('Spine', (20, 25, 0)),
          'LeftForeArm': ('LeftArm', (30, 0, 0)), 'LeftHand': ('LeftForeArm', (25, 0, 0)),
          'RightArm': ('Spine', (-20, 25, 0)), 'RightForeArm': ('RightArm', (-30, 0, 0)),
          'RightHand': ('RightForeArm', (-25, 0, 0)), 'Head': ('Spine', (0, 35, 0))}
REST = {'hip': (0, 0, 0), 'right_hip': (-10, 0, 0), 'right_knee': (-10, -40, 0), 'right_ankle': (-10, -85, 0),
        'left_hip': (10, 0, 0), 'left_knee': (10, -40, 0), 'left_ankle': (10, -85, 0), 'spine': (0, 20, 0),
        'thorax': (0, 45, 0), 'neck': (0, 55, 0), 'head': (0, 75, 0), 'left_shoulder': (20, 45, 0),
        'left_elbow': (50, 45, 0), 'left_wrist': (75, 45, 0), 'right_shoulder': (-20, 45, 0),
        'right_elbow': (-50, 45, 0), 'right_wrist': (-75, 45, 0)}
SIX = 'Xposition Yposition Zposition Zrotation Yrotation Xrotation'


def person(*frames, root=SIX, channels=None, seconds='.0083333', scale=1.0):
    """Return a BVH file; a frame gives the values of the joints that do not rest."""
    channels = {'Hips': root, **(channels or {})}
    order, lines = [], ['HIERARCHY']

    def add(name, indent):
        parent, offset = PERSON[name]
        own = channels.get(name, 'Zrotation Yrotation Xrotation')
        order.append((name, len(own.split())))
        lines.extend([f'{indent}{"JOINT" if parent else "ROOT"} {name}', f'{indent}{{',
                      f'{indent}  OFFSET {" ".join(str(scale * x) for x in offset)}',
                      f'{indent}  CHANNELS {len(own.split())} {own}'])
        held = [child for child, (parent, _) in PERSON.items() if parent == name]
        for child in held:
            add(child, indent + '  ')
        if not held:
            lines.extend([f'{indent}  {line}' for line in ('End Site', '{', f'  OFFSET 0 {20 * scale} 0', '}')])
        lines.append(f'{indent}}}')

    add('Hips', '')
    lines += ['MOTION', f'Frames: {len(frames)}', f'Frame Time: {seconds}']
    lines += [' '.join(frame.get(name, ' '.join(['0'] * count)) for name, count in order) for frame in frames]
    return '\n'.join(lines) + '\n'


def posed(tmp_path, frame, **form):
    """Return joint -> place, in centimetres, in one frame."""
    (tmp_path / 'a.bvh').write_text(person(frame, **form))
    return dict(zip(H36M.joints, bvh.joint_positions(bvh.read_bvh(tmp_path / 'a.bvh'))[0], strict=True))


@pytest.mark.parametrize('frame, form, expected', [
    ({}, {}, {}),
    ({'Hips': '1 2 3 0 0 0'}, {}, {name: np.add(place, (1, 2, 3)) for name, place in REST.items()}),
    # A quarter turn about the vertical: what was to the left comes to -z.
    ({'Hips': '0 0 0 0 90 0'}, {}, {name: (z, y, -x) for name, (x, y, z) in REST.items()}),
    # x is last in the file, so first about fixed axes: up goes to z and, by y, to x; left goes to -z.
    ({'Hips': '0 0 0 0 90 90'}, {}, {name: (y, -z, -x) for name, (x, y, z) in REST.items()}),
    # The same with the channels in another order and place.
    ({'Hips': '90 3 90 2 0 1'}, {'root': 'Yrotation Zposition Xrotation Yposition Zrotation Xposition'},
     {name: (y + 1, -z + 2, -x + 3) for name, (x, y, z) in REST.items()}),
    # The other way about: y first leaves up as it is, which x brings to z; left goes to -z and, by x, to y.
    ({'Hips': '0 0 0 90 90 0'}, {'root': 'Xposition Yposition Zposition Xrotation Yrotation Zrotation'},
     {name: (z, x, y) for name, (x, y, z) in REST.items()}),
    # Knees bend back, and shins turn with thighs.
    ({'LeftUpLeg': '0 0 -90', 'LeftLeg': '0 0 90'}, {}, {'left_knee': (10, 0, 40), 'left_ankle': (10, -45, 40)}),
    # A joint whose place is in the frames: its OFFSET does not count.
    ({'LeftArm': '22 26 3 0 0 0'}, {'channels': {'LeftArm': SIX}},
     {'left_shoulder': (22, 46, 3), 'left_elbow': (52, 46, 3), 'left_wrist': (77, 46, 3), 'thorax': (1, 45.5, 1.5)}),
    ({'LeftForeArm': '90'}, {'channels': {'LeftForeArm': 'Yrotation', 'LeftHand': ''}}, {'left_wrist': (50, 45, -25)}),
    # The head goes forward by its own turn, not the neck.
    ({'Head': '0 0 90'}, {}, {'head': (0, 55, 20)}),
])
def test_a_pose_computed_by_hand(tmp_path, frame, form, expected):
    joints = posed(tmp_path, frame, **form)
    for name, place in {**REST, **expected}.items():
        np.testing.assert_allclose(joints[name], place, atol=1e-9, err_msg=name)


def walking(count=30, **form):
    return person(*({'Hips': f'{k} 85 {2 * k} 0 0 0', 'LeftUpLeg': f'0 0 {k}'} for k in range(1, count + 1)), **form)


@pytest.mark.parametrize('unit, name', [(1, 'centimetre'), (0.45 / 2.54, 'ASF unit'), (0.01, 'metre'),
                                        (1 / 2.54, 'inch'), (10, 'millimetre')])
def test_the_unit_is_the_one_of_a_person(tmp_path, unit, name):
    (tmp_path / '01_01.bvh').write_text(person({}, {'LeftUpLeg': '0 0 1'}, scale=unit))
    conversion = prepare.convert(tmp_path)
    assert conversion.notes[0].startswith(f'the unit of the BVH files is the {name}')
    pose = dict(zip(H36M.joints, conversion.positions['01']['Motion 01_01'][0], strict=True))
    np.testing.assert_allclose(pose['head'][2] - pose['right_ankle'][2], 1.60, atol=1e-3)


def test_no_two_units_fit_one_person():
    metres = sorted(bvh.UNITS.values())
    assert all(larger / smaller > bvh.TALLEST / bvh.SHORTEST for smaller, larger in pairwise(metres))


def test_people_of_no_or_several_units_are_refused(tmp_path, capsys):
    (tmp_path / '01_01.bvh').write_text(walking(scale=3))
    line = refusal(capsys, prepare.main, tmp_path, '--data', tmp_path / 'out', says=(
        '01_01.bvh is of a person of 480 units from the ankles', 'say with --bvh-unit'))
    (tmp_path / '01_01.bvh').write_text(walking())
    (tmp_path / '02_01.bvh').write_text(walking(scale=0.01))
    line = refusal(capsys, prepare.main, tmp_path, '--data', tmp_path / 'out')
    assert re.search(r'unit of .*02_01\.bvh seems to be the metre, but that of .*01_01\.bvh the centimetre', line)
    assert not (tmp_path / 'out').exists()


def test_a_given_unit_is_taken(tmp_path, capsys):
    (tmp_path / '01_01.bvh').write_text(walking(scale=3))
    out, _ = converted(capsys, prepare.main, tmp_path, '--data', tmp_path / 'out', '--bvh-unit', '0.3333333')
    assert 'the unit of' not in out
    pose = load_dataset('cmu', tmp_path / 'out').positions['01']['Motion 01_01'][0]
    assert pose[10, 2] - pose[3, 2] == pytest.approx(1.6, abs=1e-3)
    for unit in ('0', '-1', 'nan', 'inf'):
        refusal(capsys, prepare.main, tmp_path, '--data', tmp_path / 'out', f'--bvh-unit={unit}', status=2,
                says='--bvh-unit is')


# ---- the first frame, rates, files -------------------------------------------------------------------------------


def first_left_out(tmp_path, *frames, **form):
    (tmp_path / 'a.bvh').write_text(person(*frames, **form))
    take = bvh.read_bvh(tmp_path / 'a.bvh')
    return bvh.begins_in_rest(take, bvh.joint_positions(take), 0.01)


def test_a_first_frame_that_is_no_motion_is_known(tmp_path):
    step, next_step = {'Hips': '0 85 0 0 0 0', 'LeftLeg': '0 0 9'}, {'Hips': '0 85 1 0 0 0', 'LeftLeg': '0 0 10'}
    assert not first_left_out(tmp_path, step, next_step)
    assert first_left_out(tmp_path, {}, step, next_step)
    assert first_left_out(tmp_path, {'Hips': '0 85 0 0 9 0'}, step, next_step)  # turned as a whole
    assert not first_left_out(tmp_path, {}, {})  # somebody who stands still so
    assert not first_left_out(tmp_path, {})
    # Not at rest in the file's own terms, but arms and place are far from what follows.
    away = {'Hips': '90 85 0 0 0 0', 'LeftArm': '1 0 0', 'RightArm': '-1 0 0'}
    assert first_left_out(tmp_path, away, step)
    running = [{'Hips': f'0 85 {k * 6} 0 0 0', 'LeftLeg': '0 0 9'} for k in range(2)]  # 7.2 m/s
    assert not first_left_out(tmp_path, *running)


@pytest.mark.parametrize('seconds, rate, frames', [('.0083333', 120, 13), ('0.02', 50, 30), ('0.0333667', 29.97, 49)])
def test_rates_are_read_and_brought_to_50(tmp_path, seconds, rate, frames):
    (tmp_path / '01_01.bvh').write_text(walking(seconds=seconds))
    assert bvh.read_bvh(tmp_path / '01_01.bvh').fps == rate
    read = prepare.convert(tmp_path).positions['01']['Motion 01_01']
    assert len(read) == frames
    np.testing.assert_allclose(np.diff(read[:, 0], axis=0) * 50, np.tile([rate / 100, -rate / 50, 0], (frames - 1, 1)),
                               atol=1e-3)


def test_amc_and_bvh_can_lie_in_one_folder_but_no_take_twice(tmp_path, capsys):
    folder = write_little_people(tmp_path / 'mocap', ('01', '02'))
    (folder / 'more').mkdir()
    (folder / 'more' / '02_07.BVH.gz').write_bytes(gzip.compress(walking().replace('\n', '\r\n').encode()))
    (folder / 'more' / '131_02.bvh').write_text(walking())
    conversion = prepare.convert(folder)
    assert {subject: list(actions) for subject, actions in conversion.positions.items()} == {
        '01': ['Motion 01_01'], '02': ['Motion 02_01', 'Motion 02_07'], '131': ['Motion 131_02']}
    (folder / 'more' / '01_01.bvh').write_text(walking())
    refusal(capsys, prepare.main, folder, '--data', tmp_path / 'out', says='are both called 01_01; keep one of them')


def test_test_subjects_stay_those_of_the_documented_results():
    database = [f'{number:02}' for number in range(1, 145)]
    assert prepare.split(database)[1] == ['06', '11', '35', '49'] and len(prepare.split(database)[0]) == 140
    numbers = 1, 2, 5, 6, 7, 8, 10, 11, 13, 16, 32, 35, 38, 39, 43, 49, 55, 86
    clips = [*(f'{number:02}' for number in numbers), 'charleston', 'zombie']
    assert prepare.split(clips)[1] == clips[3::4]


# ---- files that cannot be understood -----------------------------------------------------------------------------


def swap(old, new, count=1):
    def change(text):
        assert old in text
        return text.replace(old, new, count)
    return change


@pytest.mark.parametrize('change, sentence', [
    (lambda text: '', r'01_01\.bvh is empty'),
    (lambda text: '\0\x01PK\ufffd' * 999, r'line 1: ".*expected HIERARCHY: is it a BVH file\?'),
    (lambda text: 'HIERARCHY\n', r'line 1: the file ends before MOTION'),
    (lambda text: 'HIERARCHY\nMOTION\n', r'line 2: MOTION comes before the end of any ROOT'),
    (lambda text: text[:text.index('MOTION')], r'line \d+: the file ends before MOTION'),
    (lambda text: text[:text.index('Frames')], r'line \d\d+: the file ends before Frames:'),
    (lambda text: text[:text.index('Frame Time')], r'the file ends after 0 of 30 frames'),
    (lambda text: text[:text.rindex('\n', 0, -1)], r'line \d+: the file ends after 29 of 30 frames'),
    (lambda text: text[:-20], r'line \d+: \d+ values, but the channels of the file are 51'),
    (lambda text: text + text[text.rindex('\n', 0, -1) + 1:], r'there are more than the 30 frames'),
    (swap('Frames: 30', 'Frames: 1000000000'), r'the file ends after 30 of 1000000000 frames'),
    (swap('Frames: 30', f'Frames: {"9" * 5000}'), r'"Frames: 9+", expected Frames: and their number'),
    (swap('Frames: 30', 'Frames: -1'), r'"Frames: -1", expected'),
    (swap('Frames: 30', 'Frames: 0'), r'"Frames: 0", expected'),
    (swap('Frame Time: .0083333', 'Frame Time: 0'), r'"Frame Time: 0", expected Frame Time: and 0\.001 to 0\.2 s'),
    (swap('Frame Time: .0083333', 'Frame Time: nan'), r'"nan", expected 1 finite'),
    (swap('Frame Time: .0083333', 'Frame Time: 120'), r'"Frame Time: 120", expected'),
    (swap('\n1 85 2 ', '\n1 nan 2 '), r'line \d+: value 2 is "nan", expected a finite number'),
    (swap('\n1 85 2 ', '\n1 85 x '), r'line \d+: value 3 is "x", expected a finite number'),
    (swap('\n1 85 2 ', '\n1 85 2 0 '), r'line \d+: 52 values, but the channels of the file are 51'),
    (swap('\n3 85 6 ', '\n3 1e300 6 '), r'01_01\.bvh covers (1e\+298|inf|nan) m, expected less than 50 m'),
    (swap('LeftUpLeg', 'LeftHip'), r'01_01\.bvh has no joint LeftUpLeg, which the 17 joints need$'),
    (swap('LowerBack', 'abdomen'), None),
    (lambda text: swap('Spine', 'chest')(swap('LowerBack', 'abdomen')(text)),
     r'no joint Spine, which the 17 joints need: take the MotionBuilder-friendly'),
    (swap('JOINT RightLeg', 'JOINT LeftLeg'), r'line \d+: LeftLeg occurs twice'),
    (swap('JOINT LeftLeg', 'ROOT LeftLeg'), r'ROOT LeftLeg stands where there can be none'),
    (swap('MOTION', 'ROOT B\n{\nOFFSET 0 0 0\n}\nMOTION'), r'ROOT B stands where there can be none'),
    (swap('JOINT LeftLeg', 'JOINT'), r'"JOINT", expected JOINT and one word'),
    (swap('JOINT LeftLeg', 'JOINT Left Leg'), r'"JOINT Left Leg", expected JOINT and one word'),
    (swap('{', ''), r'line 4: "OFFSET 0\.0 0\.0 0\.0", expected { after Hips'),
    (swap('}\nMOTION', '\nMOTION'), r'MOTION comes before the end of Hips'),
    (swap('}\nMOTION', '}\n}\nMOTION'), r'"}", expected ROOT or MOTION'),
    (swap('  OFFSET 10.0 0.0 0.0\n', ''), r'LeftUpLeg has no OFFSET'),
    (swap('OFFSET 10.0 0.0 0.0', 'OFFSET 10 0'), r'line \d+: 2 values, expected 3'),
    (swap('OFFSET 10.0 0.0 0.0', 'OFFSET 10 inf 0'), r'"10 inf 0", expected 3 finite numbers'),
    (swap('OFFSET 10.0 0.0 0.0', 'OFFSET 1 1 1\nOFFSET 1 1 1'), r'"OFFSET 1 1 1" does not belong into LeftUpLeg'),
    (swap('CHANNELS 6', 'CHANNELS 5'), r'channels "5 Xposition.*expected their number'),
    (swap('3 Zrotation Yrotation', '3 Zrotation Zrotation'), r'channels "3 Zrotation Zrotation'),
    (swap('3 Zrotation Yrotation', '3 Zrotation Wrotation'), r'channels "3 Zrotation Wrotation'),
    (swap('6 Xposition Yposition Zposition', '3'), r'the root Hips has no Xposition'),
    (swap('End Site\n', 'End Site\n{\nJOINT A\n'), r'A hangs on an End Site'),
    (lambda text: re.sub(r'OFFSET (\S+) (\S+) (\S+)', r'OFFSET \1 \3 \2', text), r'does not stand upright along y'),
    (lambda text: re.sub(r'OFFSET (\S+) (\S+) (\S+)', r'OFFSET 0 0 0', text), r'does not stand upright along y'),
])
def test_error_is_a_sentence_and_nothing_is_written(tmp_path, capsys, change, sentence):
    (tmp_path / 'in').mkdir()
    (tmp_path / 'in' / '01_01.bvh').write_text(change(walking()))
    if sentence is None:  # a name that nothing asks for
        converted(capsys, prepare.main, tmp_path / 'in', '--data', tmp_path / 'out')
        return
    line = refusal(capsys, prepare.main, tmp_path / 'in', '--data', tmp_path / 'out')
    assert re.search(sentence, line.rstrip()) and '01_01.bvh' in line and len(line) < 400, line
    assert not (tmp_path / 'out').exists()


def test_deep_and_huge_files_are_refused_in_time(tmp_path):
    deep = 'HIERARCHY\nROOT a\n{\n' + ''.join(f'JOINT b{k}\n{{\nOFFSET 0 0 0\n' for k in range(20000))
    path = tmp_path / 'a.bvh'
    path.write_text(deep)
    with pytest.raises(FileError, match='line 60003: the file ends before MOTION'):
        bvh.read_bvh(path)
    path.write_text(walking().replace('JOINT LeftFoot', ''.join(
        f'JOINT b{k}\n{{\nOFFSET 0 0 0\nCHANNELS 0\n' for k in range(20000)) + 'JOINT LeftFoot', 1).replace(
        'JOINT RightUpLeg', '}\n' * 20000 + 'JOINT RightUpLeg', 1))
    assert len(bvh.joint_positions(bvh.read_bvh(path))) == 30
    with open(path, 'wb') as file:
        file.truncate(bvh.MOST_BYTES + 1)
    with pytest.raises(FileError, match='more than any take of a person'):
        bvh.read_bvh(path)


@pytest.mark.parametrize('fps, frames', [(120, 5), (120, 1)])
def test_long_takes_are_posed_in_blocks(tmp_path, monkeypatch, fps, frames):
    (tmp_path / 'a.bvh').write_text(walking(frames))
    take = bvh.read_bvh(tmp_path / 'a.bvh')
    whole = bvh.joint_positions(take)
    monkeypatch.setattr(bvh, 'BLOCK', 2)
    np.testing.assert_array_equal(bvh.joint_positions(take), whole)
