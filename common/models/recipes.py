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

    That is how Adam's rates of the matrices in a network's middle carry over (Yang et al., Tensor Programs V, 2022). It
    does not fall below the published rate, which is known to work at the published width. That stands here as a number,
    because a command line is read without importing the models.
    """

    rate: float
    channels: int
    published: float

    def at(self, channels: int) -> float:
        """Return the rate of a model with so many channels, to three digits."""
        falling = self.rate * min(1, self.channels / channels)
        return float(f'{max(falling, min(self.rate, self.published)):.3g}')


# Model -> the channels with which benchmarks/recipes.py tried steps of 128 frames at a rate of 4e-3, and the published
# rate.
_SMALL_STEPS = {
    'ktpformer': (64, 8e-5), 'mixste': (64, 4e-5), 'htnet': (48, 5e-4), 'graformer': (48, 1e-3), 'mgcn': (96, 5e-3),
    'mgcn16': (96, 1e-3), 'mhformer': (16, 1e-3), 'strided': (48, 1e-3), 'pstmo': (48, 7e-4), 'stcformer': (16, 1e-3),
    'stcformer_3dhp': (16, 1e-3), 'dstformer': (64, 2e-4), 'motionagformer': (32, 5e-4)}
_FALLING: dict[str, Any] = {'schedule': 'cosine', 'warmup': 100}  # a rate that rises for some steps and then falls to 0
_BEST: dict[str, dict[str, Any]] = {
    model: {**_FALLING, 'optimizer': 'adamw', 'batch': 128, 'lr': ByWidth(4e-3, channels, published)}
    for model, (channels, published) in _SMALL_STEPS.items()}
# Half the square of a loss has small gradients where the loss is small, and a small network needs no drop path.
_BEST['ktpformer'] |= {'objective': 'plain', 'drop_path': 0.0}
_BEST |= {
    'martinez': _FALLING,  # its steps are small as published
    'videopose3d': {**_FALLING, 'optimizer': 'adamw', 'batch': 512, 'stride': 32, 'lr': ByWidth(2e-3, 384, 1e-3),
                    'dropout': 0.1}}
# Model -> a quarter of the epochs of its publication.
_QUARTER = {
    'ktpformer': 50, 'mixste': 30, 'htnet': 4, 'videopose3d': 20, 'martinez': 50, 'graformer': 25, 'mgcn': 8,
    'mgcn16': 12, 'mhformer': 5, 'strided': 5, 'pstmo': 20, 'stcformer': 20, 'stcformer_3dhp': 20, 'dstformer': 30,
    'motionagformer': 15}
# Name -> model -> field of the configuration, a size of the model or stored in checkpoints -> value.
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    'best': _BEST,
    'fast': {model: {**values, 'epochs': _QUARTER[model]} for model, values in _BEST.items()},
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
        raise ValueError(f'--recipe {recipe} is for --model {", ".join(RECIPES[recipe])}, not for {model}')
    return {field: value.at(channels or value.channels) if isinstance(value, ByWidth) else value
            for field, value in RECIPES[recipe][model].items()}
