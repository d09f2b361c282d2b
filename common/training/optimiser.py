"""What a recipe says of a step: its loss, optimizer and learning rate, the finite check, the moving average."""

import math
from dataclasses import dataclass, fields

import torch
from torch import nn

from common import losses
from common.sampler import Batch
from common.skeleton import Skeleton

LARGE_DROP = 0.5  # factor of the rate after every lr_drop_every-th epoch
CHECK_EVERY = 50  # steps between two looks at the finite check's flag; looking waits for the device


@dataclass(frozen=True)
class Recipe:
    """How to train, and how the predicted root is taken at test.

    Attributes:
        windows: of a step.
        optimizer: `adamw`, or `amsgrad`, Adam with amsgrad.
        loss: `weighted`, `mpjpe`, or `refinement`, for a model with a refinement behind it.
        objective: see `losses.gradient_factor`.
        root: `predicted`, as it is, or `zero`.
        lr_drop_every: epochs after whose multiples the rate is halved instead of multiplied by lr_decay; 0: never.
        schedule: `exp`, the rate times lr_decay after each epoch, or `cosine`, down to 0 at the end of the last.
        warmup: steps over which the rate rises to its value.
        clip: largest norm of the gradient; None for no limit.
        ema: decay of a moving average of weights and buffers, which is then what is evaluated; None for none.
        precision: asked for, of training and of what epochs are judged by; None for `computing`'s defaults.
        save_every: epochs between two epoch_N.bin; save_every_steps: steps between two saves inside an epoch.
    """

    epochs: int
    windows: int
    lr: float
    lr_decay: float
    weight_decay: float
    objective: str
    seed: int
    optimizer: str = 'adamw'
    loss: str = 'weighted'
    root: str = 'predicted'
    lr_drop_every: int = 0
    schedule: str = 'exp'
    warmup: int = 0
    clip: float | None = None
    ema: float | None = None
    precision: str | None = None
    save_every: int | None = None
    save_every_steps: int | None = None

    @classmethod
    def of(cls, settings: dict) -> 'Recipe':
        """The recipe among the settings that `arguments.fill` gives."""
        named = {f.name: settings[f.name] for f in fields(cls) if f.name in settings}
        return cls(windows=max(1, settings['batch'] // settings['stride']),
                   save_every=settings['checkpoint_frequency'], **named)


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer, fused: one kernel for all weights, which skips where the finite check says so."""
    given = {'lr': recipe.lr, 'weight_decay': recipe.weight_decay, 'fused': True}
    if recipe.optimizer == 'amsgrad':
        return torch.optim.Adam(model.parameters(), amsgrad=True, **given)
    return torch.optim.AdamW(model.parameters(), **given)


class StepLoss:
    """The loss of a recipe on one process's part of a step."""

    def __init__(self, recipe: Recipe, skeleton: Skeleton, device: torch.device):
        self._kind = recipe.loss
        self._weights = torch.tensor(skeleton.loss_weights, device=device)
        self._pairs = torch.tensor(skeleton.bone_pairs, device=device)

    def __call__(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """A scalar, metres: this part's share of the mean over all windows of the step."""
        predicted = model(batch.keypoints)  # (B, F, J, 3)
        refined = None
        if self._kind == 'refinement':
            refined = model.refine(predicted, batch.keypoints, batch.intrinsic, batch.root_depth)
        if not len(predicted):  # this rank takes part with count 0
            return predicted.sum() if refined is None else predicted.sum() + refined.sum()
        if self._kind == 'refinement':
            loss = losses.refinement_loss(predicted, refined, batch.poses, self._pairs)
        elif self._kind == 'weighted':
            loss = losses.pose_loss(predicted, batch.poses, self._weights)['total']
        else:
            loss = losses.mpjpe(predicted, batch.poses).mean()
        return loss * (len(predicted) / batch.whole)


def learning_rate(recipe: Recipe, base: float, since: int, epoch: int, step: int, steps: int) -> float:
    """The rate of a step.

    Args:
        base: the rate that the schedule starts from.
        since: the epoch whose first step it starts at.
        epoch: counted from 1. step: counted from 0, of `steps` in an epoch.
    """
    done = (epoch - since) * steps + step
    if recipe.schedule == 'cosine':
        rate = base * (1 + math.cos(math.pi * done / ((recipe.epochs - since + 1) * steps))) / 2
    else:
        drops = (epoch - 1) // recipe.lr_drop_every - (since - 1) // recipe.lr_drop_every if recipe.lr_drop_every else 0
        rate = base * recipe.lr_decay ** (epoch - since - drops) * LARGE_DROP ** drops
    return rate * min(1.0, (done + 1) / recipe.warmup) if recipe.warmup else rate


class FiniteCheck:
    """Remembers, on the device, the first step of an epoch whose loss or gradient was not finite.

    From that step on the optimizer skips, because the flag is what its fused kernel reads as `found_inf`. Nothing waits
    for the device until `failed_step` is asked for.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device):
        self._flag = torch.zeros((), device=device)
        self._step = torch.full((), -1, dtype=torch.int64, device=device)
        optimizer.found_inf = self._flag

    def look(self, loss: torch.Tensor, gradients: list[torch.Tensor], step: int) -> None:
        """Take in the loss, a scalar, and the gradients."""
        if self._flag.device.type == 'cpu':
            bounds = [bound for gradient in gradients for bound in torch.aminmax(gradient)]  # in a sixth of the time
        else:
            bounds = torch._foreach_norm(gradients, math.inf)  # the other norm's squares may overflow
        failed = ~(torch.isfinite(loss) & torch.isfinite(torch.stack(bounds)).all())
        self._step.copy_(torch.where(failed & (self._flag == 0), step, self._step))
        self._flag.logical_or_(failed)

    def failed_step(self) -> int | None:
        """The first step that failed, if any did. Waits for the device."""
        step = self._step.item()
        return None if step < 0 else step


class MovingAverage:
    """An exponential moving average of a model's weights and buffers: average = decay * average + (1 - decay) * new."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.state = {key: value.clone() for key, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after a step."""
        averages, values = [], []
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                averages.append(self.state[key])
                values.append(value)
            else:
                self.state[key].copy_(value)  # BatchNorm's count of batches
        torch._foreach_lerp_(averages, values, 1 - self.decay)
