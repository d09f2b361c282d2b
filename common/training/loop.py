"""Training: one loop, read from top to bottom. Everything random in a step is a function of (seed, epoch, step).

A step is the work of all processes together: each takes its share of the windows, back-propagates its share of the
plain loss, and the summed gradient is multiplied once for the objective. A single process is the case of one share.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.config import Train
from common.distributed import World
from common.errors import DivergedError
from common.evaluation.sums import validation_figures
from common.losses import gradient_factor
from common.models.computing import computing_in, evaluation_precision, training_precision
from common.models.layers import DropPath, draw
from common.models.lifter import Criterion, Lifter
from common.models.lifting import predictions, usual_target, windows_for
from common.noise import DetectorNoise
from common.sampler import Step, TestWindows, WindowSampler
from common.storage import checkpoint
from common.storage.runlog import Progress, RunLog
from common.store import SequenceStore
from common.training.folder import delete_stale
from common.training.optimiser import CHECK_EVERY, FiniteCheck, MovingAverage, learning_rate, trained_weights
from common.training.signals import Stopped, StopRequest
from common.views import VirtualCameras


@dataclass
class Progression:
    """Hold the position of a run, as its checkpoints store it.

    Attributes:
        epoch: finished epochs.
        step: finished steps of the epoch after them.
        loss_sum: sum over that epoch's windows so far of the loss, metres.
        base_lr, lr_since: the rate that the schedule starts from, and the epoch it starts at.
        first_epoch: the epoch whose window order is the generator's first draw.
        metrics: figures of the last finished epoch; best: those of the best so far.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    base_lr: float = 0.0
    lr_since: int = 1
    first_epoch: int = 1
    best: dict[str, Any] | None = None
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass
class Judges:
    """The sequences that epochs are judged on: those that pick the best one, and training sequences if asked for."""

    valid: SequenceStore | None = None
    train: SequenceStore | None = None


