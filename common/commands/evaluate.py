"""--evaluate: predict every test window of a checkpoint once, print its table, write its files. Training ends in it."""

import shlex
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from common.commands.judging import (
    OF_KEYPOINTS,
    Tested,
    add_up,
    lay_out,
    sampling_of,
    say_sampling,
    set_sampling,
    target_of,
)
from common.commands.outputs import check_outputs
from common.commands.session import (
    Session,
    check_layouts,
    check_test_flags,
    check_units,
    describe_store,
    identify_for,
    load_evaluated,
    make_store,
    read_evaluated,
    with_joints,
)
from common.config import Config, all_flags
from common.datasets import DATASETS, load_dataset
from common.datasets.poses import PoseDataset
from common.errors import FileError, FlagError
from common.evaluation import figures, marked, tables
from common.evaluation.latency import latency
from common.evaluation.sums import join_shares
from common.flag import listed
from common.models import computing, model_class, recipe_of
from common.models.lifter import Lifter, describe_needs
from common.models.lifting import widens, windows_for
from common.recipe import KEYPOINTS
from common.settings import in_flag, resolve
from common.skeleton import H36M, H36M16
from common.storage.checkpoint import Checkpoint
from common.storage.ending import held_back
from common.storage.npz import write_npz
from common.store import SequenceStore

REPORTS = ('results', 'export_predictions', 'plots')  # fields of what an evaluation writes
ROOT_IN_WORDS = {'zero': 'set to 0', 'predicted': 'taken as it is', 'subtract': 'subtracted from all joints'}


def run(session: Session) -> None:
    """Evaluate the checkpoint that --evaluate names. Raises FileError, FlagError, DivergedError."""
    saved, (name, sizes, how), config = open_evaluated(session.config)
    dataset = load_tested(config, set(config.data.subjects_test or ()))
    check_layouts(saved, name, dataset)
    lifter = load_evaluated(session, config, saved, name, sizes, how, dataset.layout, dataset.skeleton,
                            partial(_measure, session, config))
    precision = computing.evaluation_precision(session.config.run.precision, session.device)
    compiled = session.config.run.compile  # as asked for here, whatever the run did
    computing.set_up(lifter.model, session.device, compiled)
    session.say(f'{saved.path}: {lifter.describe()}{_origin(saved, name, sizes)}; computing in '
                f'{computing.describe(precision, session.device, compiled)}')
    subset = config.data.subset if config.has('data.subset') else 1.0
    store = make_store(session, config, dataset, config.data.subjects_test or dataset.subjects_test, subset,
                       lifter.model.needs, lifter.model.title)
    with computing.computing_in(lifter.model, precision):
        close(session, config, lifter.model, name, saved.path, store, dataset)


def _origin(saved: Checkpoint, name: str, sizes: dict[str, Any]) -> str:
    """Return in words where a checkpoint comes from, and what is assumed that a public file does not tell."""
    epoch = f', epoch {saved.epoch}' if saved.epoch else ''
    if not saved.public:
        return f'{epoch}, trained on {saved.dataset}, keypoints {saved.keypoints}'
    untold = getattr(model_class(name).Config, 'not_in_a_file', ())
    taken = ', '.join(f'{size} {listed(sizes[size])}' for size in untold)
    return f'{epoch}, a public file' + (f' (not told by it, and assumed: {taken})' if taken else '')


def _measure(session: Session, config: Config, model: Lifter) -> None:
    """Show a model of a public file the training frames, whose statistics its file lacks."""
    dataset = with_joints(load_dataset(config.data.dataset, Path(config.data.folder), config.data.keypoints), config)
    subjects = [subject for subject in dataset.subjects_train if subject in dataset.detections]
    if not subjects:
        raise FileError(f'the statistics that the file lacks are those of the training data, and {dataset.source_2d} '
                        f'has none of the training subjects {",".join(dataset.subjects_train)}')
    store = make_store(session, config, dataset, subjects, 1.0, model.needs, model.title, test=False)
    model.measure(store.keypoints, store.learned)
    session.say(f'the statistics that its file lacks are those of {describe_store(store)}')


def check_windows(config: Config, model: Lifter) -> None:
    """Raise FlagError where a model's windows cannot be as asked for.

    They do not end with a frame that they answer for, as --causal needs it, or there is nothing in which they overlap.
    """
    asked, answered = config.evaluate, len(model.answers)
    if asked.overlap is not None and asked.overlap >= answered:
        raise FlagError(f'--overlap {asked.overlap}: windows answer for {answered} frame{"" if answered == 1 else "s"} '
                        f'and must share fewer')
    if asked.target == 'overlap' and (answered == 1 or widens(model)):
        raise FlagError(f'--target overlap: {model.title} answers for each frame from one window around it, and so '
                        f'there is nothing to take the mean of: leave it out')
    if asked.target == 'overlap' and model.samples:
        raise FlagError(f'--target overlap: {model.title} makes several hypotheses, and those of two windows have '
                        f'nothing to do with each other: leave it out')
    if config.model.causal and model.answers.stop < model.frames:
        raise FlagError(f'--causal: {model.title} answers for frame {model.answers.stop} of the {model.frames} that it '
                        f'reads, and so needs frames that come after; train a model that answers for the last one')


