"""--predict: a user's own video or 2D keypoints to 3D, with the checkpoint that --evaluate names.

Letters: T frames, L keypoints of the lifter, J joints, F frames of a window, W windows.
"""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from common.commands.evaluate import check_windows, resolve_for
from common.commands.judging import in_words, set_sampling
from common.commands.outputs import check_outputs
from common.commands.people import check_files, check_length, config_of, refuse_folder
from common.commands.placing import Lifted, placed
from common.commands.session import (
    Session,
    identify_for,
    load_evaluated,
    needed,
    read_evaluated,
)
from common.commands.videos import check_unsaid, keypoints_in, lift_each
from common.config import Config, flag_of
from common.config_predict import EVERYBODY
from common.datasets import DATASETS
from common.datasets.poses import keypoint_layout
from common.detectors import camera_of, is_video, videos_in
from common.errors import DivergedError, FileError, FlagError
from common.evaluation.latency import latency
from common.exports import export
from common.exports.motion import of_world
from common.geometry.placement import lens_of_view, root_by_reprojection
from common.geometry.smoothing import Smoother, smoother
from common.keypoints.bones import AVERAGE_HEIGHT
from common.keypoints.clip import Asked, Clip, about_person, load_clip, load_clips
from common.models import computing, model_class
from common.models.lifter import describe_model, describe_needs
from common.models.lifting import average_scale, clip_store, lift_hypotheses, lift_store
from common.models.loading import LoadedLifter
from common.models.stored import base_state
from common.recipe import KEYPOINTS
from common.skeleton import BODIES, H36M, SKELETONS
from common.storage.files import atomic_path
from common.storage.npz import write_npz

AVERAGE_SIZE = (f'size: the model predicts poses in the picture, which have none; the whole clip is scaled to a person '
                f'of average size, {AVERAGE_HEIGHT:.2f} m tall')
CAMERA_AXES = 'camera: x right, y down, z forward; metres, relative to the root joint'


def run(session: Session) -> None:
    """Read, lift, place, write and draw.

    Raises FileError, FlagError, and DivergedError for weights that are not finite.
    """
    session.alone('--predict')
    config = session.config
    check_outputs(config)
    if len(config.data.subjects_test or ()) > 1:
        raise FlagError('-ste names several videos: --predict lifts one at a time')
    source = Path(needed(config.predict.predict, '--predict'))
    if config.predict.live or camera_of(str(source)) is not None:
        from common.commands.live import run_live  # which needs what is here
        run_live(session)
        return
    videos = videos_in(source)
    if not videos and not is_video(source) and (config.has('predict.detector') or config.predict.detector_files):
        raise FlagError(f'--detector looks for keypoints in a video, and {source} is none: leave it out')
    if videos:
        refuse_folder(config)
    lifter = load_lifter(session)
    computing.set_up(lifter.model, session.device, config.run.compile)
    if videos:
        lift_each(session, videos, lambda one: lift_to_file(one, lifter))
    else:
        lift_to_file(session, lifter)


