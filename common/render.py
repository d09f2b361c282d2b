"""Pictures. The only module that imports matplotlib."""

from pathlib import Path

import matplotlib

matplotlib.use('Agg')  # files, never windows
import matplotlib.pyplot as plt

from common.files import atomic_path

# Okabe and Ito's colours, which colour-blind readers tell apart; dashes tell them apart in grey.
COLOURS = {'train_loss': ('#0072B2', '-'), 'train_mpjpe': ('#009E73', '--'), 'valid_mpjpe': ('#D55E00', '-'),
           'lr': ('#000000', '-')}


def training_curves(epochs: list[dict], path: Path) -> None:
    """Draw loss, MPJPE on training and validation subjects, and learning rate over epochs into a PNG.

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
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
    plt.close(figure)
