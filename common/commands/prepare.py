"""What a command needs before its loop can begin: a device, a model that fits a file, folders that can be written."""

import argparse
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from common.cli.parser import CONFIG_FLAGS, misfit
from common.datasets import DATASETS, PoseDataset
from common.distributed import World
from common.errors import FileError, FlagError
from common.models import MODELS, build_model, recognise
from common.storage import checkpoint
from common.storage.checkpoint import Checkpoint
from common.storage.files import atomic_path


@dataclass
class Session:
    """A command under way: its flags, device and processes, and how it speaks (only the first process does)."""

    args: argparse.Namespace
    device: torch.device
    world: World
    say: Callable[[str], None]


def choose_device(name: str) -> torch.device:
    """The device that --device asks for. Raises FlagError for cuda where there is none."""
    if name == 'cuda' and not torch.cuda.is_available():
        raise FlagError('--device cuda: there is no CUDA device here; use --device cpu')
    return torch.device('cuda' if name != 'cpu' and torch.cuda.is_available() else 'cpu')


def model_of_file(args: argparse.Namespace, saved: Checkpoint) -> tuple[str, dict]:
    """The model of a checkpoint and its config; FileError where the file holds something else than flags ask for.

    Raises FlagError for flags that its model does not have.
    """
    model = recognise(saved.state) or args.model or 'ktpformer' if saved.public else saved.model
    if model not in MODELS:
        raise FileError(f'{saved.path} is a {model} checkpoint, this program builds {", ".join(MODELS)}')
    if args.model not in (None, model):
        raise FileError(f'{saved.path} is a {MODELS[model].title} checkpoint, which --model {args.model} contradicts: '
                        f'leave the flag out or name another file')
    config = saved.config
    if saved.public:
        try:
            config = MODELS[model].config_of(saved.state)
        except ValueError as error:
            raise FileError(f'{saved.path} is not a {MODELS[model].title} checkpoint: {error}') from None
        config['heads'] = args.heads or config['heads']
    if problem := misfit(args, model):
        raise FlagError(problem)
    for name, flag in CONFIG_FLAGS[model].items():
        given = getattr(args, name)
        if given is not None and given != config[name]:
            asked = flag if isinstance(given, bool) else f'{flag} {given}'
            raise FileError(f'{saved.path} was made with {name} {config[name]}, which {asked} contradicts: leave the '
                            f'flag out or name another file')
    return model, config


def build(saved: Checkpoint | None, settings: dict, config: dict, dataset: PoseDataset) -> torch.nn.Module:
    """The model of a config; FlagError where it cannot be built, FileError where it is a checkpoint's."""
    rates = {name: settings[name] for name in ('drop_path', 'dropout') if name in settings}
    try:
        return build_model(settings['model'], config, dataset.skeleton, dataset.layout, **rates)
    except (ValueError, TypeError, ZeroDivisionError) as error:
        if saved is None:
            raise FlagError(str(error)) from None
        raise FileError(f'{saved.path} describes a model that cannot be built: {error}') from None


def check_layouts(saved: Checkpoint, dataset: PoseDataset) -> None:
    """FileError unless a checkpoint's joints and keypoints are those of the data set."""
    if saved.public:
        count = saved.state[MODELS[recognise(saved.state)].positions].shape[1]
        if count != len(dataset.layout):
            raise FileError(f'{saved.path} takes {count} keypoints, but {dataset.source_2d} has {len(dataset.layout)} '
                            f'(layout {dataset.layout.name})')
        return
    for what, its, others, source in (('joints', saved.skeleton, dataset.skeleton, dataset.source_3d),
                                      ('keypoints', saved.layout, dataset.layout, dataset.source_2d)):
        if its != others:
            but = f'layout {others.name}' if its.name != others.name else f'a {others.name} with another order or tree'
            raise FileError(f'{saved.path} was made for {what} of layout {its.name}, but {source} has {but}')


# Files that are written, and those that are read beside them.
WRITTEN = ('output', 'csv', 'results', 'export_predictions', 'viz_output', 'viz_export')
READ = ('predict', 'viz_video', 'viz_compare', 'evaluate', 'init')
# What commands that only look at files do not do.
NOT_DONE = ('results', 'export_predictions', 'plots', 'protocol', 'target', 'by_subject', 'causal', 'render', 'predict')


def check_names(args: argparse.Namespace) -> None:
    """FlagError where one file would be written over another, or where a command writes nothing that is asked for."""
    seen = {}
    for name in (*READ, *WRITTEN):
        path = getattr(args, name) and os.path.realpath(getattr(args, name))
        if path in seen and name in WRITTEN:
            raise FlagError(f'{_flag(name)} {getattr(args, name)} is also {_flag(seen[path])}: choose another name')
        if path:
            seen[path] = name
    for alone in ('check_data', 'inspect'):
        for name in NOT_DONE if getattr(args, alone) else ():
            if getattr(args, name):
                raise FlagError(f'{_flag(name)} means nothing with {_flag(alone)}')


def _flag(name: str) -> str:
    return f'--{name.replace("_", "-")}'


