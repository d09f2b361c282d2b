"""Recipes by name, for --recipe: values of flags that stand between a model's published recipe and the command line.

A recipe stands here with what shows that it works. It may have values for several models.
"""

from dataclasses import dataclass
from typing import Any

from common.models import DEFAULT_MODEL

PUBLISHED = 'published'


@dataclass(frozen=True)
class ByWidth:
    """A learning rate found at one width of a model; at larger ones it is in inverse proportion to their channels.

    That is how Adam's rates of the matrices in a network's middle carry over (Yang et al., Tensor Programs V, 2022).
    """

    rate: float
    channels: int

    def at(self, channels: int) -> float:
        """Return the rate of a model with so many channels, to three digits."""
        return float(f'{self.rate * min(1, self.channels / channels):.3g}')


# Model -> the channels at which benchmarks/recipes.py found small steps at a high rate to be best, and a quarter of the
# epochs of its publication.
_FOUND = {
    'ktpformer': (64, 50), 'mixste': (64, 30), 'htnet': (48, 4), 'martinez': (1024, 50), 'graformer': (48, 25),
    'mgcn': (96, 8), 'mgcn16': (96, 12), 'mhformer': (16, 5), 'strided': (48, 5), 'pstmo': (48, 20),
    'stcformer': (16, 20), 'stcformer_3dhp': (16, 20), 'dstformer': (64, 30), 'motionagformer': (32, 15),
    'videopose3d': (128, 20)}
# A rate that rises over some steps and then falls to 0.
_FALLING: dict[str, Any] = {'optimizer': 'adamw', 'schedule': 'cosine', 'warmup': 100}
_BEST: dict[str, dict[str, Any]] = {
    model: {**_FALLING, 'batch': 128, 'lr': ByWidth(4e-3, channels)} for model, (channels, _) in _FOUND.items()}
_BEST['martinez'] = {'schedule': 'cosine', 'warmup': 100}  # its steps are small as published
_BEST['videopose3d'] = {**_FALLING, 'stride': 32, 'lr': ByWidth(2e-3, 128), 'dropout': 0.1}
# Name -> model -> field of the configuration, a size of the model or stored in checkpoints -> value.
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    'best': _BEST,
    'fast': {model: {**values, 'epochs': _FOUND[model][1]} for model, values in _BEST.items()},
    # The lifter that is shipped; its errors are in docs/lifter.md.
    'lifter': {'videopose3d': {
        'downsample': 2, 'views': 'random', 'input': 'coco', 'noise': 'detector', 'frames': 27, 'channels': 384,
        'epochs': 260, 'batch': 1024, 'stride': 32, 'optimizer': 'adamw', 'lr': 2e-3, 'dropout': 0.05,
        'schedule': 'cosine', 'warmup': 200}},
}


def usual_model(recipe: str) -> str:
    """Return the model that is trained by a recipe where none is named."""
    models = RECIPES.get(recipe, {})
    return DEFAULT_MODEL if DEFAULT_MODEL in models or not models else next(iter(models))


def values_of(recipe: str, model: str, channels: int | None = None) -> dict[str, Any]:
    """Return the values of a recipe for a model, none of the published one. Raises ValueError for another model's.

    Args:
        channels: of the model, for which its rates are; those that they were found at by default.
    """
    if recipe == PUBLISHED:
        return {}
    if model not in RECIPES[recipe]:
        raise ValueError(f'--recipe {recipe} is for --model {" or ".join(RECIPES[recipe])}, not for {model}')
    return {field: value.at(channels or value.channels) if isinstance(value, ByWidth) else value
            for field, value in RECIPES[recipe][model].items()}
