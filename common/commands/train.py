"""Train, fresh or resumed, then evaluate the chosen epoch: plan, build, run, close."""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from common import distributed
from common.commands.dry_run import check_folders, dry_run
from common.commands.evaluate import check_windows, close, command_for
from common.commands.judging import OF_KEYPOINTS
from common.commands.plan import JUDGE_SETTINGS, STEP_SETTINGS, Plan, changed_settings, make_plan
from common.commands.session import (
    Session,
    check_layouts,
    check_scale,
    describe_store,
    make_store,
    make_unlabelled_store,
    with_joints,
    with_names,
)
from common.config import Config
from common.datasets import load_dataset
from common.datasets.poses import PoseDataset
from common.datasets.virtual_views import CAMERAS
from common.errors import ContractError, FileError, FlagError
from common.evaluation.sums import mean_pose_mpjpe
from common.models import AROUND, build_model, computing
from common.models.lifter import IN_THE_PICTURE, NEEDS, Lifter, describe_model, describe_needs
from common.models.lifting import check_lifting
from common.models.loading import begin_with, put_weights
from common.models.stored import base_of, weights_within_memory
from common.noise import DetectorNoise
from common.recipe import KEYPOINTS
from common.sampler import WindowSampler
from common.skeleton import Skeleton
from common.storage import checkpoint
from common.storage.files import one_line
from common.storage.lock import locked
from common.storage.runlog import RunLog, git_revision, is_run_folder, versions
from common.store import SequenceStore
from common.training.folder import check_unchanged, continued, prepare_folder
from common.training.loop import Judges, Progression, Trainer, fit, make_sampler, progression_of
from common.training.optimiser import make_criterion, make_optimizer
from common.training.resumed import restore_optimizer
from common.training.signals import StopRequest
from common.views import VirtualCameras


def run(session: Session) -> None:
    """Train and evaluate. Raises FileError, FlagError, DivergedError, and Stopped on a signal while training."""
    if session.config.train.dry_run:
        session.alone('--dry-run')
    plan = make_plan(session)
    if plan.config.train.dry_run:
        check_folders(plan)
        _run(session, plan)
        return
    with contextlib.ExitStack() as held:
        if session.world.first:
            held.enter_context(locked(plan.folder))
            check_unchanged(plan.resumed)
        _run(session, plan)


def _run(session: Session, plan: Plan) -> None:
    """Train and evaluate in a folder that is this run's alone."""
    dataset = with_joints(load_dataset(plan.config.data.dataset, Path(plan.config.data.folder),
                                       plan.config.data.keypoints), plan.config)
    config = plan.config = with_names(plan.config, dataset)
    if plan.source is not None:
        check_layouts(plan.source, plan.begun or plan.name, dataset, joints=plan.begun is None)
    torch.manual_seed(config.train.seed)
    model = _build(session, plan, dataset.skeleton, dataset.layout)
    check_windows(config, model)
    split = _split(session, config, dataset, model)
    _start(session, plan, model, split.train, dataset.skeleton)
    trainer = _trainer(session, plan, model, split, dataset)
    judges = Judges(split.valid, split.train if config.train.eval_train else None)
    if config.train.dry_run:
        _announce(session, plan, trainer, split)
        dry_run(session, plan, trainer, judges, split.test, dataset, _about(plan, dataset, '', ''))
        return
    stale: list[Path] = []
    log, run_folder = _open_log(session, plan, trainer, split.baseline, stale)
    _announce(session, plan, trainer, split)
    session.say(f'run folder {run_folder}')
    about = _about(plan, dataset, run_folder, fingerprint(trainer.sampler, trainer.beside))
    at = trainer.at
    begun, first_epoch = time.perf_counter(), at.epoch
    try:
        with StopRequest() as stop:
            fit(trainer, judges, log, plan.folder, about, stop, session.say, stale)
    finally:
        if log is not None:
            log.close()
            if config.train.export_training_curves:
                _draw_curves(log, session.say)
    session.say(_summary(at, time.perf_counter() - begun, at.epoch - first_epoch, session.device))
    if split.test is not None:
        _evaluate_chosen(session, plan, model, at, split.test, split.picked_on, dataset)


# ---- build: data, model and trainer -----------------------------------------------------------------------------


