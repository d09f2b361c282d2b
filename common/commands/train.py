"""Train, fresh or resumed, then evaluate the chosen epoch: plan, build, run, close."""

import resource
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from common import distributed
from common.commands.evaluate import close
from common.commands.session import (
    Session,
    check_layouts,
    check_model_flags,
    check_outputs,
    check_test_flags,
    describe_store,
    identify_for,
    make_store,
    read_checkpoint,
    spelling,
    with_names,
)
from common.config import DEFAULT_MODEL, Config, resolve
from common.datasets import PoseDataset, load_dataset
from common.errors import ContractError, FileError, FlagError
from common.evaluation.sums import mean_pose_mpjpe
from common.models import build_model, computing, make_config, model_class, recipe_of
from common.models.lifter import Lifter, describe_model, describe_needs
from common.sampler import WindowSampler
from common.skeleton import Skeleton
from common.storage import checkpoint
from common.storage.checkpoint import Checkpoint, OwnCheckpoint
from common.storage.runlog import RunLog, git_revision, versions
from common.store import SequenceStore
from common.training.folder import check_folder, continued, load_resumed, prepare_folder
from common.training.loop import Judges, Progression, Trainer, fit, progression_of
from common.training.optimiser import make_criterion, make_optimizer
from common.training.resumed import restore_optimizer
from common.training.signals import StopRequest


def run(session: Session) -> None:
    """Train and evaluate. Raises FileError, FlagError, DivergedError, and Stopped on a signal while training."""
    plan = _plan(session)
    dataset = load_dataset(plan.config.data.dataset, Path(plan.config.data.folder), plan.config.data.keypoints)
    config = plan.config = with_names(plan.config, dataset)
    if plan.source is not None:
        check_layouts(plan.source, plan.name, dataset)
    torch.manual_seed(config.train.seed)
    model = _build(session, plan, dataset.skeleton, dataset.layout)
    split = _split(session, config, dataset, model)
    trainer = _trainer(session, plan, model, split, dataset)
    log, run_folder = _open_log(session, plan, trainer, split.baseline)
    _announce(session, config, trainer, split)
    about = _about(plan, dataset, run_folder)
    at = trainer.at
    judges = Judges(split.valid, split.train if config.train.eval_train else None)
    begun, first_epoch = time.perf_counter(), at.epoch
    try:
        with StopRequest() as stop:
            fit(trainer, judges, log, plan.folder, about, stop, session.say)
    finally:
        if log is not None:
            log.close()
            if config.train.export_training_curves:
                _draw_curves(log, session.say)
    session.say(_summary(at, time.perf_counter() - begun, at.epoch - first_epoch, session.device))
    if split.test is not None:
        _evaluate_chosen(session, plan, model, at, split.test, split.picked_on, dataset)


# ---- plan: from flags and files to a decided configuration ------------------------------------------------------


@dataclass
class _Plan:
    """What a run is to do, before any data is read.

    Attributes:
        config: the configuration with every setting decided.
        name, sizes: the model, and the config that a checkpoint stores of it.
        resumed: the checkpoint that is continued. initial: the one whose weights are taken.
        folder: of the run's checkpoints.
    """

    config: Config
    name: str
    sizes: dict[str, Any]
    resumed: Checkpoint | None
    initial: Checkpoint | None
    folder: Path

    @property
    def source(self) -> Checkpoint | None:
        """Return the checkpoint that weights come from."""
        return self.resumed or self.initial

    @property
    def own(self) -> OwnCheckpoint | None:
        """Return the checkpoint that is continued where it is of this program, and tells of its run; else None."""
        return None if self.resumed is None or self.resumed.public else self.resumed


def _plan(session: Session) -> _Plan:
    """Read the checkpoints that flags name, decide all settings, and check what can be checked without data."""
    given = session.config
    folder = Path(given.run.checkpoint)
    resumed = load_resumed(given.train.resume, folder, session.say) if given.train.resume else None
    initial = read_checkpoint(given, given.train.init) if given.train.init else None
    source = resumed or initial
    if source is None:
        name = given.model.model or DEFAULT_MODEL
        check_model_flags(given, name)
        sizes = _fresh_sizes(given, name)
    else:
        name, sizes, _ = identify_for(given, source)
        if given.model.refine and resumed and not sizes.get('refine'):
            raise FlagError(f'--refine starts from a trained model: say --init {given.train.resume}, not --resume')
        if given.model.refine:
            sizes = sizes | {'refine': True}
    refined = bool(sizes.get('refine'))
    _, answers = model_class(name).window(make_config(name, sizes))
    config = resolve(given, recipe_of(name, refined), len(answers), resumed.settings if resumed else None)
    plan = _Plan(config, name, sizes, resumed, initial, folder)
    _check(session, plan, refined)
    return plan


