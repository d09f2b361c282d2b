"""--predict: a user's own 2D keypoints to 3D, with the checkpoint that --evaluate names.

Letters: T frames, L keypoints of the lifter, J joints, F frames of a window, W windows.
"""

import argparse
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from common.commands import prepare
from common.commands.prepare import Session
from common.commands.settings import fill
from common.datasets import DATASETS, Sequence
from common.datasets.poses import keypoint_layout
from common.errors import DivergedError, FileError, FlagError
from common.evaluation.evaluate import TestWindows, predictions
from common.evaluation.latency import latency
from common.geometry.placement import feet_on_floor, floor_below, lens_of_view, root_by_reprojection, upright
from common.keypoints.clip import Clip, load_clip
from common.models import MODELS, Refined, computing, recognise
from common.sampler import SequenceStore
from common.skeleton import H36M, SKELETONS, Skeleton
from common.storage import checkpoint
from common.storage.files import atomic_path
from common.storage.npz import write_npz
from common.windows import blend_weights, first_cover, overlapping_starts

CAMERA_AXES = 'camera: x right, y down, z forward; metres, relative to the root joint'


@dataclass(frozen=True)
class Lifter:
    """A trained model, and what it reads and predicts; `settings` are those of its evaluation."""

    model: torch.nn.Module
    layout: Skeleton
    skeleton: Skeleton
    settings: dict
    path: Path


@dataclass(frozen=True)
class Lifted:
    """What comes out, and all that a picture of it needs.

    Attributes:
        skeleton, layout: the joints of the poses, and the keypoints of the clip.
        poses: (T, J, 3) float32 metres in camera axes, relative to the root.
        world: (T, J, 3) float32 metres, z up, the floor at 0. placement: how that was found, in words.
        root: (T, 3) float32 metres in camera axes; None where nothing tells.
    """

    clip: Clip
    skeleton: Skeleton
    layout: Skeleton
    poses: np.ndarray
    world: np.ndarray
    placement: str
    root: np.ndarray | None


def run(session: Session) -> Lifted:
    """Read, lift, place and write. Raises FileError, FlagError, and DivergedError for weights that are not finite."""
    args, say = session.args, session.say
    prepare.check_writable(args.output, args.csv, args.viz_output)
    lifter = load_lifter(session)
    clip = load_clip(args, lifter.layout, say)
    precision = computing.set_up_evaluation(lifter.model, args, session.device)
    with computing.computing_in(lifter.model, precision):
        poses = lift(lifter, clip, session)
    if not np.isfinite(poses).all():
        raise DivergedError(f'{lifter.path} predicts NaN or infinite coordinates: its weights diverged')
    lifted = place(poses, clip, lifter, args)
    say(f'world: z up, metres; {lifted.placement}')
    write(lifted, lifter, args)
    say(f'{args.output}: {len(poses):,} frames, {poses.shape[1]} joints')
    return lifted


def load_lifter(session: Session) -> Lifter:
    """The model of the checkpoint that --evaluate names. Raises FileError or FlagError."""
    args = session.args
    saved = checkpoint.load(checkpoint.find(args.evaluate, Path(args.checkpoint)))
    name, config = prepare.model_of_file(args, saved)
    settings = fill(args, name, saved.settings, config)
    skeleton, layout = saved.skeleton, saved.layout
    if saved.public:
        skeleton = SKELETONS.get(settings['dataset'], H36M)  # as the data sets call theirs, or Human3.6M's
        keypoints = settings['keypoints'] or DATASETS[settings['dataset']].keypoints
        count = saved.state[MODELS[recognise(saved.state)].positions].shape[1]
        try:
            layout = keypoint_layout(keypoints, skeleton)({}, count)
        except ValueError as error:
            raise FileError(f'{saved.path} takes {error}: say with -d and -k what it was trained on') from None
    lifter = Lifter(None, layout, skeleton, settings, saved.path)
    model = prepare.build(saved, settings, config, lifter).to(session.device)
    checkpoint.load_weights(model, saved)
    said = ''
    if isinstance(model, Refined):
        model, said = model.base, '; its refinement, which reads the true depth of the root, is left out'
    session.say(f'{saved.path}: {MODELS[name].title}, {model.frames} frame{"s" * (model.frames > 1)}, keypoints of '
                f'layout {layout.name}, joints of {skeleton.name}{said}')
    return Lifter(model.eval(), layout, skeleton, settings, saved.path)


def lift(lifter: Lifter, clip: Clip, session: Session) -> np.ndarray:
    """(T, J, 3) float32 metres in camera axes, relative to the root; mirrored and averaged as in evaluation."""
    args, frames = session.args, lifter.model.frames
    overlap = frames // 4 if args.overlap is None else args.overlap
    if overlap >= frames:
        raise FlagError(f'--overlap {overlap}: windows have {frames} frames and must share fewer')
    nothing = np.zeros((len(clip.screen), len(lifter.skeleton), 3), np.float32)
    store = SequenceStore([Sequence('', '', 0, clip.screen, nothing)], lifter.layout, lifter.skeleton, session.device)
    root = lifter.settings['root']
    if args.causal:
        windows = TestWindows.of(store, frames, target='last')
        poses = predictions(lifter.model, store, windows, root)['predicted'][:, 0].cpu().numpy()
        session.say(f'lifted {len(poses):,} frames, each from the {frames} that end at it')
        session.say(latency(lifter.model, store, windows))
        return poses
    windows = windows_over(store, frames, overlap)
    poses = blend(predictions(lifter.model, store, windows, root)['predicted'].cpu().numpy(),
                  windows.start.cpu().numpy(), len(store), overlap)
    session.say(f'lifted {len(poses):,} frames in {len(windows.start):,} windows of {frames}, {overlap} shared with '
                f'the next')
    return poses