def _build(session: Session, plan: Plan, skeleton: Skeleton, layout: Skeleton) -> Lifter:
    """Return the model on its device, with fresh weights. Raises FlagError or FileError."""
    train = plan.config.train
    rates = {rate: getattr(train, rate) for rate in ('drop_path', 'dropout') if getattr(train, rate) is not None}
    try:
        with weights_within_memory():
            model = build_model(plan.name, plan.sizes, skeleton, layout, **rates)
    except ContractError:
        raise
    except ValueError as error:
        if plan.source is None or session.config.model.refine or session.config.train.unlabelled:
            raise FlagError(str(error)) from None
        raise FileError(f'{plan.source.path} describes a model that cannot be built: {error}') from None
    return model.to(session.device)


def _start(session: Session, plan: Plan, model: Lifter, train: SequenceStore, skeleton: Skeleton) -> None:
    """Show the model the training frames, where it wants to see them, and give it the weights of --init.

    In this order, since the statistics in a checkpoint of ours are those to go on with. Raises FileError.
    """
    if model.measured:
        model.measure(train.keypoints, train.learned)
    initial = plan.initial
    if initial is not None and plan.begun:
        begin_with(model, initial, plan.begun)
        session.say(f'starting from a part of {initial.path}, {", ".join(model.begins_with[plan.begun])}*; the other '
                    f'weights are fresh')
    elif initial is not None:
        base_only = any(bool(plan.sizes.get(part)) != bool(initial.config.get(part)) for part in AROUND)
        put_weights(model.without_truth() if base_only else model, base_of(initial) if base_only else initial, skeleton)
        fresh = ', with a fresh refinement behind them' if base_only and plan.sizes.get('refine') else ''
        if initial.config.get('diffusion'):
            fresh = ', a denoiser, which goes on to be trained as one (--diffusion)'
        session.say(f'starting from the weights of {initial.path}{fresh}')


@dataclass
class _Split:
    """The sequences to train on, to pick the best epoch by and to test on, and the error of the mean training pose.

    Attributes:
        beside: sequences without 3D that are trained on too.
    """

    train: SequenceStore
    beside: SequenceStore | None = None
    valid: SequenceStore | None = None
    test: SequenceStore | None = None
    baseline: float | None = None
    picked_on: str = 'the test subjects'


def _split(session: Session, config: Config, dataset: PoseDataset, model: Lifter) -> _Split:
    """Return the sequences of a run. Raises FlagError for subjects that are on two sides."""
    data, train = config.data, config.train

    def store(subjects: Sequence[str], subset: float = 1.0, test: bool = True) -> SequenceStore:
        needs = model.needs if test else model.needs_to_learn
        return make_store(session, config, dataset, subjects, subset, needs, model.title, test)

    others = (*(data.subjects_test or ()), *(train.subjects_valid or ()), *(train.unlabelled or ()))
    subjects_train = data.subjects_train or tuple(s for s in dataset.subjects_train if s not in others)
    if not subjects_train:
        raise FlagError('-ste, --unlabelled and --subjects-valid leave no training subject: name some with -str')
    split = _Split(store(subjects_train, data.subset, test=False))
    if train.eval_train:
        check_scale(split.train, dataset, subjects_train)
    if train.unlabelled:
        _check_unlabelled(config, dataset, subjects_train)
        split.beside = make_unlabelled_store(session, config, dataset, model.needs_beside, model.title)
    if train.eval:
        tested = data.subjects_test or dataset.subjects_test
        if both := [subject for subject in tested if subject in subjects_train]:
            session.say(f'{", ".join(both)}: trained on and tested, so that figures tell nothing of people not seen')
        split.test = split.valid = store(tested)
        split.baseline = mean_pose_mpjpe(split.train, split.test)
        if train.subjects_valid:
            if shared := [s for s in train.subjects_valid if s in subjects_train]:
                raise FlagError(f'--subjects-valid {shared[0]} is a training subject too: leave it out of -str')
            split.valid = store(train.subjects_valid)
            split.picked_on = f'the validation subjects {",".join(train.subjects_valid)}'
    return split


