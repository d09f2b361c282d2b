"""--evaluate: predict every test window of a checkpoint once, print its table, write its files. Training ends in it."""

from pathlib import Path
from typing import Any

import numpy as np

from common.commands.session import (
    Session,
    check_layouts,
    check_outputs,
    check_test_flags,
    describe_store,
    identify_for,
    load_evaluated,
    make_store,
    read_checkpoint,
)
from common.config import Config, resolve
from common.datasets import DATASETS, PoseDataset, load_dataset
from common.errors import DivergedError, FileError
from common.evaluation import figures, marked, tables
from common.evaluation.latency import latency
from common.evaluation.sums import join_shares, predictions_by_frame, tally
from common.models import computing, recipe_of
from common.models.lifter import Lifter, describe_needs
from common.models.lifting import predictions
from common.sampler import TestWindows
from common.storage.npz import write_npz
from common.store import SequenceStore

ROOTS = {'zero': 'set to 0', 'predicted': 'taken as it is'}


def run(session: Session) -> None:
    """Evaluate the checkpoint that --evaluate names. Raises FileError, FlagError, DivergedError."""
    check_outputs(session.config)
    saved = read_checkpoint(session.config, session.config.evaluate.evaluate)
    name, sizes, how = identify_for(session.config, saved)
    config = resolve_for(session.config, name, sizes, saved.settings)
    check_test_flags(config)
    dataset = load_tested(config, set(config.data.subjects_test or ()))
    check_layouts(saved, name, dataset)
    lifter = load_evaluated(session, config, saved, name, sizes, how, dataset.layout, dataset.skeleton)
    precision = computing.evaluation_precision(session.config.run.precision, session.device)
    compiled = session.config.run.compile  # as asked for here, whatever the run did
    computing.set_up(lifter.model, session.device, compiled)
    origin = ', a public file' if saved.public else f', trained on {saved.dataset}, keypoints {saved.keypoints}'
    session.say(f'{saved.path}: {lifter.describe()}, epoch {saved.epoch}{origin}; computing in '
                f'{computing.describe(precision, session.device, compiled)}')
    subset = config.data.subset if config.has('data.subset') else 1.0
    store = make_store(session, config, dataset, config.data.subjects_test or dataset.subjects_test, subset,
                       lifter.model.needs, lifter.model.title)
    with computing.computing_in(lifter.model, precision):
        close(session, config, lifter.model, name, saved.path, store, dataset)


def resolve_for(config: Config, name: str, sizes: dict[str, Any], saved: dict[str, Any]) -> Config:
    """Return the configuration with all settings decided, for the model of a checkpoint."""
    return resolve(config, recipe_of(name, bool(sizes.get('refine'))), 1, saved)


def load_tested(config: Config, asked: set[str]) -> PoseDataset:
    """Return the data set to test on or draw: without the file of its training subjects unless one is asked for."""
    name, folder, keypoints = config.data.dataset, Path(config.data.folder), config.data.keypoints
    dataset = load_dataset(name, folder, keypoints, training=False)
    if DATASETS[name].split_paths and not asked <= set(dataset.detections):
        dataset = load_dataset(name, folder, keypoints)
    return dataset


def close(session: Session, config: Config, model: Lifter, name: str, path: Path, store: SequenceStore,
          dataset: PoseDataset) -> None:
    """Evaluate the model of a checkpoint on a store: table, results file, predictions, plots.

    Raises DivergedError when it predicts what is not finite, and FileError when a file cannot be written.
    """
    asked, world, root = config.evaluate, session.world, config.evaluate.root
    target = 'last' if asked.causal else 'all'
    if dataset.marks and not asked.causal:
        target = asked.target or 'centre'
    windows = TestWindows.of(store, model.frames, world, target, model.answers)
    predicted = predictions(model, store, windows, root)
    if not all(poses.isfinite().all() for poses in predicted.values()):
        raise DivergedError(f'{path} predicts NaN or infinite coordinates: its weights diverged, or the keypoints are '
                            f'not pixels')
    causal = '; causal: each frame is the last of the window it comes from' if asked.causal else ''
    session.say(f'evaluated on {dataset.name}, keypoints {dataset.keypoints}, {describe_store(store)}; predicted root '
                f'{ROOTS[root]}{causal}')
    reads = what_is_read(model, predicted)
    for kind, words in reads.items():
        session.say(f'{kind}: besides the keypoints it reads {words}, from {dataset.source_3d}')
    results = {'checkpoint': str(path), 'model': name, 'dataset': dataset.name, 'keypoints': dataset.keypoints,
               'frames': model.frames}
    if asked.causal:
        results['causal'] = True
    if reads:
        results['reads'] = reads
    test = _test_marked if dataset.marks else _test_by_action
    bars, title = test(session, config, predicted, store, windows, dataset, results)
    if asked.causal and world.first:
        session.say(latency(model, store, windows))
    if asked.results and world.first:
        tables.write_results(Path(asked.results), results)
    if asked.export_predictions or asked.plots:
        shares = world.gather(predictions_by_frame(predicted, store, windows))
        rows = join_shares(shares) if world.first else None
        if rows is not None and asked.export_predictions:
            _export(Path(asked.export_predictions), rows, reads, dataset, ROOTS[root])
        if rows is not None and asked.plots:
            published = model.published.get((dataset.name, dataset.keypoints))
            _plot(Path(asked.plots), figures.bars(*bars, published), title, rows, dataset)
            session.say(f'plots: {asked.plots}')