def lift_to_file(session: Session, lifter: LoadedLifter) -> None:
    """Lift what --predict names, a file of keypoints or a video, to the file of --output, and draw it if asked to.

    Raises FileError, FlagError, DivergedError.
    """
    config, say = session.config, session.say
    asked, source = config.predict, Path(needed(config.predict.predict, '--predict'))
    if is_video(source):
        if asked.person != EVERYBODY:  # whose files are known once it is known who is there
            check_unsaid(config)
        config = replace(config, render=replace(config.render, video=config.render.video or str(source)))
        source, session = keypoints_in(session, source), replace(session, config=config)
    video = (config.data.subjects_test or (None,))[0]
    person = asked.person if isinstance(asked.person, int) else None
    question = Asked(str(source), asked.layout, asked.image_size, asked.fps, person, video, asked.min_score,
                     asked.zoom, lifter.any_size, asked.as_is, *of_video(session))
    if asked.person == EVERYBODY:
        clips = load_clips(question, lifter.layout, say)
        check_files(config, clips)
        check_length(config, clips)
        lifted = [lift_clip(replace(session, say=about_person(say, clip.person)), clip, lifter) for clip in clips]
    else:
        clips = [load_clip(question, lifter.layout, say)]
        check_length(config, clips)
        lifted = [lift_clip(session, clips[0], lifter)]
    lifted = placed(lifted, config)
    say(f'world: z up, metres; {lifted[0].placement}')
    for one in lifted:
        own = config if one.clip.person is None else config_of(config, one.clip.person)
        write(one, lifter, own)
        written = own.predict.npz if own.predict.export is None else f'{own.predict.npz}, {own.predict.export}'
        say(f'{written}: {len(one.poses):,} frames, {one.poses.shape[1]} joints')
    if config.render.output:
        from common.commands.render import render_lifted  # Pillow takes a moment to import
        render_lifted(session, lifted)


def lift_clip(session: Session, clip: Clip, lifter: LoadedLifter) -> Lifted:
    """Return one person lifted and smoothed, who stands nowhere yet. Raises FileError, FlagError, DivergedError."""
    config, say = session.config, session.say
    smooth, smoothing = smoothing_of(config, clip)
    precision = computing.evaluation_precision(config.run.precision, session.device)
    with computing.computing_in(lifter.model, precision):
        poses, hypotheses = lift(lifter, clip, session)
    if not np.isfinite(poses).all():
        raise DivergedError(f'{lifter.path} predicts NaN or infinite coordinates: its weights diverged')
    scale = ''
    if lifter.in_the_picture:
        factor, scale = average_size(poses, lifter), AVERAGE_SIZE
        poses, hypotheses = factor * poses, None if hypotheses is None else factor * hypotheses
        say(scale)
    if smoothing:
        say(f'smoothed: {smoothing}')
        smoothed = smooth(poses)
        poses, hypotheses = smoothed, None if hypotheses is None else hypotheses + (smoothed - poses)
    lens, root, placement = lens_of(config, clip), None, ''
    if config.predict.trajectory and lens is not None:
        root = smooth(_by_trajectory(poses, clip, lifter, lens))
        placement = (f'the root where its joints are seen as the keypoints are, by least squares of the reprojection '
                     f'with focal length {lens[0]:.0f}, {lens[1]:.0f} and centre {lens[2]:.0f}, {lens[3]:.0f} pixels; ')
    return Lifted(clip, lifter.skeleton, lifter.layout, poses, poses, placement, root, hypotheses, scale, smoothing)


def of_video(session: Session) -> tuple[float | None, tuple[float, float] | None]:
    """Return frames per second and size of the video of --viz-video; None where there is none. Raises FileError."""
    config = session.config
    if not config.render.output or config.render.video is None:
        return None, None
    from common.drawing.video import read_video  # Pillow takes a moment to import
    with read_video(Path(config.render.video)) as film:
        if film.stretch != 1 and not is_video(Path(needed(config.predict.predict, '--predict'))):
            session.say(f'{config.render.video} has pixels {film.stretch:.3g} times as wide as high, and is taken as '
                        f'{film.size[0]}×{film.size[1]}, as players show it: a detector that read it otherwise sees '
                        f'people of other proportions')
        return film.fps, film.size