def _check_unlabelled(config: Config, dataset: PoseDataset, subjects_train: Sequence[str]) -> None:
    """Raise FlagError for a subject of --unlabelled that is on another side too."""
    train = config.train
    sides: list[tuple[str, str, Sequence[str]]] = [('training', '-str', subjects_train)]
    if train.eval:
        sides += [('validation', '--subjects-valid', train.subjects_valid or ()),
                  ('test', '-ste', config.data.subjects_test or dataset.subjects_test)]
    for side, flag, subjects in sides:
        if shared := [subject for subject in train.unlabelled or () if subject in subjects]:
            raise FlagError(f'--unlabelled {shared[0]} is a {side} subject too: leave it out of one of --unlabelled '
                            f'and {flag}')


def _trainer(session: Session, plan: Plan, model: Lifter, split: _Split, dataset: PoseDataset) -> Trainer:
    """Return the trainer of a run, where a resumed one left off."""
    config, device, world, resumed = plan.config, session.device, session.world, plan.resumed
    train = config.train
    if world.size > 1:
        distributed.make_batch_norms_global(model)
    check_lifting(model, split.train)
    computing.set_up(model, device, config.run.compile, config.run.activation_checkpointing)
    optimizer = make_optimizer(model, train)
    at = _restore(session, plan, model, optimizer, dataset.skeleton)
    world.same_weights(model)
    data = config.data
    cameras = VirtualCameras(dataset.skeleton, dataset.layout, device) if data.views == 'random' else None
    noise = DetectorNoise(dataset.layout, device) if data.noise == 'detector' else None
    sampler = make_sampler(model, split.train, train, cameras, noise)
    beside = None if split.beside is None else WindowSampler(
        split.beside, sampler.frames, train.augment, unlabelled_seed(train.seed), train.window_step, sampler.answers,
        model.needs_beside, spacing=model.spacing, truth=False, noise=noise)
    steps = sampler.steps(train.windows)
    if resumed is not None and at.step > steps:
        raise FileError(f'{resumed.path} lies at step {at.step:,} of an epoch, which has {steps:,}')
    check_same_data(session, plan, fingerprint(sampler, beside))
    trainer = Trainer(model, optimizer, sampler, make_criterion(model, train.loss, dataset.skeleton, device,
                                                                 train.l1_share), train, at, world,
                      config.run.precision, config.evaluate.root, config.evaluate.flip, beside)
    if trainer.average and resumed is not None and resumed.training_state is not None:
        trainer.average.state = {key: value.to(device) for key, value in resumed.state.items()}
    return trainer


def _restore(session: Session, plan: Plan, model: Lifter, optimizer: torch.optim.Optimizer,
             skeleton: Skeleton) -> Progression:
    """Put a resumed checkpoint into model and optimizer, and say where the run stands."""
    resumed, train, given = plan.resumed, plan.config.train, session.config
    asked = given.train.lr if given.has('train.lr') else None
    if resumed is None:
        return Progression(base_lr=train.lr)
    put_weights(model, resumed, skeleton)
    if resumed.public:
        lr = asked or resumed.lr or train.lr
        session.say(f'{resumed.path} is a public file: its weights are taken, at epoch {resumed.epoch}, lr {lr:.3g}; '
                    f"the optimizer starts fresh, and the window order at its generator's first draw")
        since = resumed.epoch + 1
        return Progression(epoch=resumed.epoch, base_lr=lr, lr_since=since, first_epoch=since)
    if resumed.training_state is not None:
        checkpoint.load_weights(model, replace(resumed, state=resumed.training_state))
    restore_optimizer(resumed.path, optimizer, resumed.optimizer)
    for group in optimizer.param_groups:
        group['weight_decay'] = train.weight_decay
    at = progression_of(resumed.stored)
    if train.schedule == 'cosine' and train.epochs != (had := resumed.settings.get('epochs', train.epochs)):
        session.say(f'the rate now falls to 0 at epoch {train.epochs}, not {had}: it is another one from here on')
    # The same command with --resume behind it goes on as it was; another rate starts the schedule anew.
    if asked is not None and asked != resumed.settings.get('lr'):
        at.base_lr, at.lr_since = asked, at.epoch + 1
    step = f', step {at.step}' if at.step else ''
    session.say(f'continuing {resumed.path} after epoch {at.epoch}{step}')
    return at