def windows_over(store: SequenceStore, frames: int, overlap: int) -> TestWindows:
    """Windows over the one sequence of a store, each sharing `overlap` frames with the next."""
    start = overlapping_starts(len(store), frames, overlap)
    sequence = np.zeros_like(start)
    first = first_cover(sequence, start, [len(store)], frames)
    sequence, start, first = (torch.from_numpy(x).to(store.device) for x in (sequence, start, first))
    rows = store.frame_index(sequence, start, frames)
    return TestWindows(sequence, start, frames, rows, first, rows)


def blend(predicted: np.ndarray, start: np.ndarray, length: int, overlap: int) -> np.ndarray:
    """(T, J, 3): windows (W, F, J, 3) that start at frames (W,), laid over each other and cut to T = length frames.

    Without overlap, a frame that the last window covers again is taken from the window before, as in evaluation.
    """
    frames = predicted.shape[1]
    weights = blend_weights(frames, overlap)
    total = np.zeros((length, *predicted.shape[2:]))
    weight = np.zeros((length, 1, 1))
    covered = 0
    for window, begin in zip(predicted, start, strict=True):
        since = 0 if overlap else max(0, covered - begin)
        until = min(frames, length - begin)
        here = slice(begin + since, begin + until)
        total[here] += weights[since:until, None, None] * window[since:until]
        weight[here] += weights[since:until, None, None]
        covered = begin + until
    return (total / weight).astype(np.float32)


def place(poses: np.ndarray, clip: Clip, lifter: Lifter, args: argparse.Namespace) -> Lifted:
    """Put root-relative poses (T, J, 3) into a world: where the lens says, or with the feet on the floor."""
    skeleton = lifter.skeleton
    feet = tuple(skeleton.joints.index(f'{side}_ankle') for side in ('left', 'right'))
    if not args.trajectory:
        return Lifted(clip, skeleton, lifter.layout, poses, feet_on_floor(upright(poses), feet),
                      'the camera taken as level, the lower foot of each frame put on the floor; where the person '
                      'stands is not estimated (--trajectory)', None)
    lens = args.intrinsics or lens_of_view(args.fov, *clip.size)
    world, root = _by_trajectory(poses, clip, lifter, lens)
    return Lifted(clip, skeleton, lifter.layout, poses, floor_below(world, feet),
                  f'the root where its joints are seen as the keypoints are, by least squares of the reprojection with '
                  f'focal length {lens[0]:.0f}, {lens[1]:.0f} and centre {lens[2]:.0f}, {lens[3]:.0f} pixels; the '
                  f'camera taken as level, the lowest foot of the clip put on the floor', root)


def _by_trajectory(poses, clip, lifter, lens) -> tuple[np.ndarray, np.ndarray]:
    """World (T, J, 3) and root (T, 3) from the joints that the detector itself saw."""
    pixels, seen = np.zeros((*poses.shape[:2], 2)), np.zeros(poses.shape[:2], bool)
    for joint, name in enumerate(lifter.skeleton.joints):
        if name in lifter.layout.joints:
            keypoint = lifter.layout.joints.index(name)
            pixels[:, joint], seen[:, joint] = clip.pixels[:, keypoint], clip.seen[:, keypoint]
    try:
        root = root_by_reprojection(poses, pixels, seen, lens).astype(np.float32)
    except ValueError as error:
        raise FileError(f'{clip.source}: no trajectory can be estimated, {error}') from None
    return upright(poses + root[:, None]), root


def write(lifted: Lifted, lifter: Lifter, args: argparse.Namespace) -> None:
    """The npz, without pickles, and the csv of the world if asked for. Raises FileError when one cannot be written."""
    clip, skeleton = lifted.clip, lifted.skeleton
    root = {} if lifted.root is None else {'root': lifted.root}
    write_npz(Path(args.output), poses=lifted.poses, world=lifted.world, **root, joints=np.array(skeleton.joints),
              parents=np.array(skeleton.parents), frame=clip.frames, present=clip.present, fps=np.float64(clip.fps),
              keypoints=clip.pixels, keypoints_seen=clip.seen, keypoint_names=np.array(lifter.layout.joints),
              size=np.array(clip.size), units='metres', axes=CAMERA_AXES, world_axes='x right, y away from the camera, '
              'z up', placement=lifted.placement, layout=skeleton.name, source=clip.source, checkpoint=str(lifter.path),
              command=shlex.join(args.command))
    if args.csv:
        head = ','.join(['frame', 'seconds', *(f'{name}_{axis}' for name in skeleton.joints for axis in 'xyz')])
        seconds = np.arange(len(clip.frames)) / clip.fps
        rows = np.column_stack([clip.frames, seconds, lifted.world.reshape(len(clip.frames), -1)])
        with atomic_path(Path(args.csv)) as temporary:
            np.savetxt(temporary, rows, fmt=['%d', '%.4f', *['%.5f'] * (rows.shape[1] - 2)], delimiter=',', header=head,
                       comments='')
