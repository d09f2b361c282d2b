"""--evaluate: predict every test window of a checkpoint once, print its table, write its files. Training ends in it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.commands.outputs import check_outputs
from common.commands.session import (
    Session,
    check_layouts,
    check_test_flags,
    describe_store,
    identify_for,
    load_evaluated,
    make_store,
    read_evaluated,
    with_joints,
)
from common.config import Config
from common.datasets import DATASETS, load_dataset
from common.datasets.poses import PoseDataset
from common.errors import DivergedError, FileError, FlagError
from common.evaluation import figures, marked, tables
from common.evaluation.latency import latency
from common.evaluation.sums import join_shares, predictions_by_frame, tally
from common.flag import listed
from common.models import computing, model_class, recipe_of
from common.models.lifter import Lifter, describe_needs
from common.models.lifting import predictions, windows_for
from common.recipe import KEYPOINTS
from common.sampler import TestWindows
from common.settings import resolve
from common.skeleton import H36M, H36M16
from common.storage.checkpoint import Checkpoint
from common.storage.ending import held_back
from common.storage.npz import write_npz
from common.store import SequenceStore

OF_KEYPOINTS = 'thousandths of half the width'  # the unit of figures where keypoints are lifted to themselves
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
    model.measure(store.keypoints, store.truth)
    session.say(f'the statistics that its file lacks are those of {describe_store(store)}')


def check_causal(config: Config, model: Lifter) -> None:
    """Raise FlagError for --causal where a model's windows do not end with a frame that they answer for."""
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
    check_test_flags(config)
    check_outputs(config)  # again: now the data set is known
    return saved, (name, sizes, how), config


def resolve_for(config: Config, name: str, sizes: dict[str, Any], saved: dict[str, Any]) -> Config:
    """Return the configuration with all settings decided, for the model of a checkpoint."""
    return resolve(config, recipe_of(name, bool(sizes.get('refine'))), 1, saved)


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
    check_causal(config, model)
    windows = windows_for(model, store, target_of(config, dataset)).part(store, world)
    predicted = predictions(model, store, windows, asked.root, asked.flip)
    if not all(poses.isfinite().all() for poses in predicted.values()):
        raise DivergedError(f'{path} predicts NaN or infinite coordinates: its weights diverged, or the keypoints are '
                            f'not pixels')
    reads = what_is_read(model, predicted)
    _say_how(session, config, store, dataset, reads)
    test = _test_marked if dataset.marks else _test_by_action
    tested = test(session, config, predicted, store, windows, dataset)
    if config.model.causal and world.first:
        session.say(latency(model, store, asked.flip))
    if asked.results and world.first:
        about = {'checkpoint': str(path), 'model': name, 'dataset': dataset.name, 'keypoints': dataset.keypoints,
                 'frames': model.frames}
        tables.write_results(Path(asked.results), about | _results(tested, reads, bool(config.model.causal)))
    if asked.export_predictions or asked.plots:
        shares = world.gather(predictions_by_frame(predicted, store, windows))
        if shares is not None:
            published = model.published.get((dataset.name, dataset.keypoints))
            _write_frames(session, config, join_shares(shares), reads, tested, published, dataset)


def target_of(config: Config, dataset: PoseDataset) -> str:
    """Return which windows the test is made of, and which of their frames are taken, as `TestWindows.of` calls it."""
    if config.model.causal:
        return 'last'
    return (config.evaluate.target or 'centre') if dataset.marks else 'all'


def what_is_read(model: Lifter, predicted: dict[str, torch.Tensor]) -> dict[str, str]:
    """Return what predictions read besides the keypoints, in words, for those that read anything."""
    return {kind: describe_needs(model.reads(kind)) for kind in predicted if model.reads(kind)}


def _say_how(session: Session, config: Config, store: SequenceStore, dataset: PoseDataset,
             reads: dict[str, str]) -> None:
    """Say on what was evaluated, and how."""
    causal = '; causal: each frame is the last of the window it comes from' if config.model.causal else ''
    flip = '' if config.evaluate.flip else '; without mirrored keypoints'
    session.say(f'evaluated on {dataset.name}, keypoints {dataset.keypoints}, {describe_store(store)}; predicted root '
                f'{ROOT_IN_WORDS[config.evaluate.root]}{flip}{causal}')
    if dataset.skeleton == H36M16:
        session.say(f'figures are means over {len(H36M16)} joints, without the neck: not to be compared with means '
                    f'over {len(H36M)}')
    if config.data.joints == KEYPOINTS:
        session.say(f'figures are of keypoints in the picture, in {OF_KEYPOINTS}: not millimetres')
    for kind, words in reads.items():
        session.say(f'{kind}: besides the keypoints it reads {words}, from {dataset.source_3d}')


