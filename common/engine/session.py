"""From flags to a finished command: build the data, the model and the run they ask for, and hand them to the loops."""

import argparse
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from common import checkpoint
from common.arguments import fill
from common.checkpoint import Checkpoint
from common.datasets import PoseDataset, load_dataset
from common.datasets.npz import write_npz
from common.engine import report
from common.engine.evaluate import TestWindows, mean_pose_mpjpe, predict, predictions_by_frame, tally
from common.engine.train import Progression, Recipe, fit, make_optimizer
from common.errors import DivergedError, FileError, FlagError
from common.files import atomic_path
from common.models import build_model, ktpformer
from common.runlog import RunLog, git_revision, versions
from common.sampler import SequenceStore, WindowSampler

MODEL = 'ktpformer'
MODEL_FLAGS = {'frames': '-f', 'channels': '-cs', 'depth': '-dep', 'heads': '-num_heads', 'kpa': '--no-kpa',
               'tpa': '--no-tpa'}


def evaluate(args: argparse.Namespace) -> None:
    """--evaluate: the tables and files of one checkpoint. Raises FileError and FlagError."""
    device = choose_device(args.device)
    _check_outputs(args)
    saved = checkpoint.load(checkpoint.find(args.evaluate, Path(args.checkpoint)))
    config = _config_of_file(args, saved)
    settings = fill(args, saved.settings, config)
    dataset = load_dataset(settings['dataset'], Path(args.data), settings['keypoints'])
    _check_layouts(saved, dataset)
    model = _build(saved, config, dataset).to(device)
    checkpoint.load_weights(model, saved)
    print(f'{saved.path}: KTPFormer, {config["frames"]} frames, epoch {saved.epoch}' +
          (', a public file' if saved.public else f', trained on {saved.dataset}, keypoints {saved.keypoints}'))
    subjects = settings['subjects_test'] or dataset.subjects_test
    store = _store(dataset, subjects, settings['actions'], settings['downsample'], args.subset or 1.0, device)
    _close(args, model, saved.path, store, dataset)


