"""From sums to figures: per action, per subject, as JSON and as a table. Millimetres throughout."""

import json
from pathlib import Path

import numpy as np

from common.evaluation.evaluate import METRICS, PROTOCOLS
from common.models import MODELS, recognise
from common.storage.checkpoint import Checkpoint
from common.storage.files import atomic_path

# What a model that works never reaches: it is a few tens of per cent above its P-MPJPE, the mean pose is at twice it.
SUSPECT_RATIO, SUSPECT_MPJPE = 3, 100  # of MPJPE to P-MPJPE, from so many millimetres of MPJPE on
TITLES = {'mpjpe': 'MPJPE', 'p_mpjpe': 'P-MPJPE', 'n_mpjpe': 'N-MPJPE', 'mpjve': 'MPJVE'}


def summarise(totals: dict[tuple[str, str], np.ndarray], by_subject: bool) -> dict:
    """The figures of both protocols, laid out as the results file has them.

    Args:
        totals: (subject, action) -> (2 protocols, 4 metrics, [sum, weight]), metres.
        by_subject: also a table for each subject.

    Returns {protocol: {"actions": {name: figures}, "average": figures[, "subjects": {name: ...}]}}; a figure is None
    where nothing was weighed. An average is the plain mean over actions.
    """
    protocols = {}
    for index, protocol in enumerate(PROTOCOLS):
        sums = {key: total[index] for key, total in totals.items()}
        protocols[protocol] = _by_action(sums)
        if by_subject:
            protocols[protocol]['subjects'] = {
                subject: _by_action({key: total for key, total in sums.items() if key[0] == subject})
                for subject in dict.fromkeys(subject for subject, _ in sums)
            }
    return protocols


def _by_action(sums: dict[tuple[str, str], np.ndarray]) -> dict:
    actions = {}
    for (_, action), total in sums.items():
        actions[action] = actions.get(action, 0) + total
    figures = {action: _figures(total) for action, total in actions.items()}
    return {'actions': figures, 'average': {metric: _mean([f[metric] for f in figures.values()]) for metric in METRICS}}


def _figures(total: np.ndarray) -> dict:
    return {metric: 1000 * float(error / weight) if weight else None
            for metric, (error, weight) in zip(METRICS, total, strict=True)}


def _mean(values: list) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def write_results(path: Path, results: dict) -> None:
    """Write the results file atomically. Raises FileError when it cannot be written."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(results, indent=1) + '\n')


def table(summaries: dict[str, dict], protocol: str) -> str:
    """The table of one protocol, a row per action and the average, then the other subjects' tables where there are any;
    it closes with the averages of both protocols, and a warning where they look like wrong data.

    Args:
        summaries: `predicted` and, beside it in the same rows, `refined` -> figures as `summarise` lays them out.
    """
    chosen = {name: protocols[protocol] for name, protocols in summaries.items()}
    parts = [_rows(f'Protocol {protocol}, mm', chosen)]
    for subject in chosen['predicted'].get('subjects', {}):
        parts.append(_rows(f'{subject}, protocol {protocol}, mm',
                           {name: figures['subjects'][subject] for name, figures in chosen.items()}))
    for kind, protocols in summaries.items():
        for name in PROTOCOLS:
            average = protocols[name]['average']
            parts.append('refined ' * (kind == 'refined') + f'average, protocol {name}: ' +
                         ', '.join(f'{TITLES[metric]} {_number(average[metric])}' for metric in METRICS) + ' mm')
        if doubt := suspicion(protocols[protocol]['average']):
            parts.append(doubt)
    return '\n'.join(parts)


def suspicion(figures: dict[str, float | None]) -> str | None:
    """A line of warning where poses are right but for their place, turn or scale, with what is likely wrong; or None.

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


def describe_file(saved: Checkpoint) -> str:
    """What a checkpoint is, a line per fact; for a public file, what its shapes tell."""
    lines = [f'file       {saved.path}']
    if saved.public:
        model = recognise(saved.state) or 'ktpformer'
        entry = MODELS[model]
        try:
            config = entry.config_of(saved.state)
        except ValueError as error:
            return f'{lines[0]}\nkind       a file of weights that are not {entry.title}\'s: {error}'
        facts = {'kind': 'a public file; what follows was inferred from its shapes', 'model': model, 'config': config,
                 'joints': saved.state[entry.positions].shape[1], 'heads': 'not in the shapes, 8 are assumed',
                 'epoch': saved.epoch, 'lr': saved.lr}
    else:
        stored = saved.stored
        facts = {'kind': 'a checkpoint of this program', 'model': saved.model, 'config': saved.config,
                 'skeleton': f'{saved.skeleton.name}, {len(saved.skeleton)} joints: {", ".join(saved.skeleton.joints)}',
                 'keypoints': f'{saved.keypoints} of {saved.dataset}, layout {saved.layout.name}, {len(saved.layout)}',
                 'epoch': f'{saved.epoch}' + (f', step {stored["step"]} of the next' if stored['step'] else ''),
                 'metrics': stored['metrics'], 'best': saved.best, 'settings': saved.settings, 'run': saved.run,
                 'versions': stored.get('versions')}
    parameters = sum(v.numel() for key, v in saved.state.items()
                     if 'running_' not in key and 'num_batches' not in key)
    facts['parameters'] = f'{parameters:,}'
    return '\n'.join(lines + [f'{name:<10} {fact}' for name, fact in facts.items()])


def _rows(title: str, summaries: dict[str, dict]) -> str:
    """One table: the metrics of every summary side by side, a row per action and the average."""
    sections = [[list(figures['actions'].items()), [('average', figures['average'])]] for figures in summaries.values()]
    return grid(title, [TITLES] * len(sections), sections, list(summaries) if 'refined' in summaries else None) + '\n'


def grid(title: str, columns: list[dict[str, str]], blocks: list, names: list[str] | None = None) -> str:
    """A table of blocks side by side: rows in sections with a rule between them, named alike in every block.

    Args:
        columns: of each block, figure -> its title.
        blocks: of each, sections of (row name, {figure: value}).
        names: what stands over the blocks.
    """
    width = max(len(title), *(len(name) for section in blocks[0] for name, _ in section))
    titles = [''.join(f'{text:>10}' for text in named.values()) for named in columns]
    header = f'{title:<{width}}' + ' |'.join(titles)
    lines = [header]
    if names:
        over = ' |'.join(f'{name:>{len(text)}}' for name, text in zip(names, titles, strict=True))
        lines.insert(0, ' ' * width + over)
    for sections in zip(*blocks, strict=True):
        lines.append('-' * len(header))
        for rows in zip(*sections, strict=True):
            figures = [''.join(f'{_number(row[figure]):>10}' for figure in named)
                       for (_, row), named in zip(rows, columns, strict=True)]
            lines.append(f'{rows[0][0]:<{width}}' + ' |'.join(figures))
    return '\n'.join(lines)


def _number(value: float | None) -> str:
    return '-' if value is None else f'{value:.2f}'
