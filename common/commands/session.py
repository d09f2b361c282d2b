"""From flags to a finished command: build the data, the model and the run they ask for, and hand them to the loops."""

import argparse
import os
import resource
import time
import uuid
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from common import distributed
from common.cli.parser import CONFIG_FLAGS, RECIPES
from common.commands import check_data, predict, prepare
from common.commands import render as rendering
from common.commands.closing import REFINEMENT_READS, close, describe_store
from common.commands.prepare import Session
from common.commands.settings import fill
from common.datasets import DATASETS, PoseDataset, load_dataset
from common.distributed import World
from common.errors import FileError, FlagError
from common.evaluation import tables as report
from common.evaluation.evaluate import mean_pose_mpjpe
from common.models import MODELS, Refined, computing
from common.sampler import SequenceStore, WindowSampler
from common.storage import checkpoint
from common.storage.checkpoint import Checkpoint
from common.storage.runlog import RunLog, git_revision, versions
from common.training.loop import Judges, Progression, Trainer, fit, progression_of
from common.training.optimiser import Recipe, StepLoss, make_optimizer
from common.training.signals import StopRequest


def run(args: argparse.Namespace) -> None:
    """Do what the flags ask for. Raises FileError, FlagError, DivergedError, and Stopped on a signal while training."""
    prepare.check_names(args)
    if args.inspect:
        print(report.describe_file(checkpoint.load(checkpoint.find(args.inspect, Path(args.checkpoint)))))
        return
    if args.check_data:
        check_data.run(args)
        return
    device = prepare.choose_device(args.device)
    if args.deterministic:
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')  # read when cuBLAS starts
        torch.use_deterministic_algorithms(True)
    try:
        with distributed.join(device.type) as world:
            session = Session(args, device, world, _print if world.first else lambda line: None)
            if args.predict:
                _predict(session)
            else:
                _evaluate(session) if args.evaluate else _train(session)
    finally:
        torch.use_deterministic_algorithms(False)


def _predict(session: Session) -> None:
    """--predict: 3D poses of a user's own keypoints."""
    if session.world.size > 1:
        raise FlagError('--predict runs in one process: leave torchrun out')
    lifted = predict.run(session)
    if session.args.render:
        rendering.render_lifted(session, lifted)


def _evaluate(session: Session) -> None:
    """--evaluate: the tables and files of one checkpoint."""
    args = session.args
    prepare.check_outputs(args)
    saved = checkpoint.load(checkpoint.find(args.evaluate, Path(args.checkpoint)))
    name, config = prepare.model_of_file(args, saved)
    if args.refine and not config.get('refine'):
        raise FileError(f'{saved.path} holds no refinement: train one behind it with --refine --init {args.evaluate}')
    settings = fill(args, name, saved.settings, config)
    prepare.check_test_flags(args, settings['dataset'])
    dataset = rendering.load_for(args, settings)
    prepare.check_layouts(saved, dataset)
    model = prepare.build(saved, settings, config, dataset).to(session.device)
    checkpoint.load_weights(model, saved)
    precision = computing.set_up_evaluation(model, args, session.device)
    session.say(f'{saved.path}: {_describe_model(name, model)}, epoch {saved.epoch}' +
                (', a public file' if saved.public else f', trained on {saved.dataset}, keypoints {saved.keypoints}') +
                f'; computing in {computing.describe(precision, session.device, bool(args.compile))}')
    if args.render:
        rendering.render(session, model, saved, dataset, settings)
        return
    store = _store(dataset, settings['subjects_test'] or dataset.subjects_test, settings, args.subset or 1.0,
                   session.device)
    with computing.computing_in(model, precision):
        close(session, model, saved.path, store, dataset, settings)


