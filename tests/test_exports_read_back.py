"""--export: files of other programs, read back by other programs' readers, and their binary kinds by naive ones."""

import json
import resource
import struct
import sys
import warnings
from itertools import islice
from types import SimpleNamespace

import keypoint_files as files
import numpy as np
import pytest
from test_exports import IN_BVH, files_person, fitted, sitting, walk, y_up

from common.errors import FileError
from common.exports import EXPORTS, PACKAGES, export
from common.exports.motion import of_world
from common.exports.trc import marker
from common.skeleton import H36M, H36M16, HUMANEVA15, HUMANEVA20, MPI_INF_3DHP, Skeleton
from common.storage.npz import read_npz

POINTS = Skeleton('points', ('hip', 'head'), (-1, 0))  # has no limbs
FRAMES = 21


def every_direction():
    """Return poses (T, 17, 3): noise, and one whose bones are parallel to what turns them."""
    return np.concatenate([np.random.default_rng(4).normal(size=(FRAMES - 1, 17, 3)), sitting()[None]])


def written(path, world, skeleton=H36M, seconds=None, fps=50.0):
    if path.suffix in PACKAGES:
        pytest.importorskip(PACKAGES[path.suffix])
    export(path, of_world(skeleton, world, np.arange(len(world)) / fps if seconds is None else seconds, fps))
    return path


# ---- glb: a naive reader ----------------------------------------------------------------------------------------


def read_glb(path):
    """Return the JSON of a GLB file and a function from an accessor's number to its array: the head is 12 bytes."""
    content = path.read_bytes()
    magic, version, length, size, kind = struct.unpack('<4sIII4s', content[:20])
    assert (magic, version, length, kind) == (b'glTF', 2, len(content), b'JSON')
    size_of_binary, kind = struct.unpack('<I4s', content[20 + size:28 + size])
    binary = content[28 + size:]
    assert kind == b'BIN\0' and len(binary) == size_of_binary and size % 4 == size_of_binary % 4 == 0
    head = json.loads(content[20:20 + size])

    def array(number):
        accessor = head['accessors'][number]
        letter = {5121: 'B', 5123: 'H', 5126: 'f'}[accessor['componentType']]
        across = {'SCALAR': 1, 'VEC3': 3, 'VEC4': 4, 'MAT4': 16}[accessor['type']]
        start = head['bufferViews'][accessor['bufferView']].get('byteOffset', 0) + accessor.get('byteOffset', 0)
        values = struct.unpack_from(f'<{across * accessor["count"]}{letter}', binary, start)
        return np.array(values).reshape(accessor['count'], across)
    return head, array


def rotated(q, v):
    """Return vectors v (..., 3) turned by a quaternion x, y, z, w: q v q*, as products of quaternions."""
    def times(a, b):
        return np.concatenate([a[..., 3:] * b[..., :3] + b[..., 3:] * a[..., :3] + np.cross(a[..., :3], b[..., :3]),
                               a[..., 3:] * b[..., 3:] - (a[..., :3] * b[..., :3]).sum(-1, keepdims=True)], axis=-1)
    return times(times(q, np.append(v, np.zeros_like(v[..., :1]), axis=-1)), q * [-1, -1, -1, 1])[..., :3]


def played(head, array):
    """Return name -> (T, 3) places of the nodes, name -> (T, 4) turns in the world, and the times (T,)."""
    (animation,) = head['animations']
    moved = {}
    for channel in animation['channels']:
        sampler = animation['samplers'][channel['sampler']]
        assert sampler.get('interpolation', 'LINEAR') == 'LINEAR'
        times = array(sampler['input'])[:, 0]
        moved[channel['target']['node'], channel['target']['path']] = array(sampler['output'])
    nodes, found, turns = head['nodes'], {}, {}

    def walk_down(number, place, turn):
        node = nodes[number]
        shift = moved.get((number, 'translation'), np.array([node.get('translation', (0, 0, 0))] * len(times)))
        own = moved.get((number, 'rotation'), np.array([node.get('rotation', (0, 0, 0, 1))] * len(times)))
        place = place + rotated(turn, shift)
        turn = np.concatenate([turn[:, 3:] * own[:, :3] + own[:, 3:] * turn[:, :3] + np.cross(turn[:, :3], own[:, :3]),
                               turn[:, 3:] * own[:, 3:] - (turn[:, :3] * own[:, :3]).sum(-1, keepdims=True)], axis=1)
        found[node['name']], turns[node['name']] = place, turn
        for child in node.get('children', ()):
            walk_down(child, place, turn)
    for number in head['scenes'][head['scene']]['nodes']:
        walk_down(number, np.zeros((len(times), 3)), np.tile([0.0, 0, 0, 1], (len(times), 1)))
    return SimpleNamespace(places=found, turns=turns, times=times, moved=moved)