class Trainer:
    """A model on its way through the epochs of a recipe."""

    def __init__(self, model: Lifter, optimizer: torch.optim.Optimizer, sampler: WindowSampler, criterion: Criterion,
                 recipe: Train, at: Progression, world: World, precision: str | None = None, root: str = 'predicted',
                 flip: bool = True, beside: WindowSampler | None = None):
        """Bring together what a step needs.

        Args:
            beside: of windows without truth, which teach after `recipe.warmup_epochs`.
            at: where the run stands; moved forward in place.
            precision: as asked for, of training and of what epochs are judged by; None for `computing`'s defaults.
            root, flip: how epochs are judged, as `predictions` takes them.
        """
        self.model, self.optimizer, self.sampler, self.criterion = model, optimizer, sampler, criterion
        self.beside = beside
        self.recipe, self.at, self.world, self.root, self.flip = recipe, at, world, root, flip
        self.device = sampler.store.device
        self.weights = trained_weights(model)
        self.precision = training_precision(precision, self.device)
        self.judged_in = evaluation_precision(precision, self.device)
        self.average = MovingAverage(model, recipe.ema) if recipe.ema else None
        self.passed: Callable[[str], None] = lambda stage: None  # told of a stage of a step when it ends
        self._drop_generator = torch.Generator(self.device)
        self._drop_paths = [module for module in model.modules() if isinstance(module, DropPath) and module.rate]

    def gradient(self, step: Step, epoch: int, objective: str | None = None) -> torch.Tensor:
        """Fill the parameters' gradients with those of the whole step's objective; return its loss, a scalar."""
        windows, frames, keypoints, _ = step.batch.keypoints.shape
        seed = step_seed(self.recipe.seed, epoch, step.number)
        # The same draws on every rank, for the whole step.
        part = slice(step.before, step.before + windows)
        draw(self._drop_paths, step.whole, frames, keypoints, self._drop_generator.manual_seed(seed), part)
        self.model.begin_step(seed, step.whole, part)
        # Another stream for each rank; 0 would be the stream of all, since missing numbers count as zeros.
        torch.manual_seed(step_seed(self.recipe.seed, epoch, step.number, 1 + self.world.rank))
        self.optimizer.zero_grad(set_to_none=True)
        with computing_in(self.model, self.precision):
            loss = self.model.loss(step.batch, self.criterion) if step.beside is None else \
                self.model.loss_beside(step.batch, step.beside, self.criterion)
            loss = loss * (windows / step.whole)  # this process's share of the mean over all windows of the step
            self.passed('forward')
            loss.backward()
        for p in self.weights:
            if p.grad is None:  # a weight that takes no part, as some public files have
                p.grad = torch.zeros_like(p)
        self.world.sum_gradients(self.model)
        loss = self.world.sum(loss.detach())
        factor = gradient_factor(loss, objective or self.recipe.objective)
        if not isinstance(factor, float):
            torch._foreach_mul_(gradients_of(self.model), factor)
        self.passed('backward')
        return loss

    def take(self, step: Step, epoch: int, check: FiniteCheck) -> tuple[torch.Tensor, float]:
        """Train one step; return its loss, a scalar, taken before its update, and its learning rate."""
        loss, at = self.gradient(step, epoch), self.at
        rate = learning_rate(self.recipe, at.base_lr, at.lr_since, epoch, step.number,
                             self.sampler.steps(self.recipe.windows))
        gradients = gradients_of(self.model)
        check.look(loss, gradients, step.number)
        self._update(gradients, rate)
        self.passed('update')
        return loss, rate

    def epoch(self, epoch: int, save: Callable[[], None], stop: StopRequest) -> tuple[float, float]:
        """Train the rest of an epoch.

        Returns 1000 × the mean of the loss, each step's value taken before its update, and the learning rate of the
        last step.

        Raises DivergedError when a loss or gradient was not finite, and Stopped, having saved, when a signal asked.
        """
        recipe, at = self.recipe, self.at
        self.model.train()
        self.model.begin_epoch(epoch, recipe.epochs)
        steps = self.sampler.steps(recipe.windows)
        loss_sum = torch.tensor(at.loss_sum, dtype=torch.float64, device=self.device)  # no step waits for it
        check = FiniteCheck(self.optimizer, self.device)
        rate = learning_rate(recipe, at.base_lr, at.lr_since, epoch, max(at.step - 1, 0), steps)
        frames = len(self.sampler.answers)
        with Progress(f'epoch {epoch}/{recipe.epochs}', len(self.sampler) * frames, self.world.first) as bar:
            for step in self.steps(epoch, at.step):
                loss, rate = self.take(step, epoch, check)
                loss_sum += loss.double() * step.whole
                at.step = step.number + 1
                bar.step(step.whole * frames, loss)
                signal = self.world.largest(stop.signal)
                due = recipe.save_every_steps and at.step % recipe.save_every_steps == 0 and at.step < steps
                if signal or due or at.step % CHECK_EVERY == 0 or at.step == steps:
                    self.raise_if_failed(check, epoch)
                if signal or due:
                    at.loss_sum = loss_sum.item()
                    save()
                if signal:
                    raise Stopped(signal)
        return 1000 * loss_sum.item() / len(self.sampler), rate

    def steps(self, epoch: int, first_step: int) -> Iterator[Step]:
        """Yield the steps of an epoch from one on, with windows without truth beside them where these teach."""
        windows, draw = self.recipe.windows, epoch - self.at.first_epoch
        steps = self.sampler.epoch(draw, windows, self.world.share, first_step)
        if self.beside is None or epoch <= self.recipe.warmup_epochs:
            yield from steps
            return
        others = self.beside.endless(windows, draw * self.sampler.steps(windows) + first_step)
        for step, beside in zip(steps, others, strict=False):  # the others never end
            yield step._replace(beside=beside)

    def _update(self, gradients: list[torch.Tensor], rate: float) -> None:
        """Take a step of the optimizer at a learning rate, with the gradients clipped where the recipe says so."""
        if self.recipe.clip:
            norm = torch.stack(torch._foreach_norm(gradients)).norm()
            torch._foreach_mul_(gradients, (self.recipe.clip / (norm + 1e-6)).clamp(max=1))
        for group in self.optimizer.param_groups:
            group['lr'] = rate
        self.optimizer.step()
        if self.average:
            self.average.update(self.model)

    def raise_if_failed(self, check: FiniteCheck, epoch: int) -> None:
        """Raise DivergedError, naming the step and the first parameter with a bad gradient, if a step failed.

        The optimizer has skipped since, so doing the step again finds the gradients it had.
        """
        failed = check.failed_step()
        if failed is None:
            return
        step = next(self.steps(epoch, failed))
        loss = self.gradient(step, epoch, 'plain').item()  # times a loss that is not finite, all would be bad
        bad = next((name for name, p in self.model.named_parameters()
                    if p.grad is not None and not p.grad.isfinite().all()), 'none')
        raise DivergedError(f'training diverged in epoch {epoch}, step {failed + 1}: the loss is {1000 * loss}, and '
                            f'the first parameter with a gradient that is not finite is {bad}; the checkpoints stay as '
                            f'they were, try a lower -lr or --clip 1')

    @contextlib.contextmanager
    def evaluated_weights(self) -> Iterator[Lifter]:
        """Yield the model with the weights that are to be evaluated: the moving average, where there is one."""
        if self.average is None:
            yield self.model
            return
        raw = {key: value.clone() for key, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.average.state)
        try:
            yield self.model
        finally:
            self.model.load_state_dict(raw)

    def content(self) -> dict[str, Any]:
        """Return all that a checkpoint needs to go on from here; `model_pos` has the weights to evaluate."""
        content = {**asdict(self.at), 'optimizer': self.optimizer.state_dict(), 'training_state': None,
                   'model_pos': self.model.state_dict(),
                   'lr': learning_rate(replace(self.recipe, warmup=0), self.at.base_lr, self.at.lr_since,
                                       self.at.epoch + 1, 0, self.sampler.steps(self.recipe.windows))}
        if self.average:
            content |= {'model_pos': self.average.state, 'training_state': content['model_pos']}
        return content