def load_lifter(session: Session) -> LoadedLifter:
    """Return the model of the checkpoint that --evaluate names. Raises FileError or FlagError."""
    given = session.config
    saved = read_evaluated(given)
    name, sizes, how = identify_for(given, saved)
    config = resolve_for(given, name, sizes, saved.settings)
    if config.data.joints == KEYPOINTS:
        raise FileError(f'{saved.path} tells keypoints in the picture, and no poses: take a model that was trained on '
                        f'poses')
    layout = skeleton = None
    for name_of_flag in ('data.dataset', 'data.keypoints'):
        if not saved.public and given.has(name_of_flag):
            raise FlagError(f'{flag_of(*name_of_flag.split(".")).name} is for public files, which do not say what they '
                            f'were trained on; {saved.path} does: leave it out')
    if saved.public:
        dataset = config.data.dataset
        kind, weights = model_class(name), base_state(saved)
        # As the data sets call theirs, or that of the model's publication.
        skeleton = SKELETONS.get(dataset, H36M) if given.has('data.dataset') else kind.body()
        if skeleton.name in BODIES and config.data.joints in BODIES:
            skeleton = SKELETONS[config.data.joints]
        keypoints = config.data.keypoints or DATASETS[dataset].keypoints or ''
        read = kind.keypoints_of(weights) or kind.keypoints_in(skeleton)
        count = len(skeleton) if read == kind.keypoints_in(skeleton) else read  # a model may not read all of a body
        try:
            layout = keypoint_layout(keypoints, skeleton)({}, count)
        except ValueError as error:
            raise FileError(f'{saved.path} takes {error}: say with -d and -k what it was trained on') from None
    lifter = load_evaluated(session, config, saved, name, sizes, how, layout, skeleton)
    model, said = lifter.model.without_truth(), ''
    if left_out := lifter.model.needs - model.needs:
        said = f'; its part that reads {describe_needs(left_out)} is left out'
    session.say(f'{saved.path}: {describe_model(model)}, keypoints of layout {lifter.layout.name}, joints of '
                f'{lifter.skeleton.name}{said}')
    return replace(lifter, model=model, settings=config.settings())


def lift(lifter: LoadedLifter, clip: Clip, session: Session) -> tuple[np.ndarray, np.ndarray | None]:
    """Return poses (T, J, 3) float32, metres in camera axes, relative to the root; the headline prediction.

    With them the hypotheses (P, T, J, 3) whose mean they are; None of a model that makes one prediction.

    Mirrored and averaged as in evaluation. A model may predict its root elsewhere than at 0: what it predicts is
    subtracted. Raises FlagError for flags, FileError for a model that do not fit a clip.
    """
    asked, causal, model = session.config.predict, bool(session.config.model.causal), lifter.model
    lens = lens_of(session.config, clip)
    if lens and not asked.trajectory and 'intrinsic' not in model.needs:
        raise FlagError('--intrinsics and --fov are for --trajectory, which estimates where the person stands, and for '
                        'models that read the lens')
    set_sampling(session.config, model)
    store = clip_store(lifter, clip.screen, clip.confidence, None if lens is None else clip.intrinsic(lens))
    check_windows(session.config, model)
    flip = lifter.settings['flip']
    how, hypotheses = (lifter, store, lifter.settings['root'], session.config.evaluate.overlap, causal, flip), None
    if model.samples:
        poses, hypotheses, windows = lift_hypotheses(*how)
        hypotheses = hypotheses - hypotheses[..., lifter.skeleton.root, None, :]
    else:
        predicted, windows = lift_store(*how)
        poses = list(predicted.values())[-1]
    poses = poses - poses[:, lifter.skeleton.root, None]
    if hypotheses is not None:
        said = 'the only one' if model.hypotheses == 1 else 'the mean, with their spread'
        session.say(f'P-Agg of {in_words(model)}: {said}. J-Agg is for tests: it reads where the root truly is, which '
                    f'--trajectory only estimates')
    if causal:
        session.say(f'lifted {len(poses):,} frames, each from the {model.frames} that end at it')
        session.say(latency(model, store, flip))
    else:
        shared = int(windows.start[0] + len(windows.answers) - windows.start[1]) if len(windows) > 1 else 0
        frames, many = 'frame' if len(poses) == 1 else 'frames', 'window' if len(windows) == 1 else 'windows'
        session.say(f'lifted {len(poses):,} {frames} in {len(windows):,} {many} of {windows.frames}' +
                    (f', {shared} shared with the next' if shared > 0 else ''))
    return poses, hypotheses


