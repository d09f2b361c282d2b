"""Training: one loop, read from top to bottom. Everything random in a step is a function of (seed, epoch, step)."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from common import checkpoint
from common.engine.evaluate import TestWindows, predict, validation_figures
from common.errors import DivergedError
from common.losses import objective, pose_loss
from common.runlog import Progress, RunLog
from common.sampler import SequenceStore, WindowSampler


@dataclass(frozen=True)
class Recipe:
    """How to train. `windows` is the number of windows of a step."""

    epochs: int
    windows: int
    lr: float
    lr_decay: float
    weight_decay: float
    objective: str
    seed: int
    save_every: int | None = None


@dataclass
class Progression:
    """Where a run stands between two epochs.

    Attributes:
        epoch: finished epochs.
        lr: learning rate of the next epoch.
        first_epoch: the epoch whose window order is the generator's first draw.
        best: figures of the best epoch so far.
    """

    epoch: int = 0
    lr: float = 0.0
    first_epoch: int = 1
    best: dict | None = None
    metrics: dict = field(default_factory=dict)


def make_optimizer(model: torch.nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW over all parameters, as KTPFormer is trained."""
    return torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)


def fit(model: torch.nn.Module, optimizer: torch.optim.Optimizer, sampler: WindowSampler, valid: SequenceStore | None,
        joint_weights: torch.Tensor, recipe: Recipe, at: Progression, log: RunLog, folder: Path,
        about: dict, say: Callable[[str], None] = print) -> None:
    """Train up to recipe.epochs, saving `last.bin`, `best.bin` and `epoch_N.bin` in the folder after each epoch.

    Args:
        valid: test sequences that every epoch is judged on; None to judge none, and then no epoch is best.
        joint_weights: (J,) weights of the loss.
        at: where the run stands; moved forward in place.
        about: what a checkpoint says of its model and data.

    Raises FileError when a checkpoint or the log cannot be written, and DivergedError after an epoch whose loss or
    validation is not finite, of which nothing is saved.
    """
    windows = None if valid is None else TestWindows.of(valid, sampler.frames)
    for epoch in range(at.epoch + 1, recipe.epochs + 1):
        begun = time.perf_counter()
        loss = train_epoch(model, optimizer, sampler, joint_weights, recipe, epoch, at)
        seconds = time.perf_counter() - begun
        figures = {'valid_mpjpe': None, 'valid_mpjve': None}
        if valid is not None:
            figures = validation_figures(predict(model, valid, windows), valid, windows)
        at.metrics = {'epoch': epoch, 'lr': at.lr, 'train_loss': loss, **figures,
                      'seconds': round(time.perf_counter() - begun, 3)}
        if not math.isfinite(loss) or not math.isfinite(figures['valid_mpjpe'] or 0):
            raise DivergedError(f'training diverged in epoch {epoch}: train_loss {loss}, valid_mpjpe '
                                f'{figures["valid_mpjpe"]}; checkpoints of earlier epochs stay, try a lower -lr')
        at.epoch, at.lr = epoch, at.lr * recipe.lr_decay
        improved = valid is not None and (at.best is None or figures['valid_mpjpe'] < at.best['valid_mpjpe'])
        if improved:
            at.best = at.metrics
        content = {**about, **vars(at), 'model_pos': model.state_dict(), 'optimizer': optimizer.state_dict()}
        if improved:
            checkpoint.save(folder / checkpoint.BEST, content)  # before last.bin, which names it as the best
        checkpoint.save_last(folder, content)
        if recipe.save_every and epoch % recipe.save_every == 0:
            checkpoint.save(folder / f'epoch_{epoch}.bin', content)
        log.epoch(at.metrics)
        say(_epoch_line(at, recipe, len(sampler) * sampler.frames / seconds, improved))


def train_epoch(model: torch.nn.Module, optimizer: torch.optim.Optimizer, sampler: WindowSampler,
                joint_weights: torch.Tensor, recipe: Recipe, epoch: int, at: Progression) -> float:
    """One pass over all windows; returns 1000 × the mean of the loss, each step's value taken before its update."""
    model.train()
    for group in optimizer.param_groups:
        group['lr'] = at.lr
    loss_sum = torch.zeros((), dtype=torch.float64, device=joint_weights.device)  # stays there: no step waits for it
    seen = 0
    bar = Progress(f'epoch {epoch}/{recipe.epochs}', len(sampler) * sampler.frames)
    batches = sampler.epoch(epoch - at.first_epoch, recipe.windows)
    for step, (keypoints, poses) in enumerate(batches):  # (B, F, K, 2) and (B, F, J, 3)
        torch.manual_seed(step_seed(recipe.seed, epoch, step))
        total = pose_loss(model(keypoints), poses, joint_weights)['total']
        optimizer.zero_grad(set_to_none=True)
        objective(total, recipe.objective).backward()
        optimizer.step()
        loss_sum += total.detach().double() * len(poses)
        seen += len(poses)
        bar.step(len(poses) * sampler.frames, lambda: 1000 * loss_sum.item() / seen)  # noqa: B023 (called at once)
    bar.close()
    return 1000 * loss_sum.item() / len(sampler)


def step_seed(seed: int, epoch: int, step: int) -> int:
    """The seed of everything random in a step but the window order."""
    return int(np.random.SeedSequence((seed, epoch, step)).generate_state(1)[0])


def _epoch_line(at: Progression, recipe: Recipe, frames_per_second: float, improved: bool) -> str:
    m = at.metrics
    line = f'epoch {m["epoch"]}/{recipe.epochs}  lr {m["lr"]:.3g}  train_loss {m["train_loss"]:.2f}'
    if m['valid_mpjpe'] is not None:
        line += f'  valid_mpjpe {m["valid_mpjpe"]:.2f} mm'
    if m['valid_mpjve'] is not None:
        line += f'  valid_mpjve {m["valid_mpjve"]:.2f} mm'
    return line + f'  {m["seconds"]:.1f} s  {frames_per_second:,.0f} frames/s' + ('  best' if improved else '')
