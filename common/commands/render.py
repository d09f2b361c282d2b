"""--render: from flags to a film of one sequence, with the 2D it was lifted from and the truth where there is one.

Letters: T frames of the sequence, J joints.
"""

import argparse
import contextlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from common.cli.parser import CONFIG_FLAGS
from common.commands import prepare
from common.commands.closing import ROOTS
from common.commands.predict import Lifted
from common.commands.prepare import Session
from common.commands.settings import fill
from common.datasets import DATASETS, PoseDataset, Sequence, load_dataset
from common.drawing.pictures import render_motion
from common.drawing.video import read_video
from common.errors import DivergedError, FlagError
from common.evaluation.evaluate import TestWindows, predictions
from common.geometry import quaternion
from common.geometry.camera import Camera, denormalise
from common.models import MODELS, Refined
from common.sampler import SequenceStore
from common.storage import checkpoint
from common.storage.checkpoint import Checkpoint
from common.storage.files import atomic_path
from common.storage.npz import write_npz

# Camera axes to a world whose z is up, for a camera of which nobody knows how it stood: taken as level.
LEVEL = np.array([0.5**0.5, -0.5**0.5, 0, 0], np.float32)
ASSUMED_FPS = 25  # where neither the data set nor a video tells
ASIDE = 40  # degrees the viewer stands aside of the camera, from where no error of depth could be seen
LARGEST_FRAME = 1000  # pixels: more of a video than a panel shows


def render(session: Session, model: torch.nn.Module, saved: Checkpoint, dataset: PoseDataset, settings: dict) -> None:
    """Lift one sequence with the model of a checkpoint, and write the film and the export that the flags name.

    Raises FlagError for a selection that is not there, FileError for files, DivergedError for predictions of NaN.
    """
    args = session.args
    if session.world.size > 1:
        raise FlagError('--render runs in one process: start it without torchrun')
    subject, take, camera = select(dataset, args.viz_subject, args.viz_action, args.viz_camera or 0)
    sequence = dataset.view(subject, take, camera, settings['downsample'])
    candidates = [(model, saved, settings)]
    if args.viz_compare:
        candidates.append(_other(session, dataset))
    lifted = {}
    for its_model, its_file, its_settings in candidates:
        poses = lift(its_model, sequence, dataset, its_settings['root'], session.device)
        which = f'{MODELS[its_settings["model"]].title} {_named(its_file.path)}' if args.viz_compare else ''
        lifted |= {_label(which, kind): value for kind, value in poses.items()}
        if not all(np.isfinite(value).all() for value in poses.values()):
            raise DivergedError(f'{its_file.path} predicts NaN or infinite coordinates: its weights diverged, or the '
                                f'keypoints are not pixels')
    session.say(f'{dataset.name}, keypoints {dataset.keypoints}: {subject} {take}, camera {camera}, '
                f'{len(sequence.keypoints):,} frames')
    for name, poses in lifted.items():
        if sequence.poses is not None:
            error = 1000 * np.linalg.norm(poses - sequence.poses, axis=-1).mean()
            session.say(f'{name}: {error:.2f} mm MPJPE over these frames')
    if args.viz_output:
        _film(session, sequence, lifted, dataset, settings['downsample'])
    if args.viz_export:
        _export(Path(args.viz_export), next(iter(lifted.values())), dataset, settings)
        session.say(f'wrote {args.viz_export}: the prediction in camera axes, metres')


def render_lifted(session: Session, lifted: Lifted) -> None:
    """The film of what --predict made, seen from aside of the camera. Raises FileError."""
    args, clip = session.args, lifted.clip
    with contextlib.ExitStack() as stack:
        film = None
        if args.viz_video:
            film = stack.enter_context(read_video(args.viz_video, LARGEST_FRAME, args.viz_skip or 0, 1))
        drawn = render_motion(
            Path(args.viz_output), lifted.skeleton, {'prediction': lifted.world}, clip.fps, keypoints=clip.pixels,
            layout=lifted.layout, picture_size=clip.size, video=film and film.frames,
            azimuth=azimuth_of(LEVEL) + ASIDE, size=args.viz_size or 4, title=clip.source, limit=args.viz_limit,
            step=args.viz_downsample or 1, bitrate=args.viz_bitrate)
    session.say(f'wrote {args.viz_output}: {drawn:,} frames')


