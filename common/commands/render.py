"""--render: from flags to a film or page of one sequence, with the 2D it was lifted from and the truth if there is one.

Letters: T frames of the sequence, J joints.
"""

import contextlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.commands.evaluate import ROOT_IN_WORDS, load_tested, open_evaluated, resolve_for
from common.commands.judging import in_words, set_sampling
from common.commands.placing import Lifted
from common.commands.predict import AVERAGE_SIZE, average_size
from common.commands.session import (
    Session,
    check_layouts,
    check_units,
    identify_for,
    load_evaluated,
    needed,
    read_checkpoint,
)
from common.config import Evaluate, Model
from common.datasets.poses import PoseDataset
from common.drawing.look import People
from common.drawing.page import SUFFIX, write_page
from common.drawing.video import Film, frames_at, read_video
from common.errors import DivergedError, FileError, FlagError
from common.geometry import quaternion
from common.geometry.camera import Camera, denormalise
from common.models.lifter import IN_THE_PICTURE, Lifter, describe_needs
from common.models.lifting import predictions, windows_for
from common.models.loading import LoadedLifter
from common.sequences import Sequence
from common.skeleton import Skeleton
from common.storage.files import atomic_path
from common.storage.npz import write_npz
from common.store import SequenceStore

# Camera axes to a world whose z is up, for a camera of which nobody knows how it stood: taken as level.
LEVEL = np.array([0.5**0.5, -0.5**0.5, 0, 0], np.float32)
FPS_UNKNOWN = 25  # where neither the data set nor a video tells
ASIDE = 40  # degrees the viewer stands aside of the camera, from where no error of depth could be seen
LARGEST_FRAME = 1000  # pixels: more of a video than a panel shows


def run(session: Session) -> None:
    """Lift one sequence with the checkpoint of --evaluate, and write the film and the export that the flags name.

    Raises FlagError for a selection that is not there, FileError for files, DivergedError for predictions of NaN.
    """
    session.alone('--render')
    saved, (name, sizes, how), config = open_evaluated(session.config)
    asked, downsample = config.render, config.data.downsample
    dataset = load_tested(config, {asked.subject} if asked.subject else set())
    check_layouts(saved, name, dataset)
    lifter = load_evaluated(session, config, saved, name, sizes, how, dataset.layout, dataset.skeleton)
    set_sampling(session.config, lifter.model)
    sampling = f', the mean of {in_words(lifter.model)}' if lifter.model.samples else ''
    session.say(f'{saved.path}: {lifter.describe()}, epoch {saved.epoch}{sampling}')
    subject, take, camera = select(dataset, asked.subject, asked.action, asked.camera)
    sequence = dataset.view(subject, take, camera, downsample)
    sequence = replace(sequence, poses=truth_of(sequence, dataset))
    candidates = [(lifter, config.evaluate)]
    if asked.compare:
        candidates.append(_other(session, asked.compare, dataset))
        if candidates[1][0].path.samefile(lifter.path):
            raise FlagError(f'--viz-compare {asked.compare} is the checkpoint of --evaluate: name another one')
    lifted: dict[str, np.ndarray] = {}
    headline = None
    for (candidate, test), (other, _) in zip(candidates, reversed(candidates), strict=True):
        which = f'{candidate.model.title} {_named(candidate.path, other.path)}' if asked.compare else ''
        poses = lift(candidate.model, sequence, dataset, test, session.device)
        if candidate.in_the_picture and sequence.units is None:
            poses = {kind: average_size(value, candidate) * value for kind, value in poses.items()}
            session.say(AVERAGE_SIZE)
        if headline is None:
            headline = list(poses.values())[-1]
        lifted |= {_label(which, kind, index): value for index, (kind, value) in enumerate(poses.items())}
        if not all(np.isfinite(value).all() for value in poses.values()):
            raise DivergedError(f'{candidate.path} predicts NaN or infinite coordinates: its weights diverged, or the '
                                f'keypoints are not pixels')
    session.say(f'{dataset.name}, keypoints {dataset.keypoints}: {subject} {take}, camera {camera}, '
                f'{len(sequence.keypoints):,} frames')
    if sequence.poses is not None:
        for label, drawn in lifted.items():
            error = 1000 * np.linalg.norm(drawn - sequence.poses, axis=-1).mean()
            session.say(f'{label}: {error:.2f} mm MPJPE over these frames')
    for output in asked.output or ():
        _film(session, Path(output), sequence, lifted, dataset, downsample)
    if asked.export and headline is not None:
        _export(Path(asked.export), headline, dataset, config.evaluate.root)
        session.say(f'wrote {asked.export}: the prediction in camera axes, metres')


