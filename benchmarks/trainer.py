"""Making the trainer of a command line, for benchmarks of its steps."""

import os
import sys
from pathlib import Path

import torch

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')  # before torch is imported


from common.cli.parser import parse
from common.distributed import ALONE, World, make_batch_norms_global
from common.models import DEFAULT_MODEL, build_model, computing, make_config, model_class, recipe_of
from common.settings import resolve
from common.skeleton import Skeleton
from common.store import SequenceStore
from common.training.loop import Progression, Trainer, make_sampler
from common.training.optimiser import make_criterion, make_optimizer


def make_trainer(flags: list[str], store: SequenceStore, skeleton: Skeleton, world: World = ALONE,
                 set_up: bool = True) -> Trainer:
    """Make a trainer on the windows of a store from flags of run_ktpformer.py.

    Args:
        flags: the command line.
        skeleton: layout of the keypoints and of the joints.
        set_up: False skips the program's `computing.set_up` of model and process.
    """
    given = parse(flags)
    name, sizes = given.model.model or DEFAULT_MODEL, given.model.sizes()
    _, answers = model_class(name).window(make_config(name, sizes))
    config = resolve(given, recipe_of(name), len(answers))
    recipe = config.train
    rates = {rate: getattr(recipe, rate) for rate in ('drop_path', 'dropout') if getattr(recipe, rate) is not None}
    torch.manual_seed(recipe.seed)
    model = build_model(name, sizes, skeleton, skeleton, **rates).to(store.device).train()
    if world.size > 1:
        make_batch_norms_global(model)
    if set_up:
        computing.set_up(model, store.device, config.run.compile, config.run.activation_checkpointing)
    criterion = make_criterion(model, recipe.loss, skeleton, store.device, recipe.l1_share)
    return Trainer(model, make_optimizer(model, recipe), make_sampler(model, store, recipe), criterion, recipe,
                   Progression(), world, config.run.precision, config.evaluate.root, config.evaluate.flip)