def _named(path: Path) -> str:
    return f'{path.parent.name}/{path.name}' if path.parent.name else path.name


def _label(which: str, kind: str) -> str:
    """What a panel is called: `which` tells two checkpoints apart, `kind` is predicted or refined."""
    return ', '.join(filter(None, [which, kind if kind == 'refined' else '' if which else 'prediction']))


def load_for(args: argparse.Namespace, settings: dict) -> PoseDataset:
    """The data set to draw or test from: without its training subjects' file unless one of them is asked for."""
    name, folder, keypoints = settings['dataset'], Path(args.data), settings['keypoints']
    dataset = load_dataset(name, folder, keypoints, training=False)
    asked = {args.viz_subject} - {None} if args.render else set(settings['subjects_test'] or ())
    if DATASETS[name].split_paths and not asked <= set(dataset.detections):
        dataset = load_dataset(name, folder, keypoints)
    return dataset


def select(dataset: PoseDataset, subject: str | None, action: str | None, camera: int) -> tuple[str, str, int]:
    """The sequence that the flags name: (subject, take, camera), the first where they leave it open.

    A take goes by its whole name, or by an unambiguous prefix. Raises FlagError where there is none such.
    """
    subjects = dataset.detections | dataset.unlabeled
    subject = subject or next((s for s in dataset.subjects_test if s in subjects), next(iter(subjects)))
    if subject not in subjects:
        raise FlagError(f'--viz-subject {subject}: unknown, there are {_few(subjects)}')
    takes = list(subjects[subject])
    matches = takes[:1] if action is None else [t for t in takes if t == action] or [
        t for t in takes if t.startswith(action)]
    if len(matches) != 1:
        raise FlagError(f'--viz-action {action}: ' + (
            f'ambiguous, write one of {_few(matches)}' if matches else f'unknown, {subject} has {_few(takes)}'))
    views = len(subjects[subject][matches[0]])
    if camera >= views:
        raise FlagError(f'--viz-camera {camera}: {subject} {matches[0]} has {views} camera{"s" * (views > 1)}, from 0 '
                        f'to {views - 1}')
    return subject, matches[0], camera


def _few(names) -> str:
    names = list(names)
    return ', '.join(names[:30]) + (f' and {len(names) - 30} more' if len(names) > 30 else '')


def _other(session: Session, dataset: PoseDataset) -> tuple[torch.nn.Module, Checkpoint, dict]:
    """The checkpoint of --viz-compare, with its model: what the flags say of the first model is not asked of it."""
    saved = checkpoint.load(checkpoint.find(session.args.viz_compare, Path(session.args.checkpoint)))
    flags = {name for config in CONFIG_FLAGS.values() for name in config} | {'model', 'root'}
    plain = argparse.Namespace(**vars(session.args) | dict.fromkeys(flags))
    name, config = prepare.model_of_file(plain, saved)
    settings = fill(plain, name, saved.settings, config)
    prepare.check_layouts(saved, dataset)
    model = prepare.build(saved, settings, config, dataset).to(session.device)
    checkpoint.load_weights(model, saved)
    return model, saved, settings


def lift(model: torch.nn.Module, sequence: Sequence, dataset: PoseDataset, root: str,
         device: torch.device) -> dict[str, np.ndarray]:
    """Predictions (T, J, 3) of every frame by name, metres in camera axes relative to the root, as the test makes them.

    Raises FlagError for a refinement of a sequence that lacks what it reads.
    """
    poses = sequence.poses
    if poses is None:  # the store tells frames by poses
        poses = np.zeros((len(sequence.keypoints), len(dataset.skeleton), 3), np.float32)
    store = SequenceStore([replace(sequence, poses=poses, marks=None)], dataset.layout, dataset.skeleton, device)
    if isinstance(model, Refined) and store.intrinsics is None:
        raise FlagError(f'a refinement reads the camera and the true depth of the root, which {dataset.name} does not '
                        f'have for {sequence.subject} {sequence.action}')
    windows = TestWindows.of(store, model.frames)
    return {name: predicted[windows.first].cpu().numpy()
            for name, predicted in predictions(model, store, windows, root).items()}


def stands(camera: Camera) -> np.ndarray:
    """The (4,) quaternion from the axes of a camera to a world whose z is up; LEVEL where no one knows how it stood."""
    turned = np.abs(camera.orientation - [1, 0, 0, 0]).max() > 1e-6
    return camera.orientation.astype(np.float32) if turned else LEVEL