def _fresh_sizes(config: Config, name: str) -> dict[str, Any]:
    """Return the config of a new model. Raises FlagError for sizes that cannot be."""
    own = model_class(name).Config.__dataclass_fields__
    try:
        return asdict(make_config(name, {size: v for size, v in config.model.sizes().items() if size in own}))
    except ValueError as error:
        given = [f'{spelling("model", size)} {value}' for size, value in config.model.sizes().items()]
        raise FlagError(f'{" ".join(given)}: {error}') from None


def _check(session: Session, plan: _Plan, refined: bool) -> None:
    """Raise FlagError for flags that other settings leave nothing to say, FileError for folders that cannot be used."""
    given, train = session.config, plan.config.train
    _check_recipe(given, plan, refined)
    check_outputs(plan.config)
    check_test_flags(plan.config)
    if not train.eval and (given.evaluate.results or given.evaluate.export_predictions or given.evaluate.plots):
        raise FlagError('--results, --export-predictions and --plots need the evaluation that the resumed run leaves '
                        'out: say --eval')
    _check_mid_epoch(plan)
    check_folder(plan.folder, plan.resumed, given.train.overwrite)
    initial = plan.initial
    if initial is not None and given.train.overwrite and initial.path.parent.resolve() == plan.folder.resolve():
        raise FileError(f'--overwrite would delete {initial.path}, which --init starts from: choose another -c')
    computing.check(plan.config.run.precision, session.device)
    if train.windows < session.world.size:
        raise FlagError(f'a step of {train.windows} windows cannot be shared by {session.world.size} processes: raise '
                        f'-b or start fewer')


def _check_recipe(given: Config, plan: _Plan, refined: bool) -> None:
    """Raise FlagError for settings of the training that contradict each other, or the checkpoint that is continued."""
    train = plan.config.train
    if train.schedule == 'cosine' and (given.has('train.lr_decay') or given.has('train.lr_drop_every')):
        raise FlagError('--schedule cosine has no use for -lrd and --lr-drop-every: leave them out')
    if refined and given.has('train.loss'):
        raise FlagError('a refinement has a loss of its own: leave --loss out')
    if plan.own is not None:
        had = _saved(plan.own, plan.name, 'optimizer')
        if train.optimizer != had:
            raise FlagError(f'--optimizer {train.optimizer}: {plan.own.path} holds the state of {had}; say --init to '
                            f'start another')


# What says which windows the steps of an epoch are made of, and what is added up over them.
STEP_SETTINGS = ('dataset', 'keypoints', 'subjects_train', 'subjects_valid', 'actions', 'subset', 'downsample', 'seed',
                 'batch', 'stride', 'augment', 'window_step', 'loss', 'objective')
# What says on which frames an epoch is judged.
JUDGE_SETTINGS = ('dataset', 'keypoints', 'subjects_valid', 'subjects_test', 'actions', 'downsample', 'root')


def _saved(resumed: OwnCheckpoint, name: str, setting: str) -> Any:
    """Return a setting of a checkpoint of ours; files from before there was a choice have that of their model."""
    return resumed.settings.get(setting, recipe_of(name).values().get(setting))


def _changed(plan: _Plan, names: tuple[str, ...]) -> list[str]:
    """Return the settings in which a resumed run differs from its checkpoint."""
    own, settings = plan.own, plan.config.settings()
    return [] if own is None else [name for name in names if settings[name] != _saved(own, plan.name, name)]


def _check_mid_epoch(plan: _Plan) -> None:
    """Raise FlagError when a checkpoint lies inside an epoch whose other steps would be made of other windows."""
    own, changed = plan.own, _changed(plan, STEP_SETTINGS)
    if own is not None and changed and own.stored.get('step'):
        raise FlagError(f'{own.path} lies inside an epoch, at step {own.stored["step"]}: {changed[0]} cannot change '
                        f'before it ends')


# ---- build: data, model and trainer -----------------------------------------------------------------------------


def _build(session: Session, plan: _Plan, skeleton: Skeleton, layout: Skeleton) -> Lifter:
    """Return the model on its device, with the weights of --init. Raises FlagError or FileError."""
    train = plan.config.train
    rates = {rate: getattr(train, rate) for rate in ('drop_path', 'dropout') if getattr(train, rate) is not None}
    try:
        model = build_model(plan.name, plan.sizes, skeleton, layout, **rates)
    except ContractError:
        raise
    except ValueError as error:
        if plan.source is None or session.config.model.refine:
            raise FlagError(str(error)) from None
        raise FileError(f'{plan.source.path} describes a model that cannot be built: {error}') from None
    model = model.to(session.device)
    initial = plan.initial
    if initial is not None:
        base_only = plan.sizes.get('refine') and not initial.config.get('refine')
        checkpoint.load_weights(model.without_truth() if base_only else model, initial)
        fresh = ', with a fresh refinement behind them' if base_only else ''
        session.say(f'starting from the weights of {initial.path}{fresh}')
    return model


