"""Training by random views: virtual cameras against the numpy ones, what they draw, and whole runs with them."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL
from processes import run_alone
from test_resume import assert_same_run

from common.datasets import DATASETS, load_dataset
from common.datasets.virtual_views import CAMERAS, seen_anew
from common.distributed import World
from common.errors import FlagError
from common.geometry.camera import normalise
from common.models import build_model
from common.noise import DetectorNoise
from common.sampler import WindowSampler
from common.skeleton import COCO, H36M, H36M16
from common.store import SequenceStore
from common.views import (
    ANOTHER,
    BONES,
    DISTANCE,
    LENGTH,
    MARGIN,
    PITCH,
    ROLL,
    SCALE,
    VirtualCameras,
    draw_cameras,
    rotation,
)

CPU = torch.device('cpu')
EVERYTHING = frozenset({'confidence', 'intrinsic', 'root', 'root_depth'})


@pytest.fixture(scope='module')
def dataset():
    return load_dataset('synthetic', Path())


@pytest.fixture(scope='module')
def store(dataset):
    return SequenceStore(dataset.sequences(['S1'], ['Walking'], subset=0.4), H36M, H36M, CPU)


def windows(dataset, count, frames=27):
    """(count, frames, 17, 3) of a take, in its world."""
    moved = torch.from_numpy(dataset.positions['S1']['Walking'])
    return torch.stack([moved[start:start + frames] for start in np.arange(count) % (len(moved) - frames)])


def sampler(store, layout=H36M, noise=False, needs=EVERYTHING, **more):
    return WindowSampler(store, 9, True, 1, needs=needs, cameras=VirtualCameras(H36M, layout, CPU),
                         noise=DetectorNoise(layout, CPU) if noise else None, **more)


@pytest.mark.parametrize('number', range(CAMERAS))
def test_a_fixed_view_is_what_the_numpy_camera_sees(dataset, number):
    anew, take = seen_anew(dataset, H36M, noise=False), dataset.positions['S5']['Reaching']
    sequence = anew.view('S5', 'Reaching', number)
    camera = sequence.seen_by
    np.testing.assert_allclose(sequence.poses + sequence.root[:, None], camera.from_world(take), atol=2e-5)
    pixels = camera.project(take.astype(np.float64))
    np.testing.assert_allclose(sequence.keypoints, normalise(pixels, camera.width, camera.height), atol=2e-5)
    assert (pixels > 0).all() and (pixels < [camera.width, camera.height]).all()
    np.testing.assert_allclose(sequence.upright, camera.upright, atol=1e-6)
    forward = camera.upright[:, 2]
    quarter = (PITCH[1] - PITCH[0]) / CAMERAS
    assert PITCH[0] + number * quarter <= np.degrees(-np.arcsin(forward[2])) <= PITCH[0] + (number + 1) * quarter


def test_fixed_views_do_not_depend_on_what_else_is_selected(dataset):
    anew = seen_anew(dataset, COCO, noise=True)
    among_others = next(s for s in anew.sequences(['S5', 'S6']) if (s.subject, s.action) == ('S6', 'Waving'))
    alone = anew.sequences(['S6'], ['Waving'])[0]
    np.testing.assert_array_equal(among_others.keypoints, alone.keypoints)
    np.testing.assert_array_equal(among_others.confidence, alone.confidence)


def test_cameras_keep_to_their_ranges_and_people_to_the_picture(dataset):
    joints, cameras = windows(dataset, 2000), draw_cameras(2000, torch.Generator().manual_seed(1))
    assert LENGTH[0] <= cameras.lengths.min() and cameras.lengths.max() <= LENGTH[1]
    cameras = cameras._replace(lengths=torch.ones_like(cameras.lengths))
    seen = VirtualCameras(H36M, COCO, CPU).see(joints, cameras)
    # The turn from the world's axes to the camera's by least squares, which knows nothing of angles.
    flat, moved = ((x - x.mean(dim=(1, 2), keepdim=True)).flatten(1, 2).double() for x in (joints, seen.joints))
    u, _, v = torch.linalg.svd(moved.mT @ flat)
    turn = u @ v
    assert (torch.linalg.det(turn) > 0).all()
    torch.testing.assert_close(turn, rotation(cameras).double(), atol=1e-4, rtol=0)
    pitch, azimuth = torch.rad2deg(-turn[:, 2, 2].asin()), torch.atan2(turn[:, 2, 1], turn[:, 2, 0])
    level = torch.stack([azimuth.sin(), -azimuth.cos(), 0 * azimuth], dim=-1)
    roll = torch.rad2deg((turn[:, 0] * level).sum(-1).clamp(-1, 1).acos())
    for drawn, (low, high) in ((pitch, PITCH), (azimuth, (-math.pi, math.pi)), (roll, (0, ROLL[1]))):
        assert low - 1e-2 <= drawn.min() and drawn.max() <= high + 1e-2
        share = torch.histc(drawn, 4, low, high) / len(drawn)
        assert (share - 0.25).abs().max() < 0.05  # evenly, in each quarter
    # Bones are as long as they were, times the scale of the body.
    before, after = (torch.stack([(x[:, :, j] - x[:, :, p]).norm(dim=-1) for j, p in H36M.edges])
                     for x in (joints, seen.joints))
    torch.testing.assert_close(after, before * cameras.scale[:, None], atol=1e-5, rtol=1e-4)
    assert SCALE[0] <= cameras.scale.min() and cameras.scale.max() <= SCALE[1]
    border = MARGIN * torch.stack([torch.ones(2000), cameras.aspect], dim=-1)[:, None, None]
    assert (seen.keypoints.abs() <= border + 1e-4).all()
    depth = seen.joints[..., 2].mean(dim=(1, 2))
    assert (depth >= DISTANCE[0] - 0.5).all()
    assert (depth - cameras.distance < 1e-2).float().mean() > 0.3  # as drawn, where the motion stays in the picture


def test_bones_are_as_long_as_drawn_and_point_as_they_did(dataset):
    joints, cameras = windows(dataset, 40), draw_cameras(40, torch.Generator().manual_seed(1))
    viewer = VirtualCameras(H36M, COCO, CPU)
    seen, plain = (viewer.see(joints, cameras._replace(lengths=lengths)).joints
                   for lengths in (cameras.lengths, torch.ones_like(cameras.lengths)))
    kinds = {name: index for index, bone in enumerate(BONES) for name in bone}
    for joint, parent in H36M.edges:
        factor = cameras.lengths[:, kinds[H36M.joints[joint].split('_')[-1]]]
        torch.testing.assert_close(seen[:, :, joint] - seen[:, :, parent], factor[:, None, None] * (
            plain[:, :, joint] - plain[:, :, parent]), atol=1e-5, rtol=0)


def test_legs_of_another_keep_their_bend_and_look_where_these_hips_do(dataset):
    joints, others = windows(dataset, 40), windows(dataset, 40).flip(0)
    viewer = VirtualCameras(H36M, COCO, CPU)
    mixed = viewer.with_legs_of(others, joints)
    legs = list(range(1, 7))
    rest = [0, *range(7, 17)]
    assert torch.equal(mixed[:, :, rest], joints[:, :, rest])
    own, theirs = (x[:, :, legs] - x[:, :, :1] for x in (mixed, others))
    torch.testing.assert_close(torch.cdist(own, own), torch.cdist(theirs, theirs), atol=1e-3, rtol=0)
    torch.testing.assert_close(own[..., 2], theirs[..., 2], atol=1e-5, rtol=0)
    across, asked = ((x[:, :, 4] - x[:, :, 1])[..., :2] for x in (mixed, joints))
    torch.testing.assert_close(torch.nn.functional.normalize(across, dim=-1),
                               torch.nn.functional.normalize(asked, dim=-1), atol=1e-4, rtol=0)
    torch.testing.assert_close(viewer.with_legs_of(joints, joints), joints, atol=1e-5, rtol=0)


def test_some_windows_have_the_legs_of_others(store):
    taken = sampler(store)
    window = torch.tensor([[0, 20, 0]]).expand(400, 3)
    poses = taken._seen(window, (0, 0), 400, slice(0, 400)).poses
    knee = (poses[:, 0, 2] - poses[:, 0, 1]).norm(dim=-1) / (poses[:, 0, 3] - poses[:, 0, 2]).norm(dim=-1)
    angle = ((poses[:, 0, 1] - poses[:, 0, 2]) * (poses[:, 0, 3] - poses[:, 0, 2])).sum(-1) / (
        (poses[:, 0, 1] - poses[:, 0, 2]).norm(dim=-1) * (poses[:, 0, 3] - poses[:, 0, 2]).norm(dim=-1))
    other = ((angle - angle.median()).abs() > 1e-4).float().mean()
    assert knee.std() > 0.02 and ANOTHER - 0.1 < other < ANOTHER + 0.1


def test_cmu_has_wrists_and_heads_where_people_have_them():
    rest = torch.zeros(1, 1, 17, 3)
    rest[..., 13, 0], rest[..., 12, 0], rest[..., 10, 2], rest[..., 9, 2] = 0.686, 0.5, 0.6, 0.5
    lengthened = DATASETS['cmu'].lengthened
    factors = torch.tensor([[lengthened.get(name.split('_')[-1], 1) for name in H36M.joints]])
    grown = VirtualCameras(H36M, COCO, CPU).grown(rest, factors)
    assert grown[0, 0, 13, 0] - grown[0, 0, 12, 0] == pytest.approx(0.249, abs=0.001)
    assert grown[0, 0, 10, 2] - grown[0, 0, 9, 2] == pytest.approx(0.185, abs=0.001)
    assert torch.equal(grown[..., 1:10, :], rest[..., 1:10, :]) and not DATASETS['h36m'].lengthened


def test_motion_comes_back_from_camera_axes_to_the_world(dataset, store):
    """Each sequence's joints, turned upright, are the take's but for a shift; gravity included."""
    rows = torch.arange(10)[None]
    for index, (subject, take, _) in enumerate(store.takes[:4]):
        moved = store.moving(torch.tensor([index]), rows + index * store.lengths[0])[0]
        first = (220 - store.lengths[0]) // 2
        truth = torch.from_numpy(dataset.positions[subject][take][first:first + 10])
        torch.testing.assert_close(moved - moved[0, 0], truth - truth[0, 0], atol=1e-5, rtol=0)


def test_windows_are_projections_of_their_poses_mirrored_or_not(store):
    for step in sampler(store).epoch(0, 16):
        batch = step.batch
        joints = batch.poses + batch.root[:, :, None]
        projected = batch.intrinsic[:, None, None, :2] * joints[..., :2] / joints[..., 2:]
        torch.testing.assert_close(batch.keypoints[..., :2], projected, atol=1e-5, rtol=0)
        assert (batch.keypoints[..., 2] == 1).all() and torch.equal(batch.root[..., 2], batch.root_depth)
        assert (batch.poses[:, :, H36M.root] == 0).all()


def test_a_window_and_its_mirror_image_are_different_people(store):
    """Left and right change places: of mirrored windows what is drawn for the left was seen of the right."""
    taken = sampler(store)
    both = torch.tensor([[0, 20, 0], [0, 20, 1]])
    plain, mirrored = taken._seen(both, (0, 0), 2, slice(0, 2)).poses
    again = taken._seen(both * torch.tensor([1, 1, 0]), (0, 0), 2, slice(0, 2)).poses  # the same cameras
    assert torch.equal(plain, again[0])
    torch.testing.assert_close(mirrored, again[1][:, list(H36M.mirror)] * torch.tensor([-1, 1, 1]))


def test_coco_keypoints_lie_where_joints_and_face_are(dataset):
    joints = windows(dataset, 50)
    cameras = draw_cameras(50, torch.Generator().manual_seed(1))._replace(turn=torch.zeros(50), nod=torch.zeros(50))
    points = VirtualCameras(H36M, COCO, CPU).keypoints(joints, cameras)
    for name in COCO.joints[5:]:
        point, joint = points[:, :, COCO.joints.index(name)], joints[:, :, H36M.joints.index(name)]
        if not name.endswith(('shoulder', 'hip')):
            assert torch.equal(point, joint)
    for joint, wider in (('hip', cameras.hips), ('shoulder', cameras.shoulders)):
        found, true = (tuple(x[:, :, layout.joints.index(f'{side}_{joint}')] for side in ('left', 'right'))
                       for x, layout in ((points, COCO), (joints, H36M)))
        torch.testing.assert_close(found[0] - found[1], (1 + wider)[:, None, None] * (true[0] - true[1]))
        torch.testing.assert_close(found[0] + found[1], true[0] + true[1])
    nose, left_eye, right_eye, left_ear, right_ear = points[:, :, :5].unbind(2)
    neck, head, left, right = (joints[:, :, H36M.joints.index(name)] for name in (
        'neck', 'head', 'left_shoulder', 'right_shoulder'))
    for one, other in ((left_eye, right_eye), (left_ear, right_ear)):
        assert (((one - other) * (left - right)).sum(-1) > 0).all()
    forward = torch.linalg.cross(head - neck, right - left)  # of somebody upright: up × right
    assert (((nose - neck) * forward).sum(-1) > 0).all() and (((nose - (left_ear + right_ear) / 2) * forward).sum(
        -1) > 0).all()
    turned = VirtualCameras(H36M, COCO, CPU).keypoints(joints, cameras._replace(turn=torch.full((50,), math.pi / 2)))
    assert ((turned[:, :, 0] - neck) * (right - left)).sum(-1).min() > 0  # a turn to the right


def test_other_bodies_have_a_face_too_and_other_layouts_are_refused():
    assert VirtualCameras(H36M16, COCO, CPU).matrix.shape == (17, 16)
    with pytest.raises(ValueError, match='no keypoint of layout h36m can stand for joint right_heel'):
        VirtualCameras(H36M, replace(COCO, joints=(*COCO.joints[:-1], 'right_heel')), CPU)


def test_several_processes_draw_what_one_would(store):
    one = sampler(store, COCO, noise=True)
    for size in (2, 3):
        shares = [list(one.epoch(1, 7, World(rank, size).share)) for rank in range(size)]
        for step, *parts in zip(one.epoch(1, 7), *shares, strict=True):
            for name in ('keypoints', 'poses', 'intrinsic', 'root'):
                whole = getattr(step.batch, name)
                joined = torch.cat([getattr(part.batch, name) for part in parts])
                torch.testing.assert_close(joined, whole, atol=1e-5, rtol=1e-5)


def test_steps_are_a_function_of_epoch_and_number_and_no_window_comes_twice(store):
    one, other = sampler(store, noise=True), sampler(store, noise=True)
    steps = list(one.epoch(2, 16))
    later = list(other.epoch(2, 16, first_step=3))
    assert torch.equal(later[0].batch.keypoints, steps[3].batch.keypoints)
    assert torch.equal(later[-1].batch.poses, steps[-1].batch.poses)
    found = torch.cat([step.batch.keypoints.flatten(1) for draw in range(3) for step in one.epoch(draw, 16)])
    assert len(found.unique(dim=0)) == len(found) == 3 * len(one)


def test_what_nobody_needs_is_not_told(store):
    batch = next(sampler(store, noise=True, needs=frozenset()).epoch(0, 4)).batch
    assert batch.keypoints.shape == (4, 9, 17, 2) and batch.intrinsic is batch.root is batch.root_depth is None
    centre = next(sampler(store, answers=range(4, 5), supervised=range(9)).epoch(0, 4)).batch
    assert centre.poses.shape == (4, 9, 17, 3) and centre.root.shape == (4, 1, 3)


def test_data_that_do_not_know_what_is_up_are_refused(dataset):
    with pytest.raises(FlagError, match='synthetic does not tell which way is up'):
        seen_anew(replace(dataset, upright=False), COCO, noise=False)
    with pytest.raises(FlagError, match='joints in 3D'):
        seen_anew(dataset.flattened(), COCO, noise=False)
    lying = replace(dataset, upright=False).sequences(['S1'], ['Walking'])
    with pytest.raises(ValueError, match='the direction up'):
        SequenceStore(lying, H36M, H36M, CPU).moving(torch.tensor([0]), torch.tensor([[0]]))


def test_flags_that_contradict_each_other(refused):
    assert '--input coco is for --views random' in refused(2, '-d', 'synthetic', '--input', 'coco')
    assert '--joints keypoints' in refused(2, '-d', 'synthetic', '--views', 'random', '--model', 'pstmo_pretraining')
    assert 'exclude each other' in refused(2, '-d', 'synthetic', '--views', 'random', '--unlabelled', 'S2')
    assert 'no confidence' in refused(2, '-d', 'synthetic', '--diffusion', '--read-confidence')


@pytest.mark.parametrize('model', ['ktpformer', 'htnet'])
def test_confidence_is_read_where_it_is_asked_for(model):
    keypoints = torch.rand(2, 9, 17, 3)
    sizes = {'channels': 24, 'depth': 1, **({'frames': 9} if model == 'ktpformer' else {})}
    reads = build_model(model, {**sizes, 'confidence': True}, H36M, COCO).eval()
    assert reads.needs == {'confidence'} and not build_model(model, sizes, H36M, COCO).needs
    assert type(reads).config_of(reads.state_dict()).confidence
    less = keypoints * torch.tensor([1, 1, 0.5])
    assert not torch.allclose(reads(keypoints), reads(less))
    with pytest.raises(ValueError, match='expected keypoints'):
        reads(keypoints[..., :2])


def flags(folder, name, tmp_path, *more):
    return ['--data', str(folder), '-k', 'gt', '-str', 'S1', '-ste', 'S11', '--views', 'random', '--noise', 'detector',
            '--input', 'coco', '--read-confidence', *SMALL, '-c', str(tmp_path / name), '-l',
            str(tmp_path / f'{name}-log'), *more]


def table(out):
    return [line for line in out.splitlines() if line.startswith(('average', 'Sitting', 'Directions'))]


def test_a_resumed_run_is_the_same_and_its_table_comes_again(h36m_folder, tmp_path, run):
    status, out, err = run(*flags(h36m_folder, 'whole', tmp_path, '-e', '3', '--select', 'last'))
    assert (status, err) == (0, ''), err
    assert run(*flags(h36m_folder, 'parts', tmp_path, '-e', '2', '--select', 'last'))[0] == 0
    assert run(*flags(h36m_folder, 'parts', tmp_path, '-e', '3', '--select', 'last', '--resume'))[0] == 0
    assert_same_run(tmp_path / 'whole', tmp_path / 'parts')
    evaluated = ['--data', str(h36m_folder), '-c', str(tmp_path / 'whole'), '--evaluate', 'last.bin']
    status, again, err = run(*evaluated)
    assert status == 0 and table(again) == table(out) and len(table(out)) > 3
    assert 'keypoints coco seen by virtual cameras, with noise' in again
    status, quiet, _ = run(*evaluated, '--noise', 'none')
    assert status == 0 and table(quiet) != table(out) and 'seen by virtual cameras, subjects' in quiet
    status, _, err = run(*evaluated, '--views', 'file')
    assert status == 1 and 'made for keypoints of layout coco' in err


@pytest.mark.slow
def test_two_processes_are_one_run(h36m_folder, tmp_path):
    for ranks in (1, 2):
        status, _, err = run_alone('run_ktpformer.py', *flags(h36m_folder, f'of-{ranks}', tmp_path, '-e', '1', '-lr',
                                                              '1e-6'), ranks=ranks)
        assert status == 0, err
    one, two = (torch.load(tmp_path / f'of-{ranks}' / 'last.bin', weights_only=True) for ranks in (1, 2))
    assert one['metrics']['train_loss'] == pytest.approx(two['metrics']['train_loss'], rel=1e-5)
    assert one['metrics']['valid_mpjpe'] == pytest.approx(two['metrics']['valid_mpjpe'], rel=1e-4)


def test_a_small_network_learns_to_lift_from_views_that_it_never_saw(dataset):
    """Ten epochs of one action bring the error under fixed cameras well below that of the mean pose."""
    torch.manual_seed(0)
    store = SequenceStore(dataset.sequences(['S1', 'S2'], ['Walking']), H36M, H36M, CPU)
    taken = WindowSampler(store, 1, True, 1, cameras=VirtualCameras(H36M, COCO, CPU), noise=DetectorNoise(COCO, CPU))
    net = torch.nn.Sequential(torch.nn.Linear(34, 128), torch.nn.ReLU(), torch.nn.Linear(128, 128), torch.nn.ReLU(),
                              torch.nn.Linear(128, 51))

    def lifted(keypoints):
        centred = keypoints - keypoints.mean(dim=-2, keepdim=True)
        return net((centred / centred.std(dim=(-2, -1), keepdim=True)).flatten(-2)).unflatten(-1, (17, 3))
    unseen = SequenceStore(seen_anew(dataset, COCO, noise=True).sequences(['S5'], ['Walking']), COCO, H36M, CPU)

    def error():
        with torch.no_grad():
            return (lifted(unseen.keypoints) - unseen.learned).norm(dim=-1).mean().item()
    mean = (store.learned.mean(0) - unseen.learned).norm(dim=-1).mean().item()
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for draw in range(10):
        for step in taken.epoch(draw, 256):
            optimizer.zero_grad()
            (lifted(step.batch.keypoints) - step.batch.poses).norm(dim=-1).mean().backward()
            optimizer.step()
    assert error() < 0.6 * mean, (error(), mean)