def in_glb(joint):
    return IN_BVH[joint].replace(' end', '_end')


@pytest.mark.parametrize('world', [walk(FRAMES), every_direction()], ids=['walk', 'every direction'])
def test_glb_has_the_poses_with_fitted_lengths(tmp_path, world):
    """As the BVH has them, within what a float32 tells; quaternions are of length 1 and go on with their sign."""
    got = played(*read_glb(written(tmp_path / 'a.glb', world)))
    want = fitted(H36M, y_up(world))
    for j, joint in enumerate(H36M.joints):
        np.testing.assert_allclose(got.places[in_glb(joint)], want[:, j], atol=1e-5)
    np.testing.assert_allclose(got.times, np.arange(FRAMES) / 50, atol=1e-6)
    for (_node, path), values in got.moved.items():
        if path == 'rotation':
            np.testing.assert_allclose(np.sqrt((values ** 2).sum(-1)), 1, atol=1e-6)
            assert ((values[1:] * values[:-1]).sum(-1) >= 0).all()


def test_a_person_who_turns_round_and_round_has_no_jumps(tmp_path):
    """Twice, in steps of 10 degrees: a quaternion comes back to its negative after one turn."""
    angle = np.radians(10 * np.arange(73))
    c, s, o = np.cos(angle), np.sin(angle), 0 * angle
    world = np.einsum('ijt,kj->tki', np.array([[c, -s, o], [s, c, o], [o, o, o + 1]]), sitting())
    moved = played(*read_glb(written(tmp_path / 'a.glb', world))).moved[0, 'rotation']
    np.testing.assert_allclose(moved[36], -moved[0], atol=1e-6)
    np.testing.assert_allclose((moved[1:] * moved[:-1]).sum(-1), np.cos(np.radians(5)), atol=1e-6)


def test_glb_keeps_uneven_times_and_drops_those_that_are_the_same_to_it(tmp_path):
    seconds = np.array([100, 100.1, 100.15, 100.3, 200, 200 + 1e-7])
    world = sitting() + seconds[:, None, None] * [1.0, 0, 0]
    got = played(*read_glb(written(tmp_path / 'a.glb', world, seconds=seconds, fps=10.0)))
    np.testing.assert_allclose(got.times, [0, 0.1, 0.15, 0.3, 100], atol=1e-5)
    np.testing.assert_allclose(got.places['Hips'][:, 0], seconds[:5], atol=1e-5)
    unknown = played(*read_glb(written(tmp_path / 'b.glb', world, seconds=np.zeros(6), fps=10.0)))
    np.testing.assert_allclose(unknown.times, np.arange(6) / 10, atol=1e-6)


def test_a_glb_takes_256_bytes_a_frame(tmp_path):
    """A time, a place and 15 rotations."""
    sizes = [written(tmp_path / 'a.glb', walk(1)[:1].repeat(frames, axis=0)).stat().st_size for frames in (1000, 3000)]
    assert (sizes[1] - sizes[0]) / 2000 == pytest.approx(4 + 12 + 15 * 16, abs=0.1)
    assert sizes[1] < 800_000