def azimuth_of(orientation: np.ndarray) -> float:
    """Where a camera stands as seen from what it films: degrees from the x axis."""
    back = -quaternion.rotate(orientation, np.array([0, 0, 1], np.float32))
    return float(np.degrees(np.arctan2(back[1], back[0])))


def stand_up(poses: np.ndarray, orientation: np.ndarray, root: np.ndarray | None = None) -> np.ndarray:
    """Poses (T, J, 3) in camera axes, metres, as they stand in a world with z up.

    Args:
        orientation: (4,) quaternion from the camera's axes to the world.
        root: (T, 3) where the root is in the world; without it the lowest joint of each frame is put on the floor.
    """
    poses = quaternion.rotate(orientation, poses)
    if root is not None:
        return poses + root[:, None]
    return poses - np.array([0, 0, 1], poses.dtype) * poses[..., 2:].min(axis=1, keepdims=True)


def scene(sequence: Sequence, lifted: dict[str, np.ndarray], dataset: PoseDataset,
          downsample: int) -> tuple[dict[str, np.ndarray], np.ndarray | None, np.ndarray]:
    """Predictions and truth as they stand in the world: (name -> (T, J, 3), (T, J, 3) or None, camera's quaternion).

    Where there is truth, all stand where its root is, so that what is drawn apart is what the error counts.
    """
    camera = dataset.cameras[sequence.subject][sequence.camera]
    orientation, root, truth = stands(camera), None, None
    if sequence.poses is not None:
        moved = dataset.positions[sequence.subject][sequence.action][:len(sequence.poses) * downsample:downsample]
        root = quaternion.rotate(orientation, camera.from_world(moved[:, dataset.skeleton.root]))
        truth = stand_up(sequence.poses, orientation, root)
        floor = np.array([0, 0, truth[..., 2].min()], np.float32)
        truth, root = truth - floor, root - floor
    return {name: stand_up(poses, orientation, root) for name, poses in lifted.items()}, truth, orientation


def _film(session: Session, sequence: Sequence, lifted: dict, dataset: PoseDataset, downsample: int) -> None:
    args = session.args
    camera = dataset.cameras[sequence.subject][sequence.camera]
    size = camera.width, camera.height
    panels, truth, orientation = scene(sequence, lifted, dataset, downsample)
    with contextlib.ExitStack() as stack:
        film = None
        if args.viz_video:
            film = stack.enter_context(read_video(args.viz_video, LARGEST_FRAME, args.viz_skip or 0, downsample))
            if abs(film.size[0] * size[1] / (film.size[1] * size[0]) - 1) > 0.02:
                session.say(f'{args.viz_video} has pictures of {film.size[0]}x{film.size[1]}, the keypoints are in '
                            f'pixels of {size[0]}x{size[1]}: is it the right video?')
        fps = dataset.fps or (film and film.fps)
        if not fps:
            session.say(f'frames a second are not known: {ASSUMED_FPS} are assumed')
        drawn = render_motion(
            Path(args.viz_output), dataset.skeleton, panels, (fps or ASSUMED_FPS) / downsample,
            truth=None if args.viz_no_ground_truth else truth,
            keypoints=denormalise(sequence.keypoints, *size), layout=dataset.layout, picture_size=size,
            video=film and film.frames, azimuth=azimuth_of(orientation) + ASIDE, size=args.viz_size or 4,
            title=f'{dataset.name}, keypoints {dataset.keypoints}: {sequence.subject} {sequence.action}, camera '
                  f'{sequence.camera}', limit=args.viz_limit, step=args.viz_downsample or 1,
            bitrate=args.viz_bitrate)
    session.say(f'wrote {args.viz_output}: {drawn:,} frames')


def _export(path: Path, poses: np.ndarray, dataset: PoseDataset, settings: dict) -> None:
    """The prediction (T, J, 3) alone as .npy, or with what explains it as .npz. Raises FileError."""
    if path.suffix == '.npy':
        with atomic_path(path) as temporary:
            np.save(temporary, poses)
    else:
        write_npz(path, prediction=poses, joints=list(dataset.skeleton.joints), parents=list(dataset.skeleton.parents),
                  units='metres', axes='camera: x right, y down, z forward; relative to the root joint, predicted root '
                  + ROOTS[settings['root']])
