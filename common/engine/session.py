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
from common.errors import FileError, FlagError
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
    name = args.dataset or saved.dataset or 'h36m'
    keypoints = args.keypoints or (saved.keypoints if name == saved.dataset else None)
    dataset = load_dataset(name, Path(args.data), keypoints)
    _check_layouts(saved, config, dataset)
    model = build_model(MODEL, config, dataset.skeleton, dataset.layout).to(device)
    checkpoint.load_weights(model, saved)
    print(f'{saved.path}: KTPFormer, {config["frames"]} frames, epoch {saved.epoch}' +
          (', a public file' if saved.public else ''))
    if saved.keypoints not in (None, dataset.keypoints):
        print(f'trained on keypoints {saved.keypoints}, evaluated on {dataset.keypoints}')
    subjects = args.subjects_test or dataset.subjects_test
    store = _store(dataset, subjects, args.actions, args.downsample or 1, args.subset or 1.0, device)
    _close(args, model, saved.path, store, dataset)


def train(args: argparse.Namespace) -> None:
    """Train, fresh or resumed, then evaluate the best epoch. Raises FileError and FlagError."""
    device = choose_device(args.device)
    folder = Path(args.checkpoint)
    resumed = checkpoint.load(checkpoint.find(args.resume, folder)) if args.resume else None
    settings = fill(args, None if resumed is None else resumed.settings)
    config = {name: settings[name] for name in MODEL_FLAGS} | {'mlp_ratio': 2.0}
    if resumed is not None:
        config = _config_of_file(args, resumed)
        settings |= {name: config[name] for name in MODEL_FLAGS}
        settings['stride'] = args.stride or resumed.settings.get('stride') or min(config['frames'], 128)
    _check_outputs(args)
    _check_folder(folder, resumed, args.overwrite)

    dataset = load_dataset(settings['dataset'], Path(args.data), settings['keypoints'])
    settings['keypoints'] = dataset.keypoints
    if resumed is not None:
        _check_layouts(resumed, config, dataset)
    split = _split(dataset, settings, device)
    torch.manual_seed(settings['seed'])
    model = build_model(MODEL, config, dataset.skeleton, dataset.layout, settings['drop_path']).to(device)
    recipe = Recipe(settings['epochs'], max(1, settings['batch'] // settings['stride']), settings['lr'],
                    settings['lr_decay'], settings['weight_decay'], settings['objective'], settings['seed'],
                    settings['checkpoint_frequency'])
    optimizer = make_optimizer(model, recipe)
    at = _restore(args, resumed, model, optimizer, recipe)
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
    if resumed is None:
        for name in (checkpoint.LAST, checkpoint.PREVIOUS, checkpoint.BEST):
            (folder / name).unlink(missing_ok=True)  # only there under --overwrite
    run = log.folder.name if resumed is None or resumed.public else resumed.run
    about = {'model': MODEL, 'config': config, 'skeleton': checkpoint.describe(dataset.skeleton),
             'layout': checkpoint.describe(dataset.layout), 'dataset': dataset.name, 'keypoints': dataset.keypoints,
             'settings': settings, 'seed': settings['seed'], 'run': run, 'versions': versions()}
    weights = torch.tensor(dataset.skeleton.loss_weights, device=device)
    fit(model, optimizer, sampler, split.test, weights, recipe, at, log, folder, about, _say)
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


def _check_layouts(saved: Checkpoint, config: dict, dataset: PoseDataset) -> None:
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
            raise FileError(f'{saved.path} was made for {what} of layout {its.name}, but {source} has layout '
                            f'{others.name}')


def _check_outputs(args: argparse.Namespace) -> None:
    """FileError now, and not after hours, for an output file whose folder cannot be written."""
    for name in (args.results, args.export_predictions):
        if name and not os.access(Path(name).parent, os.W_OK):
            raise FileError(f'cannot write {name}: folder {Path(name).parent} is missing or read-only')


def _check_folder(folder: Path, resumed: Checkpoint | None, overwrite: bool) -> None:
    """Make the checkpoint folder; FileError when it cannot be written or holds another run's last.bin."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f'cannot make the checkpoint folder {folder}: {error.strerror}') from None
    if not os.access(folder, os.W_OK):
        raise FileError(f'cannot write to the checkpoint folder {folder}')
    last = folder / checkpoint.LAST
    if overwrite or not last.exists():
        return
    continues = resumed is not None and not resumed.public and resumed.path.parent.resolve() == folder.resolve()
    if not continues:
        raise FileError(f"{folder} holds another run's {last.name}: choose another -c, continue it with --resume "
                        f'{last.name}, or say --overwrite')


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
    except (ValueError, KeyError, TypeError) as error:
        raise FileError(f'{resumed.path}: its optimizer state does not fit the model ({error})') from None
    for group in optimizer.param_groups:
        group['weight_decay'] = recipe.weight_decay
    print(f'continuing {resumed.path} after epoch {resumed.epoch}')
    return Progression(resumed.epoch, lr, resumed.first_epoch, _best_so_far(args, resumed))


def _best_so_far(args, resumed: Checkpoint) -> dict | None:
    """The best epoch's figures, if its file is at hand: in -c, or beside the resumed file, from where it is copied."""
    best, beside = Path(args.checkpoint) / checkpoint.BEST, resumed.path.parent / checkpoint.BEST
    if resumed.best is not None and not best.exists() and beside.exists():
        shutil.copyfile(beside, best)
    return resumed.best if best.exists() else None


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
    protocols = report.summarise(tally(predicted, store, windows), args.by_subject)
    print(f'{dataset.name}, keypoints {dataset.keypoints}, {_describe(store)}')
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