def _train(session: Session) -> None:
    """Train, fresh or resumed, then evaluate the chosen epoch."""
    args, device, world, say = session.args, session.device, session.world, session.say
    folder = Path(args.checkpoint)
    resumed, initial, settings, config = _start(args, folder, say)
    source = resumed or initial
    recipe = _recipe(settings, world, device)

    dataset = load_dataset(settings['dataset'], Path(args.data), settings['keypoints'])
    settings |= {'dataset': dataset.name, 'keypoints': dataset.keypoints}
    if source is not None:
        prepare.check_layouts(source, dataset)
    if settings['refine'] and dataset.layout != dataset.skeleton:
        raise FlagError(f'a refinement needs a keypoint for each joint, but keypoints are of layout '
                        f'{dataset.layout.name} and joints of {dataset.skeleton.name}')
    split = _split(dataset, settings, device)
    torch.manual_seed(settings['seed'])
    model = prepare.build(source, settings, config, dataset).to(device)
    if initial is not None:
        base_only = settings['refine'] and not initial.config.get('refine')
        checkpoint.load_weights(model.base if base_only else model, initial)
        say(f'starting from the weights of {initial.path}' + ', with a fresh refinement behind them' * base_only)
    if world.size > 1:
        distributed.make_batch_norms_global(model)
    computing.set_up(model, settings, device)
    optimizer = make_optimizer(model, recipe)
    at = _restore(session, resumed, model, optimizer, recipe)
    world.same_weights(model)
    sampler = WindowSampler(split.train, model.frames, settings['augment'], settings['seed'], settings['window_step'],
                            views=settings['refine'])
    trainer = Trainer(model, optimizer, sampler, StepLoss(recipe, dataset.skeleton, device), recipe, at, world)
    if trainer.average and resumed is not None and resumed.training_state is not None:
        trainer.average.state = {key: value.to(device) for key, value in resumed.state.items()}

    log, run_folder = _open_log(session, folder, resumed, at, {
        'settings': settings, 'model': settings['model'], 'config': config, 'mean_pose_mpjpe': split.baseline,
        'parameters': sum(p.numel() for p in model.parameters())}, _describe_model(settings['model'], model))
    how = computing.describe(trainer.precision, device, settings['compile'], settings['activation_checkpointing'])
    say(f'computing in {how}')
    say(f'training: {describe_store(split.train)}, {len(sampler):,} windows an epoch, {recipe.windows} a step')
    if split.test is not None:
        say(f'test: {describe_store(split.test)}; predicting the mean training pose gives {split.baseline:.1f} mm '
            f'MPJPE')
    if settings['refine']:
        say(f'figures are with the refinement; besides the keypoints it reads {REFINEMENT_READS}')
    if at.epoch >= recipe.epochs:
        say(f'epoch {at.epoch} is finished already, nothing is left to train up to -e {recipe.epochs}')
    about = {'model': settings['model'], 'config': config, 'skeleton': checkpoint.describe(dataset.skeleton),
             'layout': checkpoint.describe(dataset.layout), 'dataset': dataset.name, 'keypoints': dataset.keypoints,
             'settings': settings, 'seed': settings['seed'], 'run': run_folder, 'versions': versions(),
             'run_id': resumed.run_id if resumed is not None and not resumed.public else uuid.uuid4().hex}
    judges = Judges(split.valid, split.train if settings['eval_train'] else None)
    begun, first_epoch = time.perf_counter(), at.epoch
    try:
        with StopRequest() as stop:
            fit(trainer, judges, log, folder, about, stop, say)
    finally:
        if log is not None:
            log.close()
            if args.export_training_curves:
                _draw_curves(log, say)
    say(_summary(at, time.perf_counter() - begun, at.epoch - first_epoch, device))
    if split.test is not None:
        _evaluate_chosen(session, model, at, folder, resumed, split, dataset, settings)


def _start(args, folder: Path, say) -> tuple[Checkpoint | None, Checkpoint | None, dict, dict]:
    """(the checkpoint to resume, the one to take weights from, the settings, the model's config), outputs checked."""
    resumed = prepare.load_resumed(args.resume, folder, say) if args.resume else None
    initial = checkpoint.load(checkpoint.find(args.init, folder)) if args.init else None
    if resumed is None and initial is None:
        settings = fill(args, args.model or 'ktpformer')
        config = {name: settings[name] for name in CONFIG_FLAGS[settings['model']]}
    else:
        name, config = prepare.model_of_file(args, resumed or initial)
        if args.refine and resumed and not config.get('refine'):
            raise FlagError(f'--refine starts from a trained model: say --init {args.resume}, not --resume')
        config = config | ({'refine': True} if args.refine else {})
        settings = fill(args, name, resumed.settings if resumed else None, config)
    _check_recipe(args, resumed, settings)
    prepare.check_outputs(args)
    prepare.check_test_flags(args, settings['dataset'])
    if not settings['eval'] and (args.results or args.export_predictions or args.plots):
        raise FlagError('--results, --export-predictions and --plots need the evaluation that the resumed run leaves '
                        'out: say --eval')
    if resumed is not None:
        _check_mid_epoch(resumed, settings)
    prepare.check_folder(folder, resumed, args.overwrite)
    if initial is not None and args.overwrite and initial.path.parent.resolve() == folder.resolve():
        raise FileError(f'--overwrite would delete {initial.path}, which --init starts from: choose another -c')
    return resumed, initial, settings, config


