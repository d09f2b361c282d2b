"""Deciding the settings of a run: what neither flags nor their fields say, recipes, a data set or a checkpoint do.

They are asked in the order command line, resumed or evaluated checkpoint, data set, named recipe, refinement,
published recipe, field.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from common.config import SECTIONS, Config, all_flags
from common.datasets import DATASETS
from common.flag import Flag, listed
from common.recipe import Recipe

# Settings that belong to a data set: another one does not take them over from a checkpoint.
OF_A_DATASET = ('keypoints', 'subjects_train', 'subjects_test', 'subjects_valid', 'unlabelled', 'actions', 'root')


def resolve(config: Config, recipe: Recipe, answers: int, saved: Mapping[str, Any] | None = None,
            named: Mapping[str, Any] | None = None) -> Config:
    """Return the configuration with every setting of a run decided.

    Args:
        recipe: of the model, or of a refinement behind it.
        answers: how many frames a window answers for, from which the default of -s follows.
        saved: the settings of the checkpoint that is resumed or evaluated. Those that belong to a data set do not carry
            over to another one.
        named: the values of the recipe of --recipe.
    """
    saved, named = saved or {}, named or {}
    dataset = config.data.dataset if config.has('data.dataset') else saved.get('dataset', config.data.dataset)
    if dataset != saved.get('dataset', dataset):
        saved = {name: value for name, value in saved.items() if name not in OF_A_DATASET}
    decided = recipe.values() | dict(named) | DATASETS[dataset].settings | dict(saved)
    changed: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for section, name, its_flag in all_flags():
        if its_flag.stored and not config.has(f'{section}.{name}'):
            changed[section][name] = decided.get(name, getattr(getattr(config, section), name))
    if changed['train'].get('stride', answers) is None:
        changed['train']['stride'] = min(answers, recipe.stride_limit)
    if recipe.windows and 'batch' in changed['train'] and 'batch' not in {**saved, **named}:
        changed['train']['batch'] = recipe.windows * changed['train'].get('stride', config.train.stride)
    return replace(config, **{section: replace(getattr(config, section), **values)
                              for section, values in changed.items()})


def of_a_run() -> list[tuple[str, str, Flag]]:
    """Return (section, field, flag) of what a recipe may have a value for: stored in checkpoints, or a model's size."""
    return [(section, name, flag) for section, name, flag in all_flags() if flag.stored or section == 'model']


def in_flags(values: Mapping[str, Any]) -> str:
    """Return how the command line says the values of a recipe."""
    return ' '.join(in_flag(flag, values[name]) for _, name, flag in of_a_run() if name in values)


def in_flag(flag: Flag, value: Any) -> str:
    """Return how the command line says a value."""
    return f'{flag.name} {listed(value)}' if flag.kind == 'value' else flag.names[0 if value else -1]
