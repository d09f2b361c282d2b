"""Plots: the curves of a training run, and the errors of an evaluation."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use('Agg')  # files, never windows
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from common.storage.files import atomic_path, one_line

# Okabe and Ito's colours, which colour-blind readers tell apart; dashes tell them apart in grey.
COLOURS = {'train_loss': ('#0072B2', '-'), 'train_mpjpe': ('#009E73', '--'), 'valid_mpjpe': ('#D55E00', '-'),
           'lr': ('#000000', '-')}
# Colour, hatch and dash of each series. From dark to bright, so that they can be told apart in grey too.
STYLES = (('#0072B2', '', '-'), ('#E69F00', '//', '--'), ('#009E73', '..', '-.'), ('#CC79A7', 'xx', ':'))


def training_curves(epochs: list[dict[str, Any]], path: Path) -> None:
    """Plot loss, MPJPE on training and validation subjects, and learning rate over epochs into a PNG.

    Args:
        epochs: the lines of a `metrics.jsonl`.

    Raises FileError when the picture cannot be written.
    """
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout='constrained')
    panels = ((('train_loss',), 'training loss (×1000)'), (('train_mpjpe', 'valid_mpjpe'), 'MPJPE (mm)'),
              (('lr',), 'learning rate'))
    for axis, (names, title) in zip(axes, panels, strict=True):
        for name in names:
            points = [(m['epoch'], m[name]) for m in epochs if m.get(name) is not None]
            if points:
                colour, dash = COLOURS[name]
                axis.plot(*zip(*points, strict=True), color=colour, linestyle=dash, marker='o', markersize=3,
                          label=name)
        axis.set(xlabel='epoch', title=title)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.set_ylim(bottom=0)
        if axis.has_data():
            axis.legend()
    _save(figure, path)


def _style(index: int, count: int = 1) -> tuple[str, str, str, str]:
    """Return colour, hatch, dash and marker of the index-th of `count` series.

    Those of STYLES, dotted from the fifth on; of more than four bars, which come in pairs, both have one colour.
    """
    if count > len(STYLES) and count % 2 == 0:
        return STYLES[index // 2 % len(STYLES)][0], '//' * (index % 2) + 'o' * (index // 8), '-', ''
    colour, hatch, dash = STYLES[index % len(STYLES)]
    again = index // len(STYLES)
    return colour, hatch + 'o' * again, dash, 'o' if again else ''


def plot_bars(data: dict[str, Any], title: str, path: Path, note: str = '') -> None:
    """Plot bars in millimetres, with the published row as marks, into a PNG.

    Args:
        data: from `figures.bars` or `figures.by_joint`.
        note: small print, such as what a series reads besides the keypoints.

    Raises FileError when the picture cannot be written.
    """
    names, series = data['names'], data['series']
    figure, axes = plt.subplots(figsize=(max(6, 0.24 * len(names) * len(series) + 2.5), 4.2), layout='constrained')
    width = 0.8 / len(series)
    for index, (name, values) in enumerate(series.items()):
        colour, hatch, *_ = _style(index, len(series))
        places = np.arange(len(names)) + (index - (len(series) - 1) / 2) * width
        heights = [np.nan if value is None else value for value in values]
        axes.bar(places, heights, width, color=colour, hatch=hatch, edgecolor='white', label=name, zorder=2)
    if data.get('published'):
        source, row = data['published']
        axes.plot(np.arange(len(names)), row, 'D', color='black', markerfacecolor='white', label=source, zorder=3)
    axes.set_xticks(range(len(names)), [name.replace('_', ' ') for name in names], rotation=40, ha='right')
    axes.set(ylabel='millimetres', title=title)
    axes.grid(axis='y', alpha=0.3, zorder=0)
    if len(series) > 1 or data.get('published'):
        # Below the axes: above the bars there is no room.
        figure.legend(loc='outside lower center', ncols=3, frameon=False)
    _save(figure, path, note)


def plot_worst(sequences: list[tuple[str, np.ndarray, np.ndarray]], path: Path) -> None:
    """Plot the error over time of sequences (`figures.worst_sequences`), one per row, into a PNG.

    Raises FileError when the picture cannot be written.
    """
    figure, grid = plt.subplots(len(sequences), 1, figsize=(9, 1.9 * len(sequences)), squeeze=False, sharey=True,
                                layout='constrained')
    for axes, (name, frames, errors) in zip(grid[:, 0], sequences, strict=True):
        # Leave a gap where frames do not count.
        cuts = np.flatnonzero(np.diff(frames) > 1) + 1
        axes.plot(np.insert(frames.astype(float), cuts, np.nan), np.insert(errors, cuts, np.nan), color='#0072B2',
                  linewidth=1, marker='.' if len(frames) == 1 else '')
        axes.set_title(one_line(name), loc='left', fontsize=9, parse_math=False)
        axes.set(ylabel='mm')
        axes.grid(alpha=0.3)
    axes.set_xlabel('frame')
    axes.set_ylim(bottom=0)  # of all rows, once they are drawn: it ends the scaling to what is drawn
    _save(figure, path)


def plot_pck(data: dict[str, Any], path: Path, note: str = '') -> None:
    """Plot the share of joints within each distance (`figures.pck_curves`) into a PNG.

    Raises FileError when the picture cannot be written.
    """
    figure, axes = plt.subplots(figsize=(6, 4.2), layout='constrained')
    for index, (name, shares) in enumerate(data['series'].items()):
        colour, _, dash, marker = _style(index)
        axes.plot(data['thresholds'], shares, dash, color=colour, marker=marker,
                  label=f'{name}: {shares[-1]:.1f} % within {data["thresholds"][-1]} mm')
    axes.set(xlabel='distance from the truth (mm)', ylabel='joints nearer than that (%)', ylim=(0, 101),
             xlim=(0, data['thresholds'][-1]), title='PCK')
    axes.grid(alpha=0.3)
    axes.legend(loc='lower right')
    _save(figure, path, note)


def _save(figure: Figure, path: Path, note: str = '') -> None:
    """Write a figure, a line of small print below its title, and close it. Raises FileError."""
    try:
        if note:
            figure.suptitle(one_line(note, 1000), fontsize=7, wrap=True, parse_math=False)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=120)
    finally:
        plt.close(figure)
