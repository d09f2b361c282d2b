"""Judging a model on a store: lift its windows, add up the errors, and lay the figures out as a table and as JSON."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.commands.session import Session
from common.config import Config
from common.datasets import DATASETS
from common.datasets.poses import PoseDataset
from common.errors import DivergedError
from common.evaluation import hypotheses, marked, tables
from common.evaluation.hypotheses import Judged
from common.evaluation.sums import FRAMES_AT_ONCE, by_action, predictions_by_frame, sequence_sums
from common.metrics import METRICS
from common.models.diffusion import COUNT
from common.models.lifter import Lifter, describe_needs
from common.models.lifting import blended, predictions, usual_target
from common.recipe import KEYPOINTS
from common.sampler import TestWindows
from common.store import SequenceStore

OF_KEYPOINTS = 'thousandths of half the width'  # the unit of figures where keypoints are lifted to themselves


def target_of(config: Config, dataset: PoseDataset, store: SequenceStore) -> str:
    """Return which windows the test is made of, and which of their frames are taken, as `windows_for` calls it."""
    if config.model.causal:
        return 'last'
    return config.evaluate.target or ('centre' if dataset.marks else usual_target(store))


def set_sampling(config: Config, model: Lifter) -> None:
    """Tell a model that samples how many hypotheses and iterations are asked for."""
    if model.samples:
        model.hypotheses = config.evaluate.hypotheses or COUNT
        model.iterations = config.evaluate.iterations or COUNT


def _lifted(config: Config, model: Lifter, store: SequenceStore, windows: TestWindows) -> Iterator[
        tuple[TestWindows, list[Judged]]]:
    """Yield windows and what is judged of them, by iteration.

    In pieces, where four poses of each window and iteration, or a frame in each of many windows, would take the memory
    of many windows; else all at once.
    """
    asked = config.evaluate
    if not model.samples:
        for piece in windows.pieces(store, FRAMES_AT_ONCE) if windows.overlap else [windows]:
            predicted = predictions(model, store, piece, asked.root, asked.flip)
            yield piece, [Judged({name: blended(poses, store, piece) for name, poses in predicted.items()}, {})]
        return
    for piece in windows.pieces(store, FRAMES_AT_ONCE):
        yield piece, hypotheses.hypotheses(model, store, piece, asked.root, asked.flip, together(config),
                                           asked.by_iteration)


def add_up(config: Config, model: Lifter, path: Path, store: SequenceStore, windows: TestWindows,
           dataset: PoseDataset, keep: bool) -> tuple[list[dict[str, torch.Tensor]], list[dict[str, np.ndarray]]]:
    """Return the sums of errors by iteration and name of a prediction; of the last one its frames too, if to be kept.

    Raises DivergedError for predictions that are not finite.
    """
    sums: list[dict[str, torch.Tensor]] = []
    frames = []
    for piece, judged in _lifted(config, model, store, windows):
        sums = sums or [{} for _ in judged]
        for totals, (predicted, known) in zip(sums, judged, strict=True):
            if not all(poses.isfinite().all() for poses in predicted.values()):
                raise DivergedError(f'{path} predicts NaN or infinite coordinates: its weights diverged, or the '
                                    f'keypoints are not pixels')
            for kind, poses in predicted.items():
                if dataset.marks:
                    added = marked.marked_sums(poses, store, piece, dataset.skeleton, known.get(kind))
                else:
                    added = sequence_sums(poses, store, piece, known.get(kind))
                totals[kind] = totals[kind] + added if kind in totals else added
        if keep:
            frames.append(predictions_by_frame(judged[-1].poses, store, piece))
    return sums, frames


def say_sampling(session: Session, config: Config, model: Lifter, windows: TestWindows, dataset: PoseDataset,
                 judged: Iterable[str]) -> None:
    """Say how a model sampled, and which figure is missing that reads what the data do not tell."""
    if not model.samples:
        return
    count = together(config)
    session.say(f'{in_words(model)} of each window; P-Best takes one of them for {counted(count, "window", "windows")} '
                f'of a sequence, {counted(count * len(windows.taken), "frame", "frames")}; P-Agg compares with other '
                f'methods')
    if 'J-Agg' not in set(judged):
        session.say(f'no J-Agg: it reads {describe_needs(model.reads("J-Agg"))}, and a keypoint for each joint, which '
                    f'{dataset.name} does not tell')


def together(config: Config) -> int:
    """Return for how many windows P-Best takes one hypothesis."""
    return config.evaluate.windows_per_choice or hypotheses.TOGETHER


def in_words(model: Lifter) -> str:
    """Return how many hypotheses and iterations a model samples, in words."""
    return (f'{counted(model.hypotheses, "hypothesis", "hypotheses")} after '
            f'{counted(model.iterations, "iteration", "iterations")}')


def counted(number: int, one: str, several: str) -> str:
    """Return a number of things in words."""
    return f'{number:,} {one if number == 1 else several}'


def sampling_of(config: Config, model: Lifter) -> dict[str, Any]:
    """Return how a model sampled, for the results file."""
    if not model.samples:
        return {}
    return {'hypotheses': model.hypotheses, 'iterations': model.iterations,
            'windows_per_choice': together(config)}


@dataclass(frozen=True)
class Tested:
    """The figures of a test.

    Attributes:
        key: of the results file, under which the first prediction's figures stand.
        summaries: name of a prediction -> its figures, as the results file has them.
        rows: name of a prediction -> row of a plot -> figures. average: likewise, of the last row.
        shown: the protocol or target of the table. title: of the plot. table: in words.
        by_iteration: name of a prediction -> its averages after each iteration, if asked for.
        overlap: frames that neighbouring windows share, where each frame is the mean of them; None elsewhere.
    """

    key: str
    summaries: dict[str, dict[str, Any]]
    rows: dict[str, dict[str, tables.Figures]]
    average: dict[str, tables.Figures]
    shown: str
    title: str
    table: str
    by_iteration: dict[str, list[tables.Figures]] = field(default_factory=dict)
    overlap: int | None = None


def lay_out(session: Session, config: Config, sums: list[dict[str, torch.Tensor]], store: SequenceStore,
          dataset: PoseDataset, overlap: int) -> Tested:
    """Say the table of the last iteration, and of each iteration if asked for; return the figures of the last one.

    Args:
        overlap: frames that neighbouring windows share.
    """
    test = _test_marked if dataset.marks else _test_by_action
    shared = overlap if config.evaluate.target == 'overlap' else None
    tested = [test(config, each, store, dataset, shared) for each in sums]
    session.say(tested[-1].table)
    if not config.evaluate.by_iteration:
        return tested[-1]
    figures = {kind: [each.average[kind] for each in tested] for kind in sums[-1]}
    rows = {kind: [[(str(number), row) for number, row in enumerate(averages, 1)]]
            for kind, averages in figures.items()}
    session.say(tables.grid('average after iteration', METRICS[:2], rows))
    return replace(tested[-1], by_iteration=figures)


def _test_marked(config: Config, sums: dict[str, torch.Tensor], store: SequenceStore, dataset: PoseDataset,
                 overlap: int | None) -> Tested:
    """Return the table of marked frames, and its figures."""
    target = target_of(config, dataset, store)
    shown = target if overlap is None else f'{target} {overlap}'
    summaries = {kind: marked.summarise_marked(marked.by_activity(total, store)) for kind, total in sums.items()}
    return Tested('targets', {kind: {target: summary} for kind, summary in summaries.items()},
                   {kind: summary['sequences'] for kind, summary in summaries.items()},
                   {kind: summary['averages']['C'] for kind, summary in summaries.items()},
                   target, f'Error by sequence, target {shown}', marked.table_marked(summaries, shown), overlap=overlap)


def _test_by_action(config: Config, sums: dict[str, torch.Tensor], store: SequenceStore,
                    dataset: PoseDataset, overlap: int | None) -> Tested:
    """Return the table by action, and its figures."""
    alone = DATASETS[dataset.name].protocol or (None if overlap is None else 'exact')
    protocol = alone or config.evaluate.protocol or 'paper'
    shown = protocol if overlap is None else f'{protocol}, overlap {overlap}'
    summaries = {kind: tables.summarise(by_action(total, store), config.evaluate.by_subject, alone)
                 for kind, total in sums.items()}
    return Tested('protocols', summaries,
                   {kind: protocols[protocol]['actions'] for kind, protocols in summaries.items()},
                   {kind: protocols[protocol]['average'] for kind, protocols in summaries.items()},
                   protocol, f'Error by action, protocol {shown}',
                   tables.table(summaries, protocol, OF_KEYPOINTS if config.data.joints == KEYPOINTS else None, shown),
                   overlap=overlap)