def test_the_figure_of_a_glb_moves_with_the_bones(tmp_path):
    """By the inverse bind matrices: an octahedron from joint to joint in every frame, and its sides face outwards."""
    world = walk(FRAMES)
    head, array = read_glb(written(tmp_path / 'a.glb', world))
    got = played(head, array)
    names = [head['nodes'][node]['name'] for node in head['skins'][0]['joints']]
    bind = array(head['skins'][0]['inverseBindMatrices']).reshape(-1, 4, 4).swapaxes(1, 2)
    sides = {}
    for primitive in head['meshes'][0]['primitives']:
        held = array(primitive['attributes']['JOINTS_0'])[:, 0]
        corners = array(primitive['attributes']['POSITION'])
        material = head['materials'][primitive['material']]
        sides[material['name']] = set()
        for first in sorted({corner // 6 * 6 for corner in array(primitive['indices'])[:, 0]}):
            (number,) = set(held[first:first + 6])
            sides[material['name']].add(names[number])
            at_rest = [bind[number] @ [*corner, 1] for corner in corners[first:first + 6]]
            shown = [got.places[names[number]] + rotated(got.turns[names[number]], np.tile(corner[:3], (FRAMES, 1)))
                     for corner in at_rest]
            ends = [name for name in got.places if np.abs(got.places[name] - shown[1]).max() < 1e-5]
            assert ends, names[number]  # it ends at a joint, in every frame
            assert names[number] == 'Hips' or np.abs(shown[0] - got.places[names[number]]).max() < 1e-5
            length = np.linalg.norm(shown[1] - shown[0], axis=-1)
            for corner in shown[2:]:
                np.testing.assert_allclose(np.linalg.norm(corner - shown[0], axis=-1), 0.25 * length, atol=1e-5)
    assert sides['Left'] == {'Hips', 'LeftUpLeg', 'LeftLeg', 'LeftShoulder', 'LeftArm', 'LeftForeArm'}
    assert sides['Middle'] == {'LowerBack', 'Spine', 'Neck', 'Head'}


def test_the_colours_of_a_glb_are_those_of_the_pictures():
    """SRGB to linear light, as IEC 61966-2-1 has it."""
    pytest.importorskip('pygltflib')
    from common.drawing import look
    from common.exports.glb import COLOURS
    for side, name in (('Left', look.LEFT), ('Right', look.RIGHT), ('', look.MIDDLE)):
        value = np.array([int(name[i:i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
        np.testing.assert_allclose(COLOURS[side], linear, atol=5e-4)


@pytest.mark.parametrize('skeleton', [H36M16, HUMANEVA15, HUMANEVA20, MPI_INF_3DHP], ids=lambda s: s.name)
def test_every_body_that_is_lifted_has_a_glb_and_a_c3d(tmp_path, skeleton):
    at = dict(zip(H36M.joints, walk(6).swapaxes(0, 1), strict=True))
    world = np.stack([at[name.replace('upper_', '').replace('lower_', '')] for name in skeleton.joints], axis=1)
    head, array = read_glb(written(tmp_path / 'a.glb', world, skeleton))
    assert np.linalg.norm(played(head, array).places['LeftForeArm_end'][2] - y_up(at['left_wrist'][2])) < 0.01
    assert all(len(array(number)) for number in range(len(head['accessors'])))
    ezc3d = pytest.importorskip('ezc3d')
    labels = ezc3d.c3d(str(written(tmp_path / 'a.c3d', world, skeleton)))['parameters']['POINT']['LABELS']['value']
    assert labels == [marker(joint) for joint in skeleton.joints]


def test_bones_without_a_length_are_dots(tmp_path):
    head, array = read_glb(written(tmp_path / 'a.glb', np.zeros((2, 17, 3))))
    assert all(np.isfinite(array(number)).all() for number in range(len(head['accessors'])))


def test_trimesh_shows_the_first_frame(tmp_path):
    trimesh = pytest.importorskip('trimesh', reason='trimesh is not installed: it reads .glb')
    world = every_direction()
    scene = trimesh.load(str(written(tmp_path / 'a.glb', world)))
    want = fitted(H36M, y_up(world))[0]
    for joint, place in zip(H36M.joints, want, strict=True):
        np.testing.assert_allclose(scene.graph.get(in_glb(joint))[0][:3, 3], place, atol=1e-5)
    assert len(scene.geometry) == 3
    for mesh in scene.geometry.values():
        assert mesh.is_watertight and all(part.volume > 0 for part in mesh.split())


# ---- c3d --------------------------------------------------------------------------------------------------------


def with_c3d(path, most=None):
    """Return the reader of the package c3d, and what it reads, up to so many frames: points (T, J, 5)."""
    c3d = pytest.importorskip('c3d', reason='c3d is not installed: it reads .c3d')
    with open(path, 'rb') as file, warnings.catch_warnings():
        warnings.simplefilter('ignore')  # that there are no analogue data
        reader = c3d.Reader(file)
        return reader, np.array([points for _, points, _ in islice(reader.read_frames(), most)])


@pytest.mark.parametrize('frames', [1, 40])
def test_c3d_is_read_by_two_readers(tmp_path, frames):
    """In millimetres, as a float32 tells them: 5 m within 0.0003 mm."""
    path = tmp_path / 'my clip ä.c3d'
    world = walk(frames) + [3.0, -4, 0]
    written(path, world, fps=29.97)
    want, names = 1000 * y_up(world), [marker(joint) for joint in H36M.joints]
    ezc3d = pytest.importorskip('ezc3d')
    got = ezc3d.c3d(str(path))
    point = {name: value['value'] for name, value in got['parameters']['POINT'].items() if 'value' in value}
    assert point['LABELS'] == names
    assert (point['UNITS'], point['X_SCREEN'], point['Y_SCREEN']) == (['mm'], ['+X'], ['+Y'])
    assert point['RATE'] == pytest.approx(29.97) and point['FRAMES'] == frames
    np.testing.assert_allclose(got['data']['points'][:3].transpose(2, 1, 0), want, atol=3e-4)
    assert (got['data']['meta_points']['residuals'] == 0).all()  # no marker is missing
    reader, points = with_c3d(path)
    assert [label.strip() for label in reader.point_labels] == names
    assert reader.point_rate == pytest.approx(29.97)
    assert (reader.first_frame, reader.last_frame) == (1, frames)
    np.testing.assert_allclose(points[..., :3], want, atol=3e-4)
    assert (points[..., 3] == 0).all()


def test_c3d_has_even_frames(tmp_path):
    seconds = np.array([0, 0.1, 0.15, 0.3, 0.4])
    world = sitting() + seconds[:, None, None] * [1.0, 0, 0]
    reader, points = with_c3d(written(tmp_path / 'a.c3d', world, seconds=seconds, fps=9.0))
    assert reader.point_rate == pytest.approx(10)
    np.testing.assert_allclose(points[:, 0, 0], [0, 100, 200, 300, 400], atol=1e-3)


def test_c3d_of_too_many_frames(tmp_path):
    """As many as two readers find again are written, one more is refused; ezc3d would leave out what is more."""
    world = np.arange(65535.0)[:, None, None] * np.ones((1, 2, 3)) / 1000
    with pytest.raises(FileError, match=r'b\.c3d: a C3D holds at most 65,534 frames, got 65,535; cut'):
        written(tmp_path / 'b.c3d', world, POINTS)
    assert not list(tmp_path.iterdir())
    path = written(tmp_path / 'a.c3d', world[:-1], POINTS)
    got = pytest.importorskip('ezc3d').c3d(str(path))['data']['points']
    assert got.shape == (4, 2, 65534) and got[0, 0, -1] == pytest.approx(65533)
    reader, points = with_c3d(path, 9)  # of one more it would find none
    assert (reader.last_frame, len(points)) == (65534, 9) and points[-1, 1, 0] == 8


# ---- bvh and trc ------------------------------------------------------------------------------------------------


def test_bvhio_has_the_joints_where_they_are(tmp_path):
    """Within 0.01 cm; ends of limbs by the length of their bone."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of how it imports PyGLM
        bvhio = pytest.importorskip('bvhio', reason='bvhio is not installed: it reads .bvh')
    world = every_direction()
    path = written(tmp_path / 'a.bvh', world)
    assert bvhio.readAsBvh(str(path)).FrameTime == pytest.approx(0.02)
    root, want = bvhio.readAsHierarchy(str(path)), 100 * fitted(H36M, y_up(world))
    for frame in range(FRAMES):
        root.loadPose(frame)
        found = {joint.Name: np.array(joint.PositionWorld) for joint, _, _ in root.layout()}
        for j, joint in enumerate(H36M.joints):
            if not IN_BVH[joint].endswith('end'):
                np.testing.assert_allclose(found[IN_BVH[joint]], want[frame, j], atol=0.01)


def test_a_trc_is_read_as_pose2sim_does(tmp_path):
    """As pandas.read_csv(skiprows=4, sep='\\t') of Pose2Sim: the line of X1 Y1 Z1 … is the head of its table."""
    world = walk(5)
    path = written(tmp_path / 'my clip ä.trc', world)
    table = np.genfromtxt(path, delimiter='\t', skip_header=4, names=True, comments=None, encoding='utf-8')
    assert table.dtype.names[2:] == tuple(f'{axis}{m}' for m in range(1, 18) for axis in 'XYZ')
    got = np.stack([table[name] for name in table.dtype.names[2:]], axis=1)
    np.testing.assert_allclose(got.reshape(5, 17, 3), y_up(world), atol=1e-6)
    assert path.read_text(encoding='utf-8').startswith('PathFileType\t4\t(X/Y/Z)\tmy clip ä.trc\n')


# ---- all kinds --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('suffix', EXPORTS)
def test_predict_writes_one_frame_to_a_name_of_any_letters(run, trained, tmp_path, suffix):
    if suffix in PACKAGES:
        pytest.importorskip(PACKAGES[suffix])
    files.npz(tmp_path / 'in.npz', files_person()[None])
    path = tmp_path / f'Åsa läuft{suffix}'
    status, _out, err = run('-c', trained[0], '--evaluate', 'best.bin', '--predict', tmp_path / 'in.npz', '--output',
                           tmp_path / 'out.npz', '--layout', 'h36m', '--device', 'cpu', '--export', path)
    assert (status, err) == (0, ''), err
    assert path.stat().st_size > 500
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / 'in.npz', tmp_path / 'out.npz', path])
    if suffix == '.glb':
        world = read_npz(tmp_path / 'out.npz')['world'].astype(np.float64)
        np.testing.assert_allclose(played(*read_glb(path)).places['Head_end'], fitted(H36M, y_up(world))[:, 10],
                                   atol=1e-5)


@pytest.mark.parametrize('suffix', PACKAGES)
def test_a_missing_package_is_told_before_anything_is_read(refused, tmp_path, monkeypatch, suffix):
    monkeypatch.setitem(sys.modules, PACKAGES[suffix], None)
    monkeypatch.chdir(tmp_path)
    line = refused(1, '--evaluate', 'x.bin', '--predict', 'in.npy', '--output', 'out.npz', '--export', f'clip{suffix}')
    assert line.endswith(f'writing clip{suffix} needs {PACKAGES[suffix]}: pip install {PACKAGES[suffix]}')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('suffix', EXPORTS)
@pytest.mark.parametrize('most', [0, 100, 600, 1100, 1600, 3000, 9000])
def test_a_full_disk_leaves_what_was_there(tmp_path, suffix, most):
    path = written(tmp_path / f'a{suffix}', walk(40))
    before, limit = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    assert len(before) > 9000
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limit[1]))
    try:
        with pytest.raises(FileError, match=f'cannot write {path}'):
            written(path, walk(30) + 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('suffix', EXPORTS)
def test_a_body_without_limbs_has_markers_and_no_bones(tmp_path, suffix):
    world = np.zeros((2, 2, 3))
    if suffix in ('.bvh', '.glb'):
        with pytest.raises(FileError, match=f'cannot write a{suffix}: .*points'):
            written(tmp_path / f'a{suffix}', world, POINTS)
        assert not list(tmp_path.iterdir())
    else:
        written(tmp_path / f'a{suffix}', world, POINTS)


@pytest.mark.parametrize('suffix', EXPORTS)
def test_a_name_that_is_not_utf8(tmp_path, suffix):
    """As old discs have them: ezc3d cannot write it."""
    path = tmp_path / f'l\udce4uft{suffix}'
    if suffix == '.c3d':
        with pytest.raises(FileError, match=r'l\?uft.c3d: ezc3d writes no name that is not UTF-8'):
            written(path, walk(2))
    else:
        written(path, walk(2))
        assert b'l?uft' in path.read_bytes() or suffix == '.bvh'


def test_a_file_may_be_called_by_its_suffix_alone(tmp_path):
    export(tmp_path / '.trc', of_world(H36M, walk(2), np.arange(2) / 50, 50.0))
    assert (tmp_path / '.trc').read_text().startswith('PathFileType')