def train(args: argparse.Namespace) -> None:
    """Train, fresh or resumed, then evaluate the best epoch. Raises FileError and FlagError."""
    device = choose_device(args.device)
    folder = Path(args.checkpoint)
    resumed = checkpoint.load(checkpoint.find(args.resume, folder)) if args.resume else None
    if resumed is None:
        settings = fill(args)
        config = {name: settings[name] for name in MODEL_FLAGS}
    else:
        config = _config_of_file(args, resumed)
        settings = fill(args, resumed.settings, config)
    _check_outputs(args)
    _check_folder(folder, resumed, args.overwrite)

    dataset = load_dataset(settings['dataset'], Path(args.data), settings['keypoints'])
    settings |= {'dataset': dataset.name, 'keypoints': dataset.keypoints}
    if resumed is not None:
        _check_layouts(resumed, dataset)
    split = _split(dataset, settings, device)
    torch.manual_seed(settings['seed'])
    model = _build(resumed, config, dataset, settings['drop_path']).to(device)
    recipe = Recipe(settings['epochs'], max(1, settings['batch'] // settings['stride']), settings['lr'],
                    settings['lr_decay'], settings['weight_decay'], settings['objective'], settings['seed'],
                    settings['checkpoint_frequency'])
    optimizer = make_optimizer(model, recipe)
    at = _restore(args, resumed, model, optimizer, recipe)
    at.best = _prepare_folder(folder, resumed)
    sampler = WindowSampler(split.train, config['frames'], settings['augment'], settings['seed'])

    parameters = sum(p.numel() for p in model.parameters())
    about = {'command': args.command, 'settings': settings, 'model': MODEL, 'config': config, 'device': str(device),
             'parameters': parameters, 'versions': versions(), 'git': git_revision()}
    log = RunLog(Path(args.log), about | {'mean_pose_mpjpe': split.baseline})
    print(f'KTPFormer: {parameters / 1e6:.2f} M parameters, {config["frames"]} frames, {config["channels"]} channels, '
          f'depth {config["depth"]}, on {device}; run folder {log.folder}')
    print(f'training: {_describe(split.train)}, {len(sampler):,} windows an epoch, {recipe.windows} a step')
    if split.test is not None:
        print(f'test: {_describe(split.test)}; predicting the mean training pose gives {split.baseline:.1f} mm MPJPE')
    if at.epoch >= recipe.epochs:
        print(f'epoch {at.epoch} is finished already, nothing is left to train up to -e {recipe.epochs}')
    run = log.folder.name if resumed is None or resumed.public else resumed.run
    about = {'model': MODEL, 'config': config, 'skeleton': checkpoint.describe(dataset.skeleton),
             'layout': checkpoint.describe(dataset.layout), 'dataset': dataset.name, 'keypoints': dataset.keypoints,
             'settings': settings, 'seed': settings['seed'], 'run': run, 'versions': versions()}
    weights = torch.tensor(dataset.skeleton.loss_weights, device=device)
    try:
        fit(model, optimizer, sampler, split.test, weights, recipe, at, log, folder, about, _say)
    finally:
        log.close()
    if split.test is not None:
        _evaluate_best(args, model, at, folder, resumed, split.test, dataset)


@dataclass
class _Split:
    """The sequences to train on and those to judge by, on the device, and the error of the mean training pose there."""

    train: SequenceStore
    test: SequenceStore | None
    baseline: float | None


def _split(dataset: PoseDataset, settings: dict, device: torch.device) -> _Split:
    subjects = settings['subjects_train'] or dataset.subjects_train
    store = _store(dataset, subjects, settings['actions'], settings['downsample'], settings['subset'], device)
    if not settings['eval']:
        return _Split(store, None, None)
    subjects = settings['subjects_test'] or dataset.subjects_test
    test = _store(dataset, subjects, settings['actions'], settings['downsample'], 1.0, device)
    return _Split(store, test, mean_pose_mpjpe(store, test))


def _store(dataset, subjects, actions, downsample, subset, device) -> SequenceStore:
    sequences = dataset.sequences(subjects, actions or None, downsample, subset)
    return SequenceStore(sequences, dataset.layout, dataset.skeleton, device)


def choose_device(name: str) -> torch.device:
    """The device that --device asks for. Raises FlagError for cuda where there is none."""
    if name == 'cuda' and not torch.cuda.is_available():
        raise FlagError('--device cuda: there is no CUDA device here; use --device cpu')
    return torch.device('cuda' if name != 'cpu' and torch.cuda.is_available() else 'cpu')


def _config_of_file(args: argparse.Namespace, saved: Checkpoint) -> dict:
    """The model config of a checkpoint; FileError where the file is of another model or a given flag says otherwise."""
    if saved.public:
        try:
            config = ktpformer.config_of(saved.state)
        except ValueError as error:
            raise FileError(f'{saved.path} is not a KTPFormer checkpoint: {error}') from None
        config['heads'] = args.heads or config['heads']
    elif saved.model != MODEL:
        raise FileError(f'{saved.path} is a {saved.model} checkpoint, this program builds {MODEL}')
    else:
        config = saved.config
    for name, flag in MODEL_FLAGS.items():
        given = getattr(args, name)
        if given is not None and given != config[name]:
            asked = flag if isinstance(given, bool) else f'{flag} {given}'
            raise FileError(f'{saved.path} was made with {name} {config[name]}, which {asked} contradicts: leave the '
                            f'flag out or name another file')
    return config


def _build(saved: Checkpoint | None, config: dict, dataset: PoseDataset, drop_path: float = 0.0) -> torch.nn.Module:
    """The model of a config; FileError where a checkpoint's config cannot be built."""
    try:
        return build_model(MODEL, config, dataset.skeleton, dataset.layout, drop_path)
    except (ValueError, TypeError, ZeroDivisionError) as error:
        if saved is None:
            raise FlagError(str(error)) from None
        raise FileError(f'{saved.path} describes a model that cannot be built: {error}') from None


def _check_layouts(saved: Checkpoint, dataset: PoseDataset) -> None:
    """FileError unless a checkpoint's joints and keypoints are those of the data set."""
    if saved.public:
        count = saved.state['kpattention.attn.Spatial_pos_embed'].shape[1]
        if count != len(dataset.layout):
            raise FileError(f'{saved.path} takes {count} keypoints, but {dataset.source_2d} has {len(dataset.layout)} '
                            f'(layout {dataset.layout.name})')
        return
    for what, its, others, source in (('joints', saved.skeleton, dataset.skeleton, dataset.source_3d),
                                      ('keypoints', saved.layout, dataset.layout, dataset.source_2d)):
        if its != others:
            but = f'layout {others.name}' if its.name != others.name else f'a {others.name} with another order or tree'
            raise FileError(f'{saved.path} was made for {what} of layout {its.name}, but {source} has {but}')


def _check_outputs(args: argparse.Namespace) -> None:
    """FileError now, and not after hours, for an output file whose folder cannot be written."""
    for name in (args.results, args.export_predictions):
        if name and not (os.path.isdir(Path(name).parent) and os.access(Path(name).parent, os.W_OK)):
            raise FileError(f'cannot write {name}: folder {Path(name).parent} is missing or read-only')
        if name and os.path.isdir(name):
            raise FileError(f'cannot write {name}: it is a folder')


def _check_folder(folder: Path, resumed: Checkpoint | None, overwrite: bool) -> None:
    """FileError when the checkpoint folder holds another run's files."""
    held = [name for name in (checkpoint.LAST, checkpoint.BEST) if os.path.lexists(folder / name)]
    if held and not overwrite and not _continues(folder, resumed):
        raise FileError(f"{folder} holds another run's {held[0]}: choose another -c, continue it with --resume "
                        f'{held[0]}, or say --overwrite')


def _continues(folder: Path, resumed: Checkpoint | None) -> bool:
    """Whether a run goes on in the folder of the file it was resumed from."""
    return resumed is not None and not resumed.public and resumed.path.parent.resolve() == folder.resolve()


def _prepare_folder(folder: Path, resumed: Checkpoint | None) -> dict | None:
    """Make the checkpoint folder, clear it of another run's files, and return the figures of the best epoch so far.

    They are returned only where the best epoch's own file is at hand: in the folder, or beside the resumed file, or the
    resumed file itself. Only a command that said --overwrite or found no other run there comes here. Raises FileError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise FileError(f'cannot write to the checkpoint folder {folder}')
        if not _continues(folder, resumed):
            for stale in (*(folder / n for n in (checkpoint.LAST, checkpoint.PREVIOUS)), *folder.glob('epoch_*.bin')):
                stale.unlink(missing_ok=True)
        best = folder / checkpoint.BEST
        if resumed is not None and resumed.best is not None:
            for candidate in (best, resumed.path.parent / checkpoint.BEST, resumed.path):
                if _is_best_of(candidate, resumed):
                    if candidate != best:
                        with atomic_path(best) as temporary:
                            shutil.copyfile(candidate, temporary)
                    return resumed.best
        best.unlink(missing_ok=True)
    except OSError as error:
        raise FileError(f'cannot use the checkpoint folder {folder}: {error.strerror}') from None
    return None


def _is_best_of(path: Path, resumed: Checkpoint) -> bool:
    if not os.path.isfile(path):
        return False
    try:
        saved = checkpoint.load(path)
    except FileError:
        return False
    return not saved.public and (saved.run, saved.epoch) == (resumed.run, resumed.best.get('epoch'))


def _restore(args, resumed: Checkpoint | None, model, optimizer, recipe: Recipe) -> Progression:
    """Put a resumed checkpoint into model and optimizer, and say where the run stands."""
    if resumed is None:
        return Progression(lr=recipe.lr)
    checkpoint.load_weights(model, resumed)
    lr = args.lr or resumed.lr or recipe.lr
    if resumed.public:
        print(f'{resumed.path} is a public file: its weights are taken, at epoch {resumed.epoch}, lr {lr:.3g}; the '
              f"optimizer starts fresh, and the window order at its generator's first draw")
        return Progression(epoch=resumed.epoch, lr=lr, first_epoch=resumed.epoch + 1)
    try:
        optimizer.load_state_dict(resumed.optimizer)
        fits = all(state['exp_avg'].shape == p.shape for p, state in optimizer.state.items())
    except (ValueError, KeyError, TypeError, AttributeError):
        fits = False
    if not fits:
        raise FileError(f'{resumed.path}: its optimizer state does not fit the model')
    for group in optimizer.param_groups:
        group['weight_decay'] = recipe.weight_decay
    print(f'continuing {resumed.path} after epoch {resumed.epoch}')
    return Progression(resumed.epoch, lr, resumed.first_epoch)


def _evaluate_best(args, model, at: Progression, folder: Path, resumed, store, dataset) -> None:
    """The closing table: of the best epoch, or of the resumed file itself when there was no epoch left to train."""
    path = folder / checkpoint.BEST if at.best else resumed.path
    saved = checkpoint.load(path)
    checkpoint.load_weights(model, saved)
    picked = f'the best on the test subjects, epoch {saved.epoch}' if at.best else f'epoch {saved.epoch}'
    print(f'evaluating {path}: {picked}')
    _close(args, model, path, store, dataset)


def _close(args, model, path: Path, store: SequenceStore, dataset: PoseDataset) -> None:
    """Predict every test window once; print the table and write what was asked for."""
    windows = TestWindows.of(store, model.frames)
    predicted = predict(model, store, windows)
    if not predicted.isfinite().all():
        raise DivergedError(f'{path} predicts NaN or infinite coordinates: its weights diverged, or the keypoints are '
                            f'not pixels')
    protocols = report.summarise(tally(predicted, store, windows), args.by_subject)
    print(f'evaluated on {dataset.name}, keypoints {dataset.keypoints}, {_describe(store)}')
    print(report.table(protocols, args.protocol or 'paper'), flush=True)
    if args.results:
        report.write_results(Path(args.results), {
            'checkpoint': str(path), 'model': MODEL, 'dataset': dataset.name, 'keypoints': dataset.keypoints,
            'frames': model.frames, 'protocols': protocols})
    if args.export_predictions:
        write_npz(Path(args.export_predictions), **predictions_by_frame(predicted, store, windows),
                  joints=list(dataset.skeleton.joints), units='metres', axes='camera: x right, y down, z forward; '
                  'target relative to the root joint, prediction as it is')


def _describe(store: SequenceStore) -> str:
    subjects = ','.join(dict.fromkeys(subject for subject, _, _ in store.takes))
    return f'subjects {subjects}, {len(store.takes):,} sequences, {len(store):,} frames'


def _say(line: str) -> None:
    print(line, flush=True)
