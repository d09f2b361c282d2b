"""From sums to figures: per action, per subject, as JSON and as a table. Millimetres throughout."""

import json
from pathlib import Path

import numpy as np

from common.checkpoint import Checkpoint
from common.engine.evaluate import METRICS, PROTOCOLS
from common.files import atomic_path
from common.models import ktpformer

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


def table(protocols: dict, protocol: str) -> str:
    """The table of one protocol, a row per action and the average, then the other subjects' tables where there are any;
    it closes with the averages of both protocols."""
    chosen = protocols[protocol]
    parts = [_rows(f'Protocol {protocol}, mm', chosen)]
    parts += [_rows(f'{subject}, protocol {protocol}, mm', figures)
              for subject, figures in chosen.get('subjects', {}).items()]
    for name in PROTOCOLS:
        average = protocols[name]['average']
        parts.append(f'average, protocol {name}: ' +
                     ', '.join(f'{TITLES[metric]} {_number(average[metric])}' for metric in METRICS) + ' mm')
    return '\n'.join(parts)


def describe_file(saved: Checkpoint) -> str:
    """What a checkpoint is, a line per fact; for a public file, what its shapes tell."""
    lines = [f'file       {saved.path}']
    if saved.public:
        try:
            config = ktpformer.config_of(saved.state)
        except ValueError as error:
            return f'{lines[0]}\nkind       a file of weights that are not KTPFormer\'s: {error}'
        joints = saved.state['kpattention.attn.Spatial_pos_embed'].shape[1]
        facts = {'kind': 'a public file; what follows was inferred from its shapes', 'model': 'ktpformer',
                 'config': config, 'joints': joints, 'heads': 'not in the shapes, 8 are assumed', 'epoch': saved.epoch,
                 'lr': saved.lr}
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


def _rows(title: str, figures: dict) -> str:
    rows = [*figures['actions'].items(), ('average', figures['average'])]
    width = max(len(title), *(len(name) for name, _ in rows))
    header = f'{title:<{width}}' + ''.join(f'{TITLES[metric]:>10}' for metric in METRICS)
    lines = [f'{name:<{width}}' + ''.join(f'{_number(row[metric]):>10}' for metric in METRICS) for name, row in rows]
    rule = '-' * len(header)
    return '\n'.join([header, rule, *lines[:-1], rule, lines[-1], ''])


def _number(value: float | None) -> str:
    return '-' if value is None else f'{value:.2f}'
