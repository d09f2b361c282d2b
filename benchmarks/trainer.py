"""The trainer that a command line would make, for benchmarks that look at its steps."""

import sys
from pathlib import Path

import torch

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.cli import parser as arguments
from common.commands.settings import fill
from common.distributed import ALONE, World, make_batch_norms_global
from common.models import build_model, computing
from common.sampler import SequenceStore, WindowSampler
from common.skeleton import Skeleton
from common.training.loop import Progression, Trainer
from common.training.optimiser import Recipe, StepLoss, make_optimizer


def make_trainer(flags: list[str], store: SequenceStore, skeleton: Skeleton, world: World = ALONE,
                 set_up: bool = True) -> Trainer:
    """A trainer on the windows of a store, keypoints and joints of one layout, by the flags of run_ktpformer.py.

    Args:
        set_up: False leaves model and process as they are without the program's own `computing.set_up`.
    """
    args = arguments.parse(flags)
    settings = fill(args, args.model or 'ktpformer')
    recipe = Recipe.of(settings)
    config = {name: settings[name] for name in arguments.CONFIG_FLAGS[settings['model']]}
    rates = {name: settings[name] for name in ('drop_path', 'dropout') if name in settings}
    torch.manual_seed(recipe.seed)
    model = build_model(settings['model'], config, skeleton, skeleton, **rates).to(store.device).train()
    if world.size > 1:
        make_batch_norms_global(model)
    if set_up:
        computing.set_up(model, settings, store.device)
    sampler = WindowSampler(store, model.frames, flip=settings['augment'], seed=recipe.seed)
    return Trainer(model, make_optimizer(model, recipe), sampler, StepLoss(recipe, skeleton, store.device), recipe,
                   Progression(), world)