def what_is_read(model: Lifter, predicted: dict) -> dict[str, str]:
    """Return what predictions read besides the keypoints, in words, for those that read anything."""
    return {kind: describe_needs(model.reads(kind)) for kind in predicted if model.reads(kind)}


def _test_marked(session, config, predicted, store, windows, dataset, results: dict):
    """Say the table of marked frames and enter its figures; return the bars of a plot and their title."""
    target = config.evaluate.target or 'centre'
    if config.evaluate.causal:
        target = 'last'
    summaries = {kind: marked.summarise_marked(marked.tally_marked(poses, store, windows, dataset.skeleton,
                                                                   session.world))
                 for kind, poses in predicted.items()}
    session.say(marked.table_marked(summaries, target))
    _enter(results, 'targets', {kind: {target: summary} for kind, summary in summaries.items()})
    bars = [{kind: summary['sequences'] for kind, summary in summaries.items()},
            {kind: summary['averages']['C'] for kind, summary in summaries.items()}]
    return bars, f'Error by sequence, target {target}'


def _test_by_action(session, config, predicted, store, windows, dataset, results: dict):
    """Say the table by action and enter its figures; return the bars of a plot and their title."""
    protocol = config.evaluate.protocol or 'paper'
    summaries = {kind: tables.summarise(tally(poses, store, windows, session.world), config.evaluate.by_subject)
                 for kind, poses in predicted.items()}
    session.say(tables.table(summaries, protocol))
    _enter(results, 'protocols', summaries)
    bars = [{kind: protocols[protocol][part] for kind, protocols in summaries.items()}
            for part in ('actions', 'average')]
    return bars, f'Error by action, protocol {protocol}'


def _enter(results: dict, key: str, summaries: dict[str, dict]) -> None:
    """Enter the first prediction's figures under the key of its test, and each further prediction's under its name."""
    (first, figures_of_first), *others = summaries.items()
    results[key] = figures_of_first
    results |= dict(others)
    if others:
        results['predictions'] = [first, *(name for name, _ in others)]


def _plot(folder: Path, bars: dict, title: str, rows: dict[str, np.ndarray], dataset: PoseDataset) -> None:
    """Draw the figures of an evaluation into a folder. Raises FileError."""
    from common.drawing import pictures  # matplotlib takes a second to import, and only this needs it here

    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise FileError(f'cannot write to {folder}: {error.strerror}') from None
    names = dataset.skeleton.joints
    left_out = marked.NOT_IN_PCK if dataset.marks else (names[dataset.skeleton.root],)
    pictures.plot_bars(bars, title, folder / 'actions.png')
    pictures.plot_bars(figures.by_joint(rows, names), 'MPJPE by joint', folder / 'joints.png')
    pictures.plot_worst(figures.worst_sequences(rows), folder / 'worst.png')
    pictures.plot_pck(figures.pck_curves(rows, [j for j, name in enumerate(names) if name not in left_out]),
                      folder / 'pck.png')


def _export(path: Path, rows: dict[str, np.ndarray], reads: dict[str, str], dataset: PoseDataset, root: str) -> None:
    """Write predictions and truth by frame. Raises FileError."""
    if path.suffix == '.mat':
        marked.write_inference_data(path, rows, dataset.skeleton.root)
        return
    told = {'reads': np.array([f'{kind}: {words}' for kind, words in reads.items()])} if reads else {}
    write_npz(path, **rows, **told, joints=list(dataset.skeleton.joints), units='metres', axes='camera: x right, '
              f'y down, z forward; target relative to the root joint, predicted root {root}')