@dataclass(frozen=True)
class _Tested:
    """The figures of a test.

    Attributes:
        key: of the results file, under which the first prediction's figures stand.
        summaries: name of a prediction -> its figures, as the results file has them.
        rows: name of a prediction -> row of a plot -> figures. average: likewise, of the last row.
        title: of the plot.
    """

    key: str
    summaries: dict[str, dict[str, Any]]
    rows: dict[str, dict[str, tables.Figures]]
    average: dict[str, tables.Figures]
    title: str


def _test_marked(session: Session, config: Config, predicted: dict[str, torch.Tensor], store: SequenceStore,
                 windows: TestWindows, dataset: PoseDataset) -> _Tested:
    """Say the table of marked frames, and return its figures."""
    target = target_of(config, dataset)
    summaries = {kind: marked.summarise_marked(marked.tally_marked(poses, store, windows, dataset.skeleton,
                                                                   session.world))
                 for kind, poses in predicted.items()}
    session.say(marked.table_marked(summaries, target))
    return _Tested('targets', {kind: {target: summary} for kind, summary in summaries.items()},
                   {kind: summary['sequences'] for kind, summary in summaries.items()},
                   {kind: summary['averages']['C'] for kind, summary in summaries.items()},
                   f'Error by sequence, target {target}')


def _test_by_action(session: Session, config: Config, predicted: dict[str, torch.Tensor], store: SequenceStore,
                    windows: TestWindows, dataset: PoseDataset) -> _Tested:
    """Say the table by action, and return its figures."""
    protocol = config.evaluate.protocol or 'paper'
    summaries = {kind: tables.summarise(tally(poses, store, windows, session.world), config.evaluate.by_subject)
                 for kind, poses in predicted.items()}
    session.say(tables.table(summaries, protocol, OF_KEYPOINTS if config.data.joints == KEYPOINTS else None))
    return _Tested('protocols', summaries,
                   {kind: protocols[protocol]['actions'] for kind, protocols in summaries.items()},
                   {kind: protocols[protocol]['average'] for kind, protocols in summaries.items()},
                   f'Error by action, protocol {protocol}')


def _results(tested: _Tested, reads: dict[str, str], causal: bool) -> dict[str, Any]:
    """Return the figures of a test as the results file has them.

    The first prediction's stand under the key of its test, each further prediction's under its name.
    """
    results: dict[str, Any] = {}
    if causal:
        results['causal'] = True
    if reads:
        results['reads'] = reads
    (first, figures_of_first), *others = tested.summaries.items()
    results[tested.key] = figures_of_first
    results |= dict(others)
    if others:
        results['predictions'] = [first, *(name for name, _ in others)]
        results['headline'] = others[-1][0]
    return results


def _write_frames(session: Session, config: Config, rows: dict[str, np.ndarray], reads: dict[str, str],
                  tested: _Tested, published: tuple[str, Mapping[str, float]] | None, dataset: PoseDataset) -> None:
    """Write the predictions by frame and the plots that flags ask for. Raises FileError."""
    asked = config.evaluate
    if asked.export_predictions:
        _export(Path(asked.export_predictions), rows, reads, dataset, ROOT_IN_WORDS[asked.root])
    if asked.plots:
        bars = figures.bars(tested.rows, tested.average, published)
        _plot(Path(asked.plots), bars, tested.title, rows, dataset)
        session.say(f'plots: {asked.plots}')


def _plot(folder: Path, bars: dict[str, Any], title: str, rows: dict[str, np.ndarray], dataset: PoseDataset) -> None:
    """Draw the figures of an evaluation into a folder. Raises FileError."""
    with held_back():
        from common.drawing import plots  # matplotlib takes a second to import, and only this needs it here

    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise FileError(f'cannot write to {folder}: {error.strerror}') from None
    names = dataset.skeleton.joints
    left_out = marked.NOT_IN_PCK if dataset.marks else (names[dataset.skeleton.root],)
    plots.plot_bars(bars, title, folder / 'actions.png')
    plots.plot_bars(figures.by_joint(rows, names), 'MPJPE by joint', folder / 'joints.png')
    plots.plot_worst(figures.worst_sequences(rows), folder / 'worst.png')
    plots.plot_pck(figures.pck_curves(rows, [j for j, name in enumerate(names) if name not in left_out]),
                      folder / 'pck.png')


def _export(path: Path, rows: dict[str, np.ndarray], reads: dict[str, str], dataset: PoseDataset, root: str) -> None:
    """Write predictions and truth by frame. Raises FileError."""
    if path.suffix == '.mat':
        marked.write_inference_data(path, rows, dataset.skeleton.root)
        return
    told = {'reads': np.array([f'{kind}: {words}' for kind, words in reads.items()])} if reads else {}
    write_npz(path, **rows, **told, joints=list(dataset.skeleton.joints), units='metres', axes='camera: x right, '
              f'y down, z forward; target relative to the root joint, predicted root {root}')