def average_size(poses: np.ndarray, lifter: LoadedLifter) -> np.float32:
    """Return what makes metres of poses (T, J, 3) that were predicted in the picture. Raises DivergedError."""
    try:
        return average_scale(poses, lifter.skeleton)
    except ValueError as error:
        raise DivergedError(f'{lifter.path}: {error}') from None


def lens_of(config: Config, clip: Clip) -> tuple[float, float, float, float] | None:
    """Return fx, fy, cx, cy of the lens that the flags describe, in pixels; None where none does."""
    asked = config.predict
    if asked.fov is not None:
        return lens_of_view(asked.fov, *clip.size)
    return asked.intrinsics


def smoothing_of(config: Config, clip: Clip) -> tuple[Smoother, str]:
    """Return the filter of --smooth and what it is, in words; one that does nothing, and no words, without it."""
    hertz = config.predict.smooth
    if hertz is None:
        return lambda places: places, ''
    try:
        return smoother(hertz, clip.fps, bool(config.model.causal))
    except ValueError as error:
        raise FlagError(f'--smooth: {error}') from None


def _by_trajectory(poses: np.ndarray, clip: Clip, lifter: LoadedLifter,
                   lens: tuple[float, float, float, float]) -> np.ndarray:
    """Return the root (T, 3) float32 from the joints that the detector itself saw. Raises FileError."""
    pixels, seen = np.zeros((*poses.shape[:2], 2)), np.zeros(poses.shape[:2], bool)
    for joint, name in enumerate(lifter.skeleton.joints):
        if name in lifter.layout.joints:
            keypoint = lifter.layout.joints.index(name)
            pixels[:, joint], seen[:, joint] = clip.pixels[:, keypoint], clip.seen[:, keypoint]
    try:
        return root_by_reprojection(poses, pixels, seen, lens).astype(np.float32)
    except ValueError as error:
        who = '' if clip.person is None else f' of person {clip.person}'
        raise FileError(f'{clip.source}: no trajectory{who} can be estimated, {error}') from None


def write(lifted: Lifted, lifter: LoadedLifter, config: Config) -> None:
    """Write the npz, without pickles, and csv and export of the world if asked for. Raises FileError where it fails."""
    clip, skeleton = lifted.clip, lifted.skeleton
    more: dict[str, Any] = {name: value for name, value in (('root', lifted.root), ('spread', lifted.spread),
                                                            ('person', clip.person),
                                                            ('scale', lifted.scale or None),
                                                            ('smoothing', lifted.smoothing or None))
                            if value is not None}
    write_npz(Path(needed(config.predict.npz, '--output')), poses=lifted.poses, world=lifted.world, **more,
              joints=np.array(skeleton.joints), parents=np.array(skeleton.parents), frame=clip.frames,
              seconds=clip.seconds, present=clip.present, fps=np.float64(clip.fps), keypoints=clip.pixels,
              keypoints_seen=clip.seen,
              keypoint_names=np.array(lifter.layout.joints), size=np.array(clip.size), units='metres',
              axes=CAMERA_AXES, world_axes='x right, y away from the camera, z up', placement=lifted.placement,
              layout=skeleton.name, source=clip.source, checkpoint=str(lifter.path), command=shlex.join(config.argv))
    if config.predict.csv:
        head = ','.join(['frame', 'seconds', *(f'{name}_{axis}' for name in skeleton.joints for axis in 'xyz')])
        rows = np.column_stack([clip.frames, clip.seconds, lifted.world.reshape(len(clip.frames), -1)])
        with atomic_path(Path(config.predict.csv)) as temporary:
            np.savetxt(temporary, rows, fmt=['%d', '%.4f', *['%.5f'] * (rows.shape[1] - 2)], delimiter=',', header=head,
                       comments='')
    if config.predict.export:
        export(Path(config.predict.export), of_world(skeleton, lifted.world, clip.seconds, clip.fps))