@dataclass
class _Split:
    """The sequences to train on, to pick the best epoch by and to test on, and the error of the mean training pose."""

    train: SequenceStore
    valid: SequenceStore | None = None
    test: SequenceStore | None = None
    baseline: float | None = None
    picked_on: str = 'the test subjects'


def _split(session: Session, config: Config, dataset: PoseDataset, model: Lifter) -> _Split:
    """Return the sequences of a run. Raises FlagError for subjects that are on two sides."""
    data, train = config.data, config.train

    def store(subjects: Sequence[str], subset: float = 1.0, test: bool = True) -> SequenceStore:
        return make_store(session, config, dataset, subjects, subset, model.needs, model.title, test)

    subjects_train = data.subjects_train or dataset.subjects_train
    if train.subjects_valid and data.subjects_train is None:
        subjects_train = tuple(s for s in subjects_train if s not in train.subjects_valid)
    split = _Split(store(subjects_train, data.subset, test=False))
    if train.eval:
        split.test = split.valid = store(data.subjects_test or dataset.subjects_test)
        split.baseline = mean_pose_mpjpe(split.train, split.test)
        if train.subjects_valid:
            shared = [s for s in train.subjects_valid if s in subjects_train]
            if shared:
                raise FlagError(f'--subjects-valid {shared[0]} is a training subject too: leave it out of -str')
            split.valid = store(train.subjects_valid)
            split.picked_on = f'the validation subjects {",".join(train.subjects_valid)}'
    return split


def _trainer(session: Session, plan: _Plan, model: Lifter, split: _Split, dataset: PoseDataset) -> Trainer:
    """Return the trainer of a run, where a resumed one left off."""
    config, device, world, resumed = plan.config, session.device, session.world, plan.resumed
    train = config.train
    if world.size > 1:
        distributed.make_batch_norms_global(model)
    computing.set_up(model, device, config.run.compile, config.run.activation_checkpointing)
    optimizer = make_optimizer(model, train)
    at = _restore(session, plan, model, optimizer)
    world.same_weights(model)
    sampler = WindowSampler(split.train, model.frames, train.augment, train.seed, train.window_step, model.answers,
                            model.needs)
    steps = sampler.steps(train.windows)
    if resumed is not None and at.step > steps:
        raise FileError(f'{resumed.path} lies at step {at.step:,} of an epoch, which has {steps:,}')
    trainer = Trainer(model, optimizer, sampler, make_criterion(model, train.loss, dataset.skeleton, device), train,
                      at, world, config.run.precision, config.evaluate.root)
    if trainer.average and resumed is not None and resumed.training_state is not None:
        trainer.average.state = {key: value.to(device) for key, value in resumed.state.items()}
    return trainer


def _restore(session: Session, plan: _Plan, model: Lifter, optimizer: torch.optim.Optimizer) -> Progression:
    """Put a resumed checkpoint into model and optimizer, and say where the run stands."""
    resumed, train, given = plan.resumed, plan.config.train, session.config
    asked = given.train.lr if given.has('train.lr') else None
    if resumed is None:
        return Progression(base_lr=train.lr)
    checkpoint.load_weights(model, resumed)
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
    # The same command with --resume behind it goes on as it was; another rate starts the schedule anew.
    if asked is not None and asked != resumed.settings.get('lr'):
        at.base_lr, at.lr_since = asked, at.epoch + 1
    step = f', step {at.step}' if at.step else ''
    session.say(f'continuing {resumed.path} after epoch {at.epoch}{step}')
    return at


# ---- run and close ----------------------------------------------------------------------------------------------