def render_lifted(session: Session, lifted: list[Lifted]) -> None:
    """Write the films of what --predict made, all in one world, seen from aside of the camera. Raises FileError."""
    for output in session.config.render.output or ():
        _film_of_clips(session, Path(output), lifted)


def _film_of_clips(session: Session, output: Path, lifted: list[Lifted]) -> None:
    """Write one film of what --predict made. Raises FileError."""
    asked, first = session.config.render, lifted[0]
    clip = first.clip
    # The name alone: a long path would shrink the title, and be cut.
    title = f'{Path(needed(session.config.predict.predict, "--predict")).name}, layout {first.layout.name}'
    if len(lifted) == 1:
        what: dict[str, Any] = {'keypoints': clip.pixels, 'hypotheses': first.hypotheses_in_world()}
    else:
        what = {'keypoints': np.concatenate([one.clip.pixels for one in lifted], axis=1), 'people': _people(lifted)}
    with contextlib.ExitStack() as stack:
        behind = None
        if asked.video and output.suffix != SUFFIX:
            film = stack.enter_context(read_video(Path(asked.video), LARGEST_FRAME))
            _tell_shape(session, film, clip.size)
            behind = frames_at(film.frames, _numbers(session, film, clip.frames).tolist())
        _draw(session, output, first.skeleton, {'prediction': np.concatenate([one.world for one in lifted], axis=1)},
              clip.fps, video=behind, layout=first.layout, picture_size=clip.size, azimuth=azimuth_of(LEVEL) + ASIDE,
              title=title, numbers=clip.frames, seconds=clip.seconds, **what)


def _people(lifted: list[Lifted]) -> People:
    """Return how people are called in a picture, and that each is drawn from the first to the last time they are seen.

    The frames in between in which nobody sees them are interpolated, and drawn as those of a single person are.
    """
    seen = np.stack([one.clip.present for one in lifted], axis=-1)  # (T, N)
    there = np.maximum.accumulate(seen) & np.maximum.accumulate(seen[::-1])[::-1]
    return People(tuple(f'{one.clip.person}' for one in lifted), there)


def _draw(session: Session, output: Path, skeleton: Skeleton, panels: dict[str, np.ndarray], fps: float, *,
          video: Iterable[np.ndarray] | None, seconds: np.ndarray | None = None, **what: Any) -> None:
    """Write a film or page of --viz-output as the flags ask for, and say so. Raises FileError.

    `what` are the arguments that `render_motion` and `write_page` share.
    """
    asked = session.config.render
    what |= {'limit': asked.limit, 'step': asked.step}
    if output.suffix == SUFFIX:
        page = write_page(output, skeleton, panels, fps, seconds=seconds, **what)
        if page.thinned > 1:
            session.say(f'{output}: one frame in {page.thinned * asked.step} is kept, so that the page stays small '
                        f'(--viz-limit N takes the first frames only)')
        session.say(f'wrote {output}: {page.frames:,} frames, {page.size / 1e6:.2g} MB; open it in a browser')
        return
    from common.drawing.pictures import render_motion  # matplotlib takes a second to import
    drawn = render_motion(output, skeleton, panels, fps, video=video, size=asked.size, bitrate=asked.bitrate, **what)
    session.say(f'wrote {output}: {drawn:,} frames')


def _numbers(session: Session, film: Film, frames: np.ndarray) -> np.ndarray:
    """Return the frame of the video (T,), from 0, behind each frame (T,) of the keypoints.

    It has the number that the keypoints' file gives it, or --viz-skip says which is the first. Raises FileError.
    """
    asked, first = session.config.render, int(frames[0])
    if session.config.has('render.skip'):
        frames = frames - first + asked.skip
    elif film.total and first and frames[-1] == film.total:
        frames = frames - 1
        session.say(f'{asked.video} has {film.total:,} frames and the keypoints one of number {film.total}: they are '
                    f'taken to count from 1 (--viz-skip says which frame is the first)')
    if frames[0] < 0 or (film.total and frames[0] >= film.total):
        raise FileError(f'{asked.video} has {film.total or 0:,} frames and the keypoints begin with frame {frames[0]}: '
                        f'--viz-skip N says which frame of the video, from 0, is their first')
    ends = f'; it ends before them, with frame {film.total - 1}' if film.total and frames[-1] >= film.total else ''
    session.say(f'{asked.video}: its frame {frames[0]} is drawn behind frame {first} of the keypoints, their first, '
                f'and so on{ends}')
    return frames