def make_sampler(model: Lifter, store: SequenceStore, recipe: Train, cameras: VirtualCameras | None = None,
                 noise: DetectorNoise | None = None) -> WindowSampler:
    """Return the windows that a recipe trains a model on, as cameras and a detector see them where there are any."""
    frames, answers = model.window_for(recipe.stride)
    supervised = model.supervised if answers == model.answers else answers
    return WindowSampler(store, frames, recipe.augment, recipe.seed, recipe.window_step, answers, model.needs_to_learn,
                         model.fewest, supervised, model.spacing, starts=model.training_starts,
                         at_random=model.mirrored_at_random, cameras=cameras, noise=noise)


def fit(trainer: Trainer, judges: Judges, log: RunLog | None, folder: Path, about: dict[str, Any], stop: StopRequest,
        say: Callable[[str], None], stale: list[Path]) -> None:
    """Train up to recipe.epochs, saving `last.bin`, `best.bin` and `epoch_N.bin` in the folder.

    Args:
        judges: without sequences to validate on no epoch is best.
        log: the first rank's; None on the others, which write nothing.
        about: what a checkpoint says of its model and data.
        stale: another run's files in the folder, deleted after the first save.

    Raises FileError when a checkpoint or the log cannot be written, DivergedError when training diverged, of which
    nothing is saved, and Stopped after saving when a signal asked for it.
    """
    recipe, at, world = trainer.recipe, trainer.at, trainer.world

    def save(*also: str) -> None:
        content = about | trainer.content()
        _check_weights(content['model_pos'], at)
        if world.first:
            checkpoint.save_last(folder, content, also)
            delete_stale(stale, (checkpoint.LAST, *also))

    judged = judged_by(trainer, judges)
    for epoch in range(at.epoch + 1, recipe.epochs + 1):
        begun, first_step = time.perf_counter(), at.step
        loss, rate = trainer.epoch(epoch, save, stop)
        trained = (at.step - first_step) * recipe.windows * len(trainer.sampler.answers) / (time.perf_counter() - begun)
        figures = judge(trainer, judged, epoch)
        at.metrics = {'epoch': epoch, 'lr': rate, 'train_loss': loss, **figures,
                      'seconds': round(time.perf_counter() - begun, 3), 'frames_per_second': round(trained)}
        at.epoch, at.step, at.loss_sum = epoch, 0, 0.0
        error = figures['valid_mpjpe']
        improved = error is not None and (at.best is None or error < at.best['valid_mpjpe'])
        if improved:
            at.best = at.metrics
        if log is not None:
            log.epoch(at.metrics)  # before last.bin: what it does not know of yet is cut off when it is resumed
        also = [checkpoint.BEST] if improved else []
        if recipe.checkpoint_frequency and epoch % recipe.checkpoint_frequency == 0:
            also.append(f'epoch_{epoch}.bin')
        save(*also)
        say(_epoch_line(at.metrics, recipe, improved))
        if signal := world.largest(stop.signal):
            raise Stopped(signal)