def _open_log(session: Session, plan: _Plan, trainer: Trainer, baseline: float | None) -> tuple[RunLog | None, str]:
    """Prepare the checkpoint folder, open the run folder and say what runs. Sets trainer.at.best.

    Returns the log (None but on the first rank) and the run folder's name: that of the run that goes on in its
    checkpoint folder, or a new one.
    """
    given, world, at, resumed, model = session.config, session.world, trainer.at, plan.resumed, trainer.model
    parameters = sum(p.numel() for p in model.parameters())
    log = None
    if world.first:
        at.best = prepare_folder(plan.folder, resumed, given.train.overwrite)
        if at.best and (changed := _changed(plan, JUDGE_SETTINGS)):
            session.say(f'{changed[0]} has changed: the best epoch is picked anew')
            at.best = None
        about = {'command': list(given.argv), 'settings': _settings(plan), 'model': plan.name, 'config': plan.sizes,
                 'mean_pose_mpjpe': baseline, 'parameters': parameters, 'device': str(session.device),
                 'processes': world.size, 'versions': versions(), 'git': git_revision()}
        own = continued(plan.folder, resumed)
        if own is not None and Path(own.run).is_dir():
            log = RunLog.continued(Path(own.run), at.epoch, about)
        else:
            if own is not None:
                session.say(f'the run folder {own.run} is gone: a new one begins with epoch {at.epoch + 1}')
            log = RunLog.fresh(Path(given.run.log), about)
    at.best, run_folder = world.told((at.best, str(log.folder.resolve()) if log else None))
    sizes = ', '.join(f'{size} {value}' for size, value in plan.sizes.items() if size != 'frames')
    session.say(f'{describe_model(model)}: {parameters / 1e6:.2f} M parameters, {sizes}, on {world.size} × '
                f'{session.device.type}; run folder {run_folder}')
    return log, run_folder


def _settings(plan: _Plan) -> dict[str, Any]:
    """Return the settings that checkpoints store: JSON's kinds, and the model's name."""
    return {'model': plan.name, **plan.config.settings(), 'refine': bool(plan.sizes.get('refine'))}


def _about(plan: _Plan, dataset: PoseDataset, run_folder: str) -> dict[str, Any]:
    """Return what a checkpoint says of its model and data."""
    return {'model': plan.name, 'config': plan.sizes, 'skeleton': checkpoint.describe(dataset.skeleton),
            'layout': checkpoint.describe(dataset.layout), 'dataset': dataset.name, 'keypoints': dataset.keypoints,
            'settings': _settings(plan), 'seed': plan.config.train.seed, 'run': run_folder, 'versions': versions(),
            'run_id': uuid.uuid4().hex if plan.own is None else plan.own.run_id}


def _announce(session: Session, config: Config, trainer: Trainer, split: _Split) -> None:
    """Say what the run computes on."""
    say, model, train, at = session.say, trainer.model, trainer.recipe, trainer.at
    how = computing.describe(trainer.precision, session.device, config.run.compile,
                             config.run.activation_checkpointing)
    say(f'computing in {how}')
    say(f'training: {describe_store(split.train)}, {len(trainer.sampler):,} windows an epoch, {train.windows} a step')
    if split.test is not None:
        say(f'test: {describe_store(split.test)}; predicting the mean training pose gives {split.baseline:.1f} mm '
            f'MPJPE')
    if model.needs:
        say(f'besides the keypoints, {model.title} reads {describe_needs(model.needs)}')
    if at.epoch >= train.epochs:
        say(f'epoch {at.epoch} is finished already, nothing is left to train up to -e {train.epochs}')


def _draw_curves(log: RunLog, say: Callable[[str], None]) -> None:
    """Draw what there is; a picture that cannot be written must not hide how the run ended."""
    if epochs := log.epochs():
        from common.drawing.pictures import training_curves  # matplotlib is slow to import
        try:
            training_curves(epochs, log.folder / 'curves.png')
        except FileError as error:
            say(f'no training curves: {error}')


def _summary(at: Progression, seconds: float, epochs: int, device: torch.device) -> str:
    """Return in words how the run went."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if device.type == 'cuda':
        peak = torch.cuda.max_memory_allocated()
    best = f'best epoch {at.best["epoch"]} with valid_mpjpe {at.best["valid_mpjpe"]:.2f} mm; ' if at.best else ''
    speed = f', {at.metrics["frames_per_second"]:,} frames/s in the last' if at.metrics else ''
    return f'finished: {best}{epochs} epochs in {seconds:.0f} s{speed}; peak memory {peak / 2**30:.2f} GB'


def _evaluate_chosen(session: Session, plan: _Plan, model: Lifter, at: Progression, test: SequenceStore,
                     picked_on: str, dataset: PoseDataset) -> None:
    """Print the closing table: of the best or last epoch, or of the resumed file when there was none to train."""
    config = plan.config
    path = plan.folder / (checkpoint.LAST if config.train.select == 'last' or at.best is None else checkpoint.BEST)
    if plan.resumed is not None and not path.is_file():
        path = plan.resumed.path
    saved = checkpoint.load(path)
    checkpoint.load_weights(model, saved)
    how = f'the best on {picked_on}, ' if path.name == checkpoint.BEST else ''
    session.say(f'evaluating {path}: {how}epoch {saved.epoch}; again with: python run_ktpformer.py -c {plan.folder} '
                f'--data {config.data.folder} --evaluate {path.name}')
    close(session, config, model, plan.name, path, test, dataset)
