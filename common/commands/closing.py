"""The end of training and the whole of --evaluate: predict every test window once, print the table, write the files."""

from pathlib import Path

import torch

from common.commands.prepare import Session
from common.datasets import PoseDataset
from common.errors import DivergedError, FileError
from common.evaluation import figures
from common.evaluation import marked as pck
from common.evaluation import tables as report
from common.evaluation.evaluate import TestWindows, join_shares, predictions, predictions_by_frame, tally
from common.evaluation.latency import latency
from common.sampler import SequenceStore
from common.storage.npz import write_npz

# What a refinement knows that methods without one do not; named wherever its figures stand.
REFINEMENT_READS = "each camera's focal length and centre, and the true depth of the root joint in every frame"
ROOTS = {'zero': 'set to 0', 'predicted': 'taken as it is'}


def close(session: Session, model: torch.nn.Module, path: Path, store: SequenceStore, dataset: PoseDataset,
          settings: dict) -> None:
    """Evaluate the model of a checkpoint on a store: table, results file, predictions.

    Raises DivergedError when it predicts what is not finite, and FileError when a file cannot be written.
    """
    args, world = session.args, session.world
    target = 'last' if args.causal else (args.target or 'centre') if dataset.marks else 'all'
    windows = TestWindows.of(store, model.frames, world, target)
    predicted = predictions(model, store, windows, settings['root'])
    if not all(poses.isfinite().all() for poses in predicted.values()):
        raise DivergedError(f'{path} predicts NaN or infinite coordinates: its weights diverged, or the keypoints are '
                            f'not pixels')
    causal = '; causal: each frame is the last of the window it comes from' if args.causal else ''
    session.say(f'evaluated on {dataset.name}, keypoints {dataset.keypoints}, {describe_store(store)}; predicted root '
                f'{ROOTS[settings["root"]]}{causal}')
    results = {'checkpoint': str(path), 'model': settings['model'], 'dataset': dataset.name,
               'keypoints': dataset.keypoints, 'frames': model.frames} | ({'causal': True} if args.causal else {})
    if dataset.marks:
        totals = pck.tally_marked(predicted['predicted'], store, windows, dataset.skeleton, world)
        summary = pck.summarise_marked(totals)
        session.say(pck.table_marked(summary, target))
        results['targets'] = {target: summary}
        bars = {'predicted': summary['sequences']}, {'predicted': summary['averages']['C']}
        title = f'Error by sequence, target {target}'
    else:
        summaries = {name: report.summarise(tally(poses, store, windows, world), args.by_subject)
                     for name, poses in predicted.items()}
        results['protocols'] = summaries['predicted']
        if 'refined' in summaries:
            session.say(f'refined: besides the keypoints, the refinement reads {REFINEMENT_READS} from '
                        f'{dataset.source_3d}')
            results |= {'refined': summaries['refined'], 'refinement_reads': REFINEMENT_READS}
        session.say(report.table(summaries, args.protocol or 'paper'))
        chosen = {name: protocols[args.protocol or 'paper'] for name, protocols in summaries.items()}
        bars = [{name: protocol[part] for name, protocol in chosen.items()} for part in ('actions', 'average')]
        title = f'Error by action, protocol {args.protocol or "paper"}'
    if args.causal and world.first:
        session.say(latency(model, store, windows))
    if args.results and world.first:
        report.write_results(Path(args.results), results)
    if args.export_predictions or args.plots:
        shares = world.gather(predictions_by_frame(predicted, store, windows))
        rows = join_shares(shares) if world.first else None
        if world.first and args.export_predictions:
            reads = {'refinement_reads': REFINEMENT_READS} if 'refined' in predicted else {}
            _export(Path(args.export_predictions), rows | reads, dataset, ROOTS[settings['root']])
        if world.first and args.plots:
            _plot(Path(args.plots), bars, title, rows, dataset)
            session.say(f'plots: {args.plots}')


def _plot(folder: Path, by_row, title: str, rows: dict, dataset: PoseDataset) -> None:
    """Draw the figures of an evaluation into a folder. Raises FileError."""
    from common.drawing import pictures as render  # matplotlib takes a second to import, and only this needs it here

    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise FileError(f'cannot write to {folder}: {error.strerror}') from None
    names = dataset.skeleton.joints
    left_out = pck.NOT_IN_PCK if dataset.marks else (names[dataset.skeleton.root],)
    render.plot_bars(figures.bars(*by_row, dataset.name, dataset.keypoints), title, folder / 'actions.png')
    render.plot_bars(figures.by_joint(rows, names), 'MPJPE by joint', folder / 'joints.png')
    render.plot_worst(figures.worst_sequences(rows), folder / 'worst.png')
    render.plot_pck(figures.pck_curves(rows, [j for j, name in enumerate(names) if name not in left_out]),
                    folder / 'pck.png')


def _export(path: Path, rows: dict, dataset: PoseDataset, root: str) -> None:
    if path.suffix == '.mat':
        pck.write_inference_data(path, rows, dataset.skeleton.root)
    else:
        write_npz(path, **rows, joints=list(dataset.skeleton.joints), units='metres', axes='camera: x right, y down, '
                  f'z forward; target relative to the root joint, predicted root {root}')


def describe_store(store: SequenceStore) -> str:
    """What a store holds, in words."""
    subjects = ','.join(dict.fromkeys(subject for subject, _, _ in store.takes))
    counted = '' if store.marks is None else f', {int((store.marks != 0).sum()):,} of which count'
    return f'subjects {subjects}, {len(store.takes):,} sequences, {len(store):,} frames{counted}'