def _check_weights(weights: dict[str, torch.Tensor], at: Progression) -> None:
    """Raise DivergedError for weights that are not finite."""
    floats = [value for value in weights.values() if value.is_floating_point()]
    if not torch.stack(torch._foreach_norm(floats, float('inf'))).max().isfinite():
        raise DivergedError(f'diverged after epoch {at.epoch}, step {at.step}: the weights are not finite; the '
                            f'checkpoints stay as they were, try a lower -lr or --clip 1')


def judged_by(trainer: Trainer, judges: Judges) -> dict[str, tuple[SequenceStore, TestWindows]]:
    """Return the sequences that epochs are judged on, and this process's windows of them, by name of the judge."""
    stores = {'valid': judges.valid, 'train': judges.train}
    return {name: (store, windows_for(trainer.model, store, usual_target(store)).part(store, trainer.world))
            for name, store in stores.items() if store is not None}


def judge(trainer: Trainer, judged: dict[str, tuple[SequenceStore, TestWindows]],
          epoch: int) -> dict[str, float | None]:
    """Return the figures of an epoch by name; those of validation are None where nothing validates.

    Raises DivergedError where one is not finite.
    """
    figures: dict[str, float | None] = {'valid_mpjpe': None, 'valid_mpjve': None}
    with trainer.evaluated_weights() as model, computing_in(model, trainer.judged_in):
        for name, (store, windows) in judged.items():
            predicted = predictions(model, store, windows, trainer.root, trainer.flip)
            figures |= _figures(predicted, store, windows, trainer.world, name)
    if not all(np.isfinite(value) for value in figures.values() if value is not None):
        raise DivergedError(f'training diverged in epoch {epoch}: {figures}; checkpoints of earlier epochs stay, try a '
                            f'lower -lr')
    return figures


def _figures(predicted: dict[str, torch.Tensor], store: SequenceStore, windows: TestWindows, world: World,
             name: str) -> dict[str, float | None]:
    """Return the figures of an epoch on some sequences, in millimetres.

    They are those of the headline prediction, and the MPJPE of each other one under its name.
    """
    *others, (_, headline) = predicted.items()
    figures = {f'{name}_{metric}': value for metric, value in
               validation_figures(headline, store, windows, world).items()}
    for other, poses in others:
        figures[f'{name}_{other}_mpjpe'] = validation_figures(poses, store, windows, world)['mpjpe']
    if name == 'train':
        figures.pop('train_mpjve')
    return figures


def step_seed(*numbers: int) -> int:
    """Return the seed of all that is random in a step but the window order, from (seed, epoch, step[, rank])."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def gradients_of(model: torch.nn.Module) -> list[torch.Tensor]:
    """Return the gradients of the parameters that have one."""
    return [p.grad for p in model.parameters() if p.grad is not None]


def progression_of(stored: dict[str, Any]) -> Progression:
    """Return the progression that a checkpoint's content holds."""
    return Progression(**{f.name: stored[f.name] for f in fields(Progression)})


def _epoch_line(m: dict[str, Any], recipe: Train, improved: bool) -> str:
    """Return the line that is said of an epoch with the figures `m`."""
    line = f'epoch {m["epoch"]}/{recipe.epochs}  lr {m["lr"]:.3g}  train_loss {m["train_loss"]:.2f}'
    for name, value in m.items():
        if name.startswith(('train_', 'valid_')) and name != 'train_loss' and value is not None:
            line += f'  {name} {value:.2f} mm'
    return line + f'  {m["seconds"]:.1f} s  {m["frames_per_second"]:,} frames/s' + ('  best' if improved else '')