def _check_recipe(args, resumed: Checkpoint | None, settings: dict) -> None:
    """FlagError for a flag that other settings leave nothing to say."""
    if settings['schedule'] == 'cosine' and (args.lr_decay or args.lr_drop_every):
        raise FlagError('--schedule cosine has no use for -lrd and --lr-drop-every: leave them out')
    if settings['refine'] and DATASETS[settings['dataset']].marked:
        raise FlagError(f'-d {settings["dataset"]} has no lenses for its training, which a refinement reads')
    if settings['refine'] and args.loss:
        raise FlagError('a refinement has a loss of its own: leave --loss out')
    had = _saved(resumed, 'optimizer') if resumed and not resumed.public else settings['optimizer']
    if settings['optimizer'] != had:
        raise FlagError(f'--optimizer {settings["optimizer"]}: {resumed.path} holds the state of {had}; say --init to '
                        f'start another')


# What says which windows the steps of an epoch are made of, and what is added up over them.
STEP_SETTINGS = ('dataset', 'keypoints', 'subjects_train', 'subjects_valid', 'actions', 'subset', 'downsample', 'seed',
                 'batch', 'stride', 'augment', 'window_step', 'loss', 'objective')
# What says on which frames an epoch is judged.
JUDGE_SETTINGS = ('dataset', 'keypoints', 'subjects_valid', 'subjects_test', 'actions', 'downsample', 'root')


def _saved(resumed: Checkpoint, name: str):
    """A setting of a checkpoint of ours; files from before there was a choice have that of their model."""
    return resumed.settings.get(name, RECIPES[resumed.model].get(name))


def _changed(resumed: Checkpoint, settings: dict, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if not resumed.public and settings[name] != _saved(resumed, name)]


def _check_mid_epoch(resumed: Checkpoint, settings: dict) -> None:
    """FlagError when a checkpoint lies inside an epoch whose other steps would be made of other windows."""
    changed = _changed(resumed, settings, STEP_SETTINGS)
    if changed and resumed.stored.get('step'):
        raise FlagError(f'{resumed.path} lies inside an epoch, at step {resumed.stored["step"]}: {changed[0]} cannot '
                        f'change before it ends')


def _recipe(settings: dict, world: World, device: torch.device) -> Recipe:
    recipe = Recipe.of(settings)
    computing.check(recipe.precision, device)
    if recipe.windows < world.size:
        raise FlagError(f'a step of {recipe.windows} windows cannot be shared by {world.size} processes: raise -b or '
                        f'start fewer')
    return recipe


@dataclass
class _Split:
    """The sequences to train on, to pick the best epoch by and to test on, and the error of the mean training pose."""

    train: SequenceStore
    valid: SequenceStore | None = None
    test: SequenceStore | None = None
    baseline: float | None = None
    picked_on: str = 'the test subjects'


def _split(dataset: PoseDataset, settings: dict, device: torch.device) -> _Split:
    subjects_train = settings['subjects_train'] or dataset.subjects_train
    if settings['subjects_valid'] and settings['subjects_train'] is None:
        subjects_train = tuple(s for s in subjects_train if s not in settings['subjects_valid'])
    split = _Split(_store(dataset, subjects_train, settings, settings['subset'], device, test=False))
    if settings['eval']:
        split.test = split.valid = _store(dataset, settings['subjects_test'] or dataset.subjects_test, settings, 1.0,
                                          device)
        split.baseline = mean_pose_mpjpe(split.train, split.test)
        if settings['subjects_valid']:
            shared = [s for s in settings['subjects_valid'] if s in subjects_train]
            if shared:
                raise FlagError(f'--subjects-valid {shared[0]} is a training subject too: leave it out of -str')
            split.valid = _store(dataset, settings['subjects_valid'], settings, 1.0, device)
            split.picked_on = f'the validation subjects {",".join(settings["subjects_valid"])}'
    return split


def _store(dataset, subjects, settings: dict, subset: float, device, test: bool = True) -> SequenceStore:
    sequences = dataset.sequences(subjects, settings['actions'] or None, settings['downsample'], subset)
    store = SequenceStore(sequences, dataset.layout, dataset.skeleton, device)
    if settings['refine'] and store.intrinsics is None:
        raise FlagError(f'a refinement needs the cameras\' intrinsics, which {dataset.name} does not have for '
                        f'{",".join(subjects)}')
    if test and store.marks is not None:
        counted = {take[0] for take, marks in zip(store.takes, store.marks.split(store.lengths), strict=True)
                   if marks.any()}
        for subject in subjects:
            if subject not in counted:
                raise FlagError(f'no frame of {subject} that counts is left: change --downsample or --subset')
    return store