def open_evaluated(given: Config) -> tuple[Checkpoint, tuple[str, dict[str, Any], str], Config]:
    """Return the checkpoint of --evaluate, its model's name and sizes and how they were found, and the decided run.

    Raises FileError for the checkpoint or a file that cannot be written, FlagError for flags, before any data is read.
    """
    check_outputs(given)
    saved = read_evaluated(given)
    name, sizes, how = identify_for(given, saved)
    config = resolve_for(given, name, sizes, saved.settings)
    if config.data.joints == KEYPOINTS and given.model.model is None:
        raise FileError(f'{saved.path} is a {model_class(name).title}, which tells keypoints that are hidden, and no '
                        f'poses: begin a model of poses with it (--init), or say --model {name} to judge it on '
                        f'keypoints')
    if config.data.joints == KEYPOINTS and (given.render.render or given.evaluate.plots):
        raise FileError(f'{saved.path} tells keypoints in the picture, and no poses that could be drawn: take a model '
                        f'that was trained on poses')
    check_units(saved, name, config.data.dataset)
    check_test_flags(config)
    check_outputs(config)  # again: now the data set is known
    return saved, (name, sizes, how), config


def resolve_for(config: Config, name: str, sizes: dict[str, Any], saved: dict[str, Any]) -> Config:
    """Return the configuration with all settings decided, for the model of a checkpoint."""
    return resolve(config, recipe_of(name, sizes), 1, saved)


def load_tested(config: Config, asked: set[str]) -> PoseDataset:
    """Return the data set to test on or draw: without the file of its training subjects unless one is asked for."""
    name, folder, keypoints = config.data.dataset, Path(config.data.folder), config.data.keypoints
    dataset = load_dataset(name, folder, keypoints, training=False)
    if DATASETS[name].split and not asked <= set(dataset.detections):
        dataset = load_dataset(name, folder, keypoints)
    return with_joints(dataset, config)


def close(session: Session, config: Config, model: Lifter, name: str, path: Path, store: SequenceStore,
          dataset: PoseDataset) -> None:
    """Evaluate the model of a checkpoint on a store: table, results file, predictions, plots.

    Raises DivergedError when it predicts what is not finite, and FileError when a file cannot be written.
    """
    asked, world = config.evaluate, session.world
    check_windows(config, model)
    set_sampling(config, model)
    everything = windows_for(model, store, target_of(config, dataset, store), asked.overlap)
    windows = everything.part(store, world)
    keep = bool(asked.export_predictions or asked.plots)
    sums, frames = add_up(config, model, path, store, windows, dataset, keep)
    sums = [{kind: world.sum(total) for kind, total in each.items()} for each in sums]
    reads = what_is_read(model, sums[-1], store)
    _say_how(session, config, store, dataset, reads)
    if left := len(store) - int(world.sum(windows.first.sum())) if store.units is not None else 0:
        session.say(f'{left:,} frames at the ends of sequences, where no whole window fits, are left out')
    if asked.target == 'overlap':
        passes = len(everything) / len(windows_for(model, store))
        session.say(f'windows answer for {len(model.answers)} frames and overlap by {windows.overlap}: each frame is '
                    f'their blended mean and counts once, at {passes:.2f} times the passes of windows back to back')
    say_sampling(session, config, model, windows, dataset, sums[-1])
    tested = lay_out(session, config, sums, store, dataset, windows.overlap)
    if config.model.causal and world.first:
        session.say(latency(model, store, asked.flip))
    if asked.results and world.first:
        about = {'checkpoint': str(path), 'model': name, 'dataset': dataset.name, 'keypoints': dataset.keypoints,
                 'frames': model.frames}
        tables.write_results(Path(asked.results), about | _results(tested, reads, bool(config.model.causal)) |
                             sampling_of(config, model))
    if keep:
        shares = world.gather(join_shares(frames))
        if shares is not None:
            published = model.published.get((dataset.name, dataset.keypoints))
            _write_frames(session, config, join_shares(shares), reads, tested, published, dataset)


def command_for(config: Config, name: str, path: Path) -> str:
    """Return the command that prints the closing table of a training run again, of a checkpoint in its folder.

    Args:
        name: of the model.
    """
    words = ['python', 'run_ktpformer.py', '-c', str(path.parent), '--data', config.data.folder]
    if config.data.joints == KEYPOINTS:
        words += ['--model', name]
    words += ['--evaluate', path.name]
    for section, field, flag in all_flags():  # what checkpoints do not store, but for files that would be written anew
        said = f'{section}.{field}'
        if section == 'evaluate' and not flag.stored and field not in REPORTS and config.has(said):
            words += in_flag(flag, config.value(said)).split()
    return shlex.join(words)