def check_outputs(args: argparse.Namespace) -> None:
    """FileError now, and not after hours, for an output file whose folder cannot be written."""
    check_writable(args.results, args.export_predictions, args.viz_output, args.viz_export)
    if args.plots and not os.access(args.plots if os.path.lexists(args.plots) else Path(args.plots).parent, os.W_OK):
        raise FileError(f'cannot write to {args.plots}: it, or the folder it is to lie in, is missing or read-only')
    if args.plots and os.path.lexists(args.plots) and not os.path.isdir(args.plots):
        raise FileError(f'cannot write to {args.plots}: it is not a folder')


def check_writable(*names: str | None) -> None:
    """FileError for a file whose folder is missing or cannot be written; None is no file."""
    for name in names:
        if name and not (os.path.isdir(Path(name).parent) and os.access(Path(name).parent, os.W_OK)):
            raise FileError(f'cannot write {name}: folder {Path(name).parent} is missing or read-only')
        if name and os.path.isdir(name):
            raise FileError(f'cannot write {name}: it is a folder')


def check_test_flags(args: argparse.Namespace, dataset: str) -> None:
    """FlagError for a flag that means nothing in the test of a data set."""
    marked = DATASETS[dataset].marked
    for name in ('protocol', 'by_subject') if marked else ('target',):
        if getattr(args, name):
            instead = 'its table has the rows of its own test, see --target' if marked else 'see --protocol'
            raise FlagError(f'{_flag(name)} means nothing for -d {dataset}: {instead}')
    if not marked and (args.export_predictions or '').endswith('.mat'):
        raise FlagError(f'--export-predictions {args.export_predictions}: expected a name that ends in .npz; .mat is '
                        f'for the test script of 3dhp')


def check_folder(folder: Path, resumed: Checkpoint | None, overwrite: bool) -> None:
    """FileError when the checkpoint folder holds another run's files."""
    held = [name for name in (checkpoint.LAST, checkpoint.BEST) if os.path.lexists(folder / name)]
    if held and not overwrite and not continues(folder, resumed):
        raise FileError(f"{folder} holds another run's {held[0]}: choose another -c, continue it with --resume "
                        f'{held[0]}, or say --overwrite')


def continues(folder: Path, resumed: Checkpoint | None) -> bool:
    """Whether a run goes on in the folder of the file of ours that it was resumed from."""
    return resumed is not None and not resumed.public and resumed.path.parent.resolve() == folder.resolve()


def prepare_folder(folder: Path, resumed: Checkpoint | None, overwrite: bool) -> dict | None:
    """Make the checkpoint folder ready, and return the figures of the best epoch so far, if its file is at hand.

    Under --overwrite another run's files are deleted, never the one that is resumed. A best.bin of the run that is
    resumed, here or beside the resumed file, is its best so far, even when newer than that file. Raises FileError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise FileError(f'cannot write to the checkpoint folder {folder}')
        _clear(folder, resumed, overwrite)
        best = folder / checkpoint.BEST
        candidates = [] if resumed is None or resumed.public else [best, resumed.path.parent / checkpoint.BEST]
        for candidate in candidates:
            figures = _best_figures(candidate, resumed)
            if figures is not None:
                if candidate != best:
                    with atomic_path(best) as temporary:
                        shutil.copyfile(candidate, temporary)
                return figures
        if resumed is None or best.resolve() != resumed.path.resolve():
            best.unlink(missing_ok=True)
    except OSError as error:
        raise FileError(f'cannot use the checkpoint folder {folder}: {error.strerror}') from None
    return None


def _clear(folder: Path, resumed: Checkpoint | None, overwrite: bool) -> None:
    """Delete what a kill left half-written and, under --overwrite, another run's files but never the resumed one."""
    for left_by_a_kill in (*folder.glob('.*.bin.*.bin'), folder / f'.{checkpoint.PREVIOUS}'):
        left_by_a_kill.unlink(missing_ok=True)
    if continues(folder, resumed):
        if resumed.path.name == checkpoint.PREVIOUS and (folder / checkpoint.LAST).is_file():
            os.replace(folder / checkpoint.LAST, folder / 'last.damaged')  # it must not become previous.bin
    elif overwrite:
        stale = [*(folder / name for name in (checkpoint.LAST, checkpoint.PREVIOUS)), *folder.glob('epoch_*.bin')]
        for path in stale:
            if resumed is None or path.resolve() != resumed.path.resolve():
                path.unlink(missing_ok=True)


def _best_figures(path: Path, resumed: Checkpoint) -> dict | None:
    """The figures of the epoch in a best.bin, if that file is of the resumed run."""
    if not os.path.isfile(path):
        return None
    try:
        saved = checkpoint.load(path)
    except FileError:
        return None
    return saved.best if not saved.public and saved.run_id == resumed.run_id else None


def load_resumed(name: str, folder: Path, say) -> Checkpoint:
    """The checkpoint to go on from; where last.bin is damaged, previous.bin, saying so. Raises FileError."""
    path = checkpoint.find(name, folder)
    try:
        return checkpoint.load(path)
    except FileError as error:
        previous = path.parent / checkpoint.PREVIOUS
        if path.name != checkpoint.LAST or not previous.is_file():
            raise
        say(f'{error}; going on from {previous}, the save before it')
        return checkpoint.load(previous)