def unlabelled_seed(seed: int) -> int:
    """Return the seed of the order of windows without truth: 4321 for the published 1234 of the others."""
    return (seed + 4321 - 1234) % 2 ** 32


def fingerprint(sampler: WindowSampler, beside: WindowSampler | None = None) -> str:
    """Return a digest of what is trained on: takes, their frames, and the windows made of them."""
    told = [json.dumps([each.store.takes, each.store.lengths, each.frames, list(each.answers), len(each)])
            for each in (sampler, beside) if each is not None]
    return hashlib.sha256('\n'.join(told).encode()).hexdigest()


def check_same_data(session: Session, plan: Plan, now: str) -> None:
    """Say where a resumed run goes on with other takes, frames or windows. Raises FlagError inside an epoch."""
    own = plan.own
    before = own.stored.get('data') if own is not None else None  # files of earlier versions do not tell
    if own is None or before in (None, now) or changed_settings(plan, STEP_SETTINGS):
        return
    if own.stored['step']:
        raise FlagError(f'{own.path} lies inside an epoch, at step {own.stored["step"]}, of other takes or frames than '
                        f'the data files have now: bring those back, or start anew')
    session.say('the data files have other takes or frames than before: the run goes on with those')


# ---- run and close ----------------------------------------------------------------------------------------------


def _open_log(session: Session, plan: Plan, trainer: Trainer, baseline: float | None,
              stale: list[Path]) -> tuple[RunLog | None, str]:
    """Prepare the checkpoint folder, open the run folder and say what runs.

    Sets trainer.at.best, and puts the files to be deleted at the first save into `stale`.

    Returns the log (None but on the first rank) and the run folder's name: that of the run that goes on in its
    checkpoint folder, or a new one.
    """
    given, world, at, resumed = session.config, session.world, trainer.at, plan.resumed
    log = None
    if world.first:
        at.best, others = prepare_folder(plan.folder, resumed, given.train.overwrite)
        stale += others
        if at.best and (changed := changed_settings(plan, JUDGE_SETTINGS)):
            session.say(f'{changed[0]} has changed: the best epoch is picked anew')
            at.best = None
        about = {'run_id': plan.run_id, 'command': list(given.argv), 'settings': _settings(plan), 'model': plan.name,
                 'config': plan.sizes,
                 'mean_pose_mpjpe': baseline, 'parameters': _parameters(trainer.model), 'device': str(session.device),
                 'processes': world.size, 'versions': versions(), 'git': git_revision()}
        own = continued(plan.folder, resumed)
        if own is not None and is_run_folder(Path(own.run), own.run_id, Path(given.run.log)):
            log = RunLog.continued(Path(own.run), at.epoch, about)
        else:
            if own is not None:
                session.say(f'{one_line(own.run)} is not the folder of this run, or gone: a new one begins with epoch '
                            f'{at.epoch + 1}')
            log = RunLog.fresh(Path(given.run.log), about)
    at.best, run_folder = world.told((at.best, str(log.folder.resolve()) if log else None))
    return log, run_folder


def _parameters(model: Lifter) -> int:
    return sum(p.numel() for p in model.parameters())


def _settings(plan: Plan) -> dict[str, Any]:
    """Return the settings that checkpoints store: JSON's kinds, and the model's name."""
    return {'model': plan.name, **plan.config.settings(), 'refine': bool(plan.sizes.get('refine'))}


def _about(plan: Plan, dataset: PoseDataset, run_folder: str, data: str) -> dict[str, Any]:
    """Return what a checkpoint says of its model and data."""
    return {'model': plan.name, 'config': plan.sizes, 'skeleton': checkpoint.describe(dataset.skeleton),
            'layout': checkpoint.describe(dataset.layout), 'dataset': dataset.name, 'keypoints': dataset.keypoints,
            'settings': _settings(plan), 'seed': plan.config.train.seed, 'run': run_folder, 'versions': versions(),
            'run_id': plan.run_id, 'data': data}