def _restore(session: Session, resumed: Checkpoint | None, model, optimizer, recipe: Recipe) -> Progression:
    """Put a resumed checkpoint into model and optimizer, and say where the run stands."""
    if resumed is None:
        return Progression(base_lr=recipe.lr)
    checkpoint.load_weights(model, resumed)
    if resumed.public:
        lr = session.args.lr or resumed.lr or recipe.lr
        session.say(f'{resumed.path} is a public file: its weights are taken, at epoch {resumed.epoch}, lr {lr:.3g}; '
                    f"the optimizer starts fresh, and the window order at its generator's first draw")
        since = resumed.epoch + 1
        return Progression(epoch=resumed.epoch, base_lr=lr, lr_since=since, first_epoch=since)
    if resumed.training_state is not None:
        checkpoint.load_weights(model, replace(resumed, state=resumed.training_state))
    try:
        optimizer.load_state_dict(resumed.optimizer)
        fits = all(p in optimizer.state and optimizer.state[p]['exp_avg'].shape == p.shape for p in model.parameters())
    except (ValueError, KeyError, TypeError, AttributeError):
        fits = False
    if not fits:
        raise FileError(f'{resumed.path}: its optimizer state does not fit the model')
    for group in optimizer.param_groups:
        group['weight_decay'] = recipe.weight_decay
    at = progression_of(resumed.stored)
    # The same command with --resume behind it goes on as it was; another rate starts the schedule anew.
    if session.args.lr not in (None, resumed.settings.get('lr')):
        at.base_lr, at.lr_since = session.args.lr, at.epoch + 1
    session.say(f'continuing {resumed.path} after epoch {at.epoch}' + (f', step {at.step}' if at.step else ''))
    return at


def _open_log(session: Session, folder: Path, resumed: Checkpoint | None, at: Progression,
              about: dict, described: str) -> tuple[RunLog | None, str]:
    """Prepare the checkpoint folder, open the run folder and say what runs.

    Returns the log (None but on the first rank) and the run folder's name: that of the run that goes on in its
    checkpoint folder, or a new one. Sets at.best.
    """
    args, world, log = session.args, session.world, None
    if world.first:
        at.best = prepare.prepare_folder(folder, resumed, args.overwrite)
        if at.best and (changed := _changed(resumed, about['settings'], JUDGE_SETTINGS)):
            session.say(f'{changed[0]} has changed: the best epoch is picked anew')
            at.best = None
        about = {'command': args.command, **about, 'device': str(session.device), 'processes': world.size,
                 'versions': versions(), 'git': git_revision()}
        if prepare.continues(folder, resumed) and Path(resumed.run).is_dir():
            log = RunLog.continued(Path(resumed.run), at.epoch, about)
        else:
            if prepare.continues(folder, resumed):
                session.say(f'the run folder {resumed.run} is gone: a new one begins with epoch {at.epoch + 1}')
            log = RunLog.fresh(Path(args.log), about)
    at.best, run_folder = world.told((at.best, str(log.folder.resolve()) if log else None))
    config = about['config']
    session.say(f'{described}: {about["parameters"] / 1e6:.2f} M parameters, {config["channels"]} channels, depth '
                f'{config["depth"]}, on {world.size} × {session.device.type}; run folder {run_folder}')
    return log, run_folder


def _draw_curves(log: RunLog, say) -> None:
    """Draw what there is; a picture that cannot be written must not hide how the run ended."""
    if epochs := log.epochs():
        from common.drawing.pictures import training_curves  # matplotlib is slow to import
        try:
            training_curves(epochs, log.folder / 'curves.png')
        except FileError as error:
            say(f'no training curves: {error}')


def _summary(at: Progression, seconds: float, epochs: int, device: torch.device) -> str:
    peak = (torch.cuda.max_memory_allocated() if device.type == 'cuda'
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    best = f'best epoch {at.best["epoch"]} with valid_mpjpe {at.best["valid_mpjpe"]:.2f} mm; ' if at.best else ''
    speed = f', {at.metrics["frames_per_second"]:,} frames/s in the last' if at.metrics else ''
    return f'finished: {best}{epochs} epochs in {seconds:.0f} s{speed}; peak memory {peak / 2**30:.2f} GB'


def _evaluate_chosen(session: Session, model, at: Progression, folder: Path, resumed, split: _Split, dataset,
                     settings: dict) -> None:
    """The closing table: of the best or last epoch, or of the resumed file itself when there was none to train."""
    path = folder / (checkpoint.LAST if settings['select'] == 'last' or at.best is None else checkpoint.BEST)
    if not path.is_file():
        path = resumed.path
    saved = checkpoint.load(path)
    checkpoint.load_weights(model, saved)
    how = f'the best on {split.picked_on}, ' if path.name == checkpoint.BEST else ''
    session.say(f'evaluating {path}: {how}epoch {saved.epoch}; again with: python run_ktpformer.py -c {folder} --data '
                f'{session.args.data} --evaluate {path.name}')
    close(session, model, path, split.test, dataset, settings)


def _describe_model(name: str, model) -> str:
    refined = ' with refinement' if isinstance(model, Refined) else ''
    return f'{MODELS[name].title}{refined}, {model.frames} frame{"s" * (model.frames > 1)}'


def _print(line: str) -> None:
    print(line, flush=True)