def what_is_read(model: Lifter, predicted: Iterable[str], store: SequenceStore) -> dict[str, str]:
    """Return what predictions read besides the keypoints, in words, for those that read anything.

    Poses in the picture become metres by the scale that the root's true depth gives.
    """
    scale = frozenset() if store.units is None else frozenset({'root_depth'})
    return {kind: describe_needs(reads) for kind in predicted if (reads := model.reads(kind) | scale)}


def _say_how(session: Session, config: Config, store: SequenceStore, dataset: PoseDataset,
             reads: dict[str, str]) -> None:
    """Say on what was evaluated, and how."""
    causal = '; causal: each frame is the last of the window it comes from' if config.model.causal else ''
    flip = '' if config.evaluate.flip else '; without mirrored keypoints'
    session.say(f'evaluated on {dataset.name}, keypoints {dataset.keypoints}, {describe_store(store)}; predicted root '
                f'{ROOT_IN_WORDS[config.evaluate.root]}{flip}{causal}')
    if dataset.left_out:
        session.say(f'left out: {dataset.left_out}')
    if dataset.skeleton == H36M16:
        session.say(f'figures are means over {len(H36M16)} joints, without the neck: not to be compared with means '
                    f'over {len(H36M)}')
    if config.data.joints == KEYPOINTS:
        session.say(f'figures are of keypoints in the picture, in {OF_KEYPOINTS}: not millimetres')
    for kind, words in reads.items():
        session.say(f'{kind}: besides the keypoints it reads {words}, from {dataset.source_3d}')


def _results(tested: Tested, reads: dict[str, str], causal: bool) -> dict[str, Any]:
    """Return the figures of a test as the results file has them.

    Those of the first prediction that reads nothing besides the keypoints, or what all of them read, stand under the
    key of its test, and those of each other prediction under its name.
    """
    results: dict[str, Any] = {}
    if causal:
        results['causal'] = True
    if tested.overlap is not None:
        results['overlap'] = tested.overlap
    if reads:
        results['reads'] = reads
    least = min((reads.get(kind, '') for kind in tested.summaries), key=len)
    names = sorted(tested.summaries, key=lambda kind: reads.get(kind, '') != least)
    results[tested.key] = tested.summaries[names[0]]
    results |= {kind: tested.summaries[kind] for kind in names[1:]}
    if len(names) > 1:
        results['predictions'] = names
        results['headline'] = list(tested.summaries)[-1]
    if tested.by_iteration:
        results['by_iteration'] = {tested.shown: tested.by_iteration}
    return results


def _write_frames(session: Session, config: Config, rows: dict[str, np.ndarray], reads: dict[str, str],
                  tested: Tested, published: tuple[str, Mapping[str, float]] | None, dataset: PoseDataset) -> None:
    """Write the predictions by frame and the plots that flags ask for. Raises FileError."""
    asked = config.evaluate
    if asked.export_predictions:
        _export(Path(asked.export_predictions), rows, reads, tested, dataset, ROOT_IN_WORDS[asked.root])
    if asked.plots:
        bars = figures.bars(tested.rows, tested.average, published)
        note = '; '.join(f'{kind} reads {words}' for kind, words in reads.items())
        _plot(Path(asked.plots), bars, tested.title, rows, dataset, note)
        session.say(f'plots: {asked.plots}')


def _plot(folder: Path, bars: dict[str, Any], title: str, rows: dict[str, np.ndarray], dataset: PoseDataset,
          note: str) -> None:
    """Draw the figures of an evaluation into a folder, with what some of them read. Raises FileError."""
    with held_back():
        from common.drawing import plots  # matplotlib takes a second to import, and only this needs it here

    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise FileError(f'cannot write to {folder}: {error.strerror}') from None
    names = dataset.skeleton.joints
    left_out = marked.NOT_IN_PCK if dataset.marks else (names[dataset.skeleton.root],)
    plots.plot_bars(bars, title, folder / 'actions.png', note)
    plots.plot_bars(figures.by_joint(rows, names), 'MPJPE by joint', folder / 'joints.png', note)
    plots.plot_worst(figures.worst_sequences(rows), folder / 'worst.png')
    plots.plot_pck(figures.pck_curves(rows, [j for j, name in enumerate(names) if name not in left_out]),
                   folder / 'pck.png', note)


def _export(path: Path, rows: dict[str, np.ndarray], reads: dict[str, str], tested: Tested, dataset: PoseDataset,
            root: str) -> None:
    """Write predictions and truth by frame. Raises FileError."""
    if path.suffix == '.mat':
        marked.write_inference_data(path, rows, dataset.skeleton.root)
        return
    told = {'reads': np.array([f'{kind}: {words}' for kind, words in reads.items()])} if reads else {}
    if tested.overlap is not None:
        told['overlap'] = np.array(tested.overlap)
    write_npz(path, **rows, **told, joints=list(dataset.skeleton.joints), units='metres', axes='camera: x right, '
              f'y down, z forward; target relative to the root joint, predicted root {root}')
