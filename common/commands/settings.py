"""The settings of a run: what flags, a checkpoint and recipes say of it, in that order."""

import argparse

from common.cli.parser import DEFAULTS, PROTOCOLS, RECIPES, REFINEMENT


def fill(args: argparse.Namespace, model: str, saved: dict | None = None, config: dict | None = None) -> dict:
    """The settings of a run: flags as given, else what a resumed checkpoint says, else the model's recipe.

    Args:
        model: the model that is trained or evaluated.
        saved: settings of the checkpoint that is resumed. Keypoints, subjects and actions of another data set do not
            carry over.
        config: its model's config, which flags cannot change.
    """
    saved = dict(saved or {}) | (config or {})
    own = set()
    if args.dataset not in (None, saved.get('dataset')):
        own |= {'keypoints', 'subjects_train', 'subjects_test', 'subjects_valid', 'actions', 'root'}
    defaults = DEFAULTS | RECIPES[model]
    defaults |= PROTOCOLS.get(args.dataset or saved.get('dataset', DEFAULTS['dataset']), {})
    if args.refine or saved.get('refine'):
        defaults |= REFINEMENT
    settings = {'model': model}
    for name, default in defaults.items():
        given = getattr(args, name)
        settings[name] = given if given is not None else default if name in own else saved.get(name, default)
    if settings['stride'] is None:
        settings['stride'] = min(settings['frames'], 128)
    return settings