def _announce(session: Session, plan: Plan, trainer: Trainer, split: _Split) -> None:
    """Say what runs, and what it computes on."""
    say, model, train, at, config = session.say, trainer.model, trainer.recipe, trainer.at, plan.config
    sizes = ', '.join(f'{size} {value}' for size, value in plan.sizes.items() if size != 'frames')
    say(f'{describe_model(model)}: {_parameters(model) / 1e6:.2f} M parameters, {sizes}, on {session.world.size} × '
        f'{session.device.type}')
    how = computing.describe(trainer.precision, session.device, config.run.compile,
                             config.run.activation_checkpointing)
    say(f'computing in {how}')
    say(f'training: {describe_store(split.train)}, {len(trainer.sampler):,} windows an epoch, {train.windows} a step')
    if split.test is not None:
        say(f'test: {describe_store(split.test)}; predicting the mean training pose gives {split.baseline:.1f} mm '
            f'MPJPE')
    if trainer.sampler.cameras is not None:
        say(f'views: virtual cameras, drawn anew for each window in each step, see keypoints of layout '
            f'{trainer.sampler.cameras.layout.name}; the test has {CAMERAS} fixed ones for each take')
    if config.data.noise == 'detector':
        say("noise: a detector's, drawn anew in each step" + (
            '; fixed at test' if config.data.views == 'random' else ', on training windows alone'))
    if config.data.joints == KEYPOINTS:
        say(f'figures are of keypoints in the picture, in {OF_KEYPOINTS}: not millimetres')
    if config.data.dataset in IN_THE_PICTURE:
        say(f'poses are learned in units of the picture; their scale in figures in mm is {NEEDS["root_depth"]}' +
            ('' if train.loss == 'mse' else f'. train_loss is in {OF_KEYPOINTS}'))
    if train.loss == 'mse':
        say(f'train_loss is 1000 times the mean square of coordinates, in the unit in which {model.title} learns them: '
            f'no length')
    if model.needs:
        say(f'besides the keypoints, {model.title} reads {describe_needs(model.needs)}')
    if split.beside is not None and trainer.beside is not None:
        say(f'2D alone: {describe_store(split.beside)}, {len(trainer.beside):,} windows, from epoch '
            f'{train.warmup_epochs + 1} on')
        say(f'besides the keypoints, training reads {describe_needs(model.needs_to_learn - model.needs)} of labelled '
            f'windows and {describe_needs(model.needs_beside - model.needs)} of those of 2D alone; what is trained '
            f'does not')
    if at.epoch >= train.epochs:
        say(f'epoch {at.epoch} is finished already, nothing is left to train up to -e {train.epochs}')


def _draw_curves(log: RunLog, say: Callable[[str], None]) -> None:
    """Draw what there is; a picture that cannot be written must not hide how the run ended."""
    if epochs := log.epochs():
        from common.drawing.plots import training_curves  # matplotlib is slow to import
        try:
            training_curves(epochs, log.folder / 'curves.png')
        except FileError as error:
            say(f'no training curves: {error}')


def _summary(at: Progression, seconds: float, epochs: int, device: torch.device) -> str:
    """Return in words how the run went."""
    peak = computing.peak_memory(device)
    best = f'best epoch {at.best["epoch"]} with valid_mpjpe {at.best["valid_mpjpe"]:.2f} mm; ' if at.best else ''
    speed = f', {at.metrics["frames_per_second"]:,} frames/s in the last' if at.metrics else ''
    return f'finished: {best}{epochs} epochs in {seconds:.0f} s{speed}; peak memory {peak / 2**30:.2f} GB'


def _evaluate_chosen(session: Session, plan: Plan, model: Lifter, at: Progression, test: SequenceStore,
                     picked_on: str, dataset: PoseDataset) -> None:
    """Print the closing table: of the best or last epoch, or of the resumed file when there was none to train."""
    config = plan.config
    path = plan.folder / (checkpoint.LAST if config.train.select == 'last' or at.best is None else checkpoint.BEST)
    if plan.resumed is not None and not path.is_file():
        path = plan.resumed.path
    saved = checkpoint.load(path)
    if not saved.public and saved.run_id != plan.run_id and path != getattr(plan.resumed, 'path', None):
        raise FileError(f'{path} is of another run, which took the place of this one: choose another -c')
    put_weights(model, saved, dataset.skeleton)
    how = f'the best on {picked_on}, ' if path.name == checkpoint.BEST else ''
    session.say(f'evaluating {path}: {how}epoch {saved.epoch}; again with: {command_for(config, plan.name, path)}')
    close(session, config, model, plan.name, path, test, dataset)
