"""Recipes by name, for --recipe: values of flags that stand between a model's published recipe and the command line.

A recipe stands here with what shows that it works. It may have values for several models.
"""

from typing import Any

from common.models import DEFAULT_MODEL

PUBLISHED = 'published'
# Name -> model -> field of the configuration, a size of the model or stored in checkpoints -> value.
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
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


def values_of(recipe: str, model: str) -> dict[str, Any]:
    """Return the values of a recipe for a model, none of the published one. Raises ValueError for another model's."""
    if recipe == PUBLISHED:
        return {}
    if model not in RECIPES[recipe]:
        raise ValueError(f'--recipe {recipe} is for --model {" or ".join(RECIPES[recipe])}, not for {model}')
    return RECIPES[recipe][model]
