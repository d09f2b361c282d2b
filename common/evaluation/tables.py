"""From sums to figures: per action, per subject, as JSON and as a table."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from common.evaluation.sums import BY_ACTION, PROTOCOL_NAMES, add_up
from common.metrics import Metric
from common.models.lifter import ONLY
from common.storage.files import atomic_path

# A model that works stays far below: its MPJPE is some tens of per cent above its P-MPJPE; the mean pose's is twice it.
SUSPECT_RATIO, SUSPECT_MPJPE = 3, 100  # of MPJPE to P-MPJPE, from so many millimetres of MPJPE on

SIDE_BY_SIDE = 2  # predictions whose metrics all stand side by side; of more of them the first two do

Figures: TypeAlias = dict[str, float | None]  # name of a metric -> figure in its unit


def summarise(totals: dict[tuple[str, str], np.ndarray], by_subject: bool,
              alone: str | None = None) -> dict[str, dict[str, Any]]:
    """Return the figures of both protocols, or of one alone, laid out as the results file has them.

    Args:
        totals: (subject, action) -> (2 protocols, M metrics, [sum, weight]), as `sums.tally` gives them.
        by_subject: also a table for each subject.
        alone: the one protocol that there is of them, in which each frame counts once: `exact` where windows overlap,
            or that of poses learned in the picture.

    Returns {protocol: {"actions": {name: figures}, "average": figures[, "subjects": {name: ...}]}}; a figure is None
    where nothing was weighed. An average is the plain mean over actions.
    """
    protocols = {}
    exact = PROTOCOL_NAMES.index('exact')
    for index, protocol in [(exact, alone)] if alone else enumerate(PROTOCOL_NAMES):
        sums = {key: total[index] for key, total in totals.items()}
        protocols[protocol] = _by_action(sums)
        if by_subject:
            protocols[protocol]['subjects'] = {
                subject: _by_action({key: total for key, total in sums.items() if key[0] == subject})
                for subject in dict.fromkeys(subject for subject, _ in sums)
            }
    return protocols


def _by_action(sums: dict[tuple[str, str], np.ndarray]) -> dict[str, Any]:
    """Return the figures of each action over all subjects in the sums, and their average."""
    actions = add_up((action, total) for (_, action), total in sums.items())
    figures = {action: _figures(total) for action, total in actions.items()}
    average = {metric.name: _mean([row[metric.name] for row in figures.values()]) for metric in BY_ACTION}
    return {'actions': figures, 'average': average}


def _figures(total: np.ndarray) -> Figures:
    """Return the means of (M, [sum, weight]), in the metrics' units."""
    return {metric.name: metric.scale * float(error / weight) if weight else None
            for metric, (error, weight) in zip(BY_ACTION, total, strict=True)}


def _mean(values: list[float | None]) -> float | None:
    """Return the mean of the figures that there are; None where there is none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def write_results(path: Path, results: dict[str, Any]) -> None:
    """Write the results file atomically. Raises FileError when it cannot be written."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(results, indent=1) + '\n')


def table(summaries: dict[str, dict[str, Any]], protocol: str, unit: str | None = None,
          shown: str | None = None) -> str:
    """Return the table of one protocol: a row per action and the average, then the other subjects' tables if any.

    It closes with the averages of all protocols, and a warning where they look like wrong data.

    Args:
        summaries: name of a prediction -> its figures as `summarise` lays them out; they stand side by side.
        unit: of figures that are not of poses in millimetres.
        shown: the protocol in words, where there is more to say than its name.
    """
    shown = shown or protocol
    chosen = {name: protocols[protocol] for name, protocols in summaries.items()}
    parts = [_rows(f'Protocol {shown}, {unit or "mm"}', chosen)]
    for subject in next(iter(chosen.values())).get('subjects', {}):
        parts.append(_rows(f'{subject}, protocol {shown}, {unit or "mm"}',
                           {name: figures['subjects'][subject] for name, figures in chosen.items()}))
    for kind, protocols in summaries.items():
        for name, figures in protocols.items():
            parts.append(f'{prefix(kind)}average, protocol {name}: ' + told(BY_ACTION, figures['average'], unit))
        if unit is None and (doubt := suspicion(protocols[protocol]['average'])):
            parts.append(doubt)
    return '\n'.join(parts)


def prefix(name: str) -> str:
    """Return what stands before the figures of a prediction: its name, unless it has none of its own."""
    return '' if name == ONLY else f'{name} '


def told(metrics: Sequence[Metric], figures: Figures, unit: str | None = None) -> str:
    """Return figures as a sentence has them: a unit after each, or once at the end where all have the same."""
    if len({metric.unit for metric in metrics}) > 1:
        return ', '.join(metric.told(figures[metric.name]) for metric in metrics)
    figures_told = ', '.join(f'{metric.title} {metric.text(figures[metric.name])}' for metric in metrics)
    return f'{figures_told} {unit or metrics[0].unit}'


def suspicion(figures: Figures) -> str | None:
    """Return a warning, with its likely cause, where poses are right but for place, turn or scale; or None.

    Args:
        figures: mpjpe, p_mpjpe and, where known, n_mpjpe in millimetres.
    """
    mpjpe, aligned, scaled = (figures.get(metric) for metric in ('mpjpe', 'p_mpjpe', 'n_mpjpe'))
    if mpjpe is None or aligned is None or mpjpe < SUSPECT_MPJPE or mpjpe < SUSPECT_RATIO * aligned:
        return None
    if scaled is not None and scaled < mpjpe / 2:
        cause = 'a scale alone mends most of it, so that units are likely wrong (millimetres for metres, or no pixels)'
    else:
        cause = ('a scale alone does not mend it, so that likely the root joint or the order of the joints is another, '
                 'left and right are swapped, or the axes are not those of the camera')
    return (f'warning: MPJPE {mpjpe:.1f} is {mpjpe / max(aligned, 1e-3):.1f} times P-MPJPE {aligned:.1f} mm: {cause}; '
            f'--check-data looks at the files')


def _rows(title: str, summaries: dict[str, dict[str, Any]]) -> str:
    """Return one table: the metrics of every summary side by side, a row per action and the average."""
    blocks = {name: [list(figures['actions'].items()), [('average', figures['average'])]]
              for name, figures in summaries.items()}
    metrics = BY_ACTION if len(blocks) <= SIDE_BY_SIDE else BY_ACTION[:2]  # a line that a screen holds
    return grid(title, metrics, blocks) + '\n'


def grid(title: str, metrics: Sequence[Metric], blocks: dict[str, list[list[tuple[str, Figures]]]]) -> str:
    """Return a table of blocks side by side: rows in sections with a rule between them, named alike in every block.

    Args:
        metrics: the columns of each block.
        blocks: name of a prediction -> sections of (row name, {metric name: value}). Names stand over the blocks where
            there are several.
    """
    width = max(len(title), *(len(name) for section in next(iter(blocks.values())) for name, _ in section))
    columns = ''.join(f'{metric.title:>10}' for metric in metrics)
    header = f'{title:<{width}}' + ' |'.join([columns] * len(blocks))
    lines = [header]
    if len(blocks) > 1:
        lines.insert(0, ' ' * width + ' |'.join(f'{name:>{len(columns)}}' for name in blocks))
    for sections in zip(*blocks.values(), strict=True):
        lines.append('-' * len(header))
        for rows in zip(*sections, strict=True):
            figures = [''.join(f'{metric.text(row[metric.name]):>10}' for metric in metrics) for _, row in rows]
            lines.append(f'{rows[0][0]:<{width}}' + ' |'.join(figures))
    return '\n'.join(lines)