def _tell_shape(session: Session, film: Film, size: tuple[float, float]) -> None:
    """Warn of a video that has another shape than the pictures that the keypoints are in."""
    if abs(film.size[0] * size[1] / (film.size[1] * size[0]) - 1) > 0.02:
        session.say(f'{session.config.render.video} has pictures of {film.size[0]}x{film.size[1]}, the keypoints are '
                    f'in pixels of {size[0]:g}x{size[1]:g}: is it the right video?')


def _named(path: Path, other: Path) -> str:
    """Return how panels call a checkpoint beside another: its file and folder, and more where these are the same."""
    parts, others = path.resolve().parts, other.resolve().parts
    count = next((n for n in range(2, len(parts)) if parts[-n:] != others[-n:]), len(parts))
    return '/'.join(parts[-count:])


def _label(which: str, kind: str, index: int) -> str:
    """Return what a panel is called: `which` tells two checkpoints apart, `kind` several predictions of one."""
    if index:
        return f'{which}, {kind}' if which else kind
    return which or 'prediction'


def select(dataset: PoseDataset, subject: str | None, action: str | None, camera: int) -> tuple[str, str, int]:
    """Return the sequence that the flags name: (subject, take, camera), the first where they leave it open.

    A take goes by its whole name, or by an unambiguous prefix. Raises FlagError where there is none such.
    """
    subjects = dataset.detections | dataset.unlabeled
    subject = subject or next((s for s in dataset.subjects_test if s in subjects), next(iter(subjects)))
    if subject not in subjects:
        raise FlagError(f'--viz-subject {subject}: unknown, there are {_few(subjects)}')
    take = _take(subject, list(subjects[subject]), action)
    views = len(subjects[subject][take])
    if camera >= views:
        plural = 's' if views > 1 else ''
        raise FlagError(f'--viz-camera {camera}: {subject} {take} has {views} camera{plural}, from 0 to {views - 1}')
    return subject, take, camera


def _take(subject: str, takes: list[str], action: str | None) -> str:
    """Return the take of a subject that an action names, whole or by a prefix; the first one for None."""
    if action is None or action in takes:
        return takes[0] if action is None else action
    matches = [take for take in takes if take.startswith(action)]
    if len(matches) > 1:
        raise FlagError(f'--viz-action {action}: ambiguous, write one of {_few(matches)}')
    if not matches:
        raise FlagError(f'--viz-action {action}: unknown, {subject} has {_few(takes)}')
    return matches[0]


def _few(names: Iterable[str]) -> str:
    """Return the first thirty names as a list in words."""
    names = list(names)
    return ', '.join(names[:30]) + (f' and {len(names) - 30} more' if len(names) > 30 else '')


def _other(session: Session, file: str, dataset: PoseDataset) -> tuple[LoadedLifter, Evaluate]:
    """Return the checkpoint of --viz-compare and how it is tested, without what flags say of the first model."""
    config = session.config
    told = ('model.', 'train.', 'evaluate.root', 'evaluate.flip', 'evaluate.hypotheses', 'evaluate.iterations')
    given = frozenset(name for name in config.given if not name.startswith(told))
    plain = replace(config, model=Model(), given=given)
    saved = read_checkpoint(plain, file)
    name, sizes, how = identify_for(plain, saved)
    check_layouts(saved, name, dataset)
    check_units(saved, name, dataset.name)
    lifter = load_evaluated(session, plain, saved, name, sizes, how, dataset.layout, dataset.skeleton)
    set_sampling(config, lifter.model)
    return lifter, resolve_for(plain, name, sizes, saved.settings).evaluate


def truth_of(sequence: Sequence, dataset: PoseDataset) -> np.ndarray | None:
    """Return the true poses (T, J, 3) of a sequence, metres; None where there are none."""
    return sequence.metres if dataset.name in IN_THE_PICTURE else sequence.poses


def lift(model: Lifter, sequence: Sequence, dataset: PoseDataset, test: Evaluate,
         device: torch.device) -> dict[str, np.ndarray]:
    """Return predictions (T, J, 3) of every frame by name, metres in camera axes, as the test makes them.

    Raises FlagError for a model of which the sequence lacks what it reads.
    """
    store = SequenceStore([replace(sequence, marks=None)], dataset.layout, dataset.skeleton, device)
    if store.lacks(model.needs):
        raise FlagError(f'{model.title} reads {describe_needs(model.needs)}, which {dataset.name} does not have for '
                        f'{sequence.subject} {sequence.action}')
    windows = windows_for(model, store)
    return {name: predicted[windows.first].cpu().numpy()
            for name, predicted in predictions(model, store, windows, test.root, test.flip).items()}


def stands(camera: Camera) -> np.ndarray:
    """Return the (4,) quaternion from camera axes to a world with z up; LEVEL where the camera's stand is unknown."""
    turned = np.abs(camera.orientation - [1, 0, 0, 0]).max() > 1e-6
    return camera.orientation.astype(np.float32) if turned else LEVEL


def azimuth_of(orientation: np.ndarray) -> float:
    """Return where a camera stands as seen from what it films: degrees from the x axis.

    Args:
        orientation: (4,) quaternion from the camera's axes to the world.
    """
    back = -quaternion.rotate(orientation, np.array([0, 0, 1], np.float32))
    return float(np.degrees(np.arctan2(back[1], back[0])))


def stand_up(poses: np.ndarray, orientation: np.ndarray, root: np.ndarray | None = None) -> np.ndarray:
    """Turn poses (T, J, 3), metres in camera axes, as they stand in a world with z up: (T, J, 3).

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
    """Return predictions and truth as they stand in the world, and the camera's quaternion (4,).

    They are name -> (T, J, 3), and (T, J, 3), or None where there is no truth. Where there is, all stand where its root
    is, so that what is drawn apart is what the error counts; where nothing tells that, each stands on its feet.
    """
    camera = sequence.seen_by or dataset.cameras[sequence.subject][sequence.camera]
    orientation, root, truth = stands(camera), None, None
    if sequence.poses is not None and sequence.root is None:
        truth = stand_up(sequence.poses, orientation)
    elif sequence.poses is not None:
        moved = dataset.positions[sequence.subject][sequence.action][:len(sequence.poses) * downsample:downsample]
        root = quaternion.rotate(orientation, camera.from_world(moved[:, dataset.skeleton.root]))
        truth = stand_up(sequence.poses, orientation, root)
        floor = np.array([0, 0, truth[..., 2].min()], np.float32)
        truth, root = truth - floor, root - floor
    return {name: stand_up(poses, orientation, root) for name, poses in lifted.items()}, truth, orientation


def _film(session: Session, output: Path, sequence: Sequence, lifted: dict[str, np.ndarray], dataset: PoseDataset,
          downsample: int) -> None:
    """Draw the film of a sequence and say so. Raises FileError."""
    asked = session.config.render
    camera = sequence.seen_by or dataset.cameras[sequence.subject][sequence.camera]
    size = camera.width, camera.height
    panels, truth, orientation = scene(sequence, lifted, dataset, downsample)
    with contextlib.ExitStack() as stack:
        film = None
        if asked.video and output.suffix != SUFFIX:
            film = stack.enter_context(read_video(Path(asked.video), LARGEST_FRAME, asked.skip, downsample))
            _tell_shape(session, film, size)
        rates = dataset.rates.get(sequence.subject, {})
        fps = rates.get(sequence.action, dataset.fps) or (film and film.fps)
        if not fps:
            session.say(f'frames a second are not known: {FPS_UNKNOWN} are assumed')
        _draw(session, output, dataset.skeleton, panels, (fps or FPS_UNKNOWN) / downsample, video=film and film.frames,
              truth=truth if asked.truth else None, keypoints=denormalise(sequence.keypoints, *size),
              layout=dataset.layout, picture_size=size, azimuth=azimuth_of(orientation) + ASIDE,
              title=f'{dataset.name}, keypoints {dataset.keypoints}: {sequence.subject} {sequence.action}, camera '
                    f'{sequence.camera}')


def _export(path: Path, poses: np.ndarray, dataset: PoseDataset, root: str) -> None:
    """Write the prediction (T, J, 3) alone as .npy, or with what explains it as .npz. Raises FileError."""
    if path.suffix == '.npy':
        with atomic_path(path) as temporary:
            np.save(temporary, poses)
    else:
        write_npz(path, prediction=poses, joints=list(dataset.skeleton.joints), parents=list(dataset.skeleton.parents),
                  units='metres', axes='camera: x right, y down, z forward; relative to the root joint, predicted root '
                  + ROOT_IN_WORDS[root])
