"""The parts of a training step: loss, optimizer and learning rate, the finite check, the moving average."""

import inspect
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from common import losses
from common.config import Train
from common.models.lifter import Criterion, Lifter, check_shape
from common.skeleton import Skeleton

CHECK_EVERY = 50  # steps between two looks at the finite check's flag; looking waits for the device


def trained_weights(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that a model has trained; it may hold others fixed."""
    return [p for p in model.parameters() if p.requires_grad]


class Adam(torch.optim.Adam):
    """Adam without torch's compiler, which torch's own methods import when they are called: two seconds of every start.

    They are wrapped so that the compiler passes them by; nothing here compiles an optimizer.
    """

    add_param_group = inspect.unwrap(torch.optim.Adam.add_param_group)
    load_state_dict = inspect.unwrap(torch.optim.Adam.load_state_dict)
    state_dict = inspect.unwrap(torch.optim.Adam.state_dict)
    zero_grad = inspect.unwrap(torch.optim.Adam.zero_grad)
    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))


class AdamW(Adam, torch.optim.AdamW):
    """AdamW without torch's compiler."""


def make_optimizer(model: nn.Module, recipe: Train) -> torch.optim.Optimizer:
    """Return the recipe's optimizer, fused: one kernel for all weights, which skips where the finite check says so."""
    lr, weight_decay = recipe.lr, recipe.weight_decay
    if recipe.optimizer in ('adam', 'amsgrad'):
        return Adam(trained_weights(model), lr, weight_decay=weight_decay, amsgrad=recipe.optimizer == 'amsgrad',
                    fused=True)
    return AdamW(trained_weights(model), lr, weight_decay=weight_decay, fused=True)


def make_criterion(model: Lifter, kind: str, skeleton: Skeleton, device: torch.device,
                   l1_share: float = 0.0) -> Criterion:
    """Return the loss of a kind: predicted and true poses (B, A, J, 3) -> a scalar, metres, or square metres for `mse`.

    Args:
        l1_share: weight of the mean absolute coordinate beside it, which takes that much of its own weight.

    It raises ContractError where the two differ in shape, so that nothing is broadcast, and is 0 for no windows.
    """
    weights = torch.tensor(skeleton.loss_weights, device=device)

    def criterion(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        check_shape(model, predicted, tuple(target.shape))
        if not len(predicted):  # this process takes part with no window, but its gradients are waited for
            return predicted.sum()
        if kind == 'weighted':
            loss = losses.pose_loss(predicted, target, weights)['total']
        elif kind == 'mse':
            loss = F.mse_loss(predicted, target)
        elif kind == 'motion':
            loss = losses.motion_loss(predicted, target)
        else:
            loss = losses.mean_mpjpe(predicted, target)
        return loss if not l1_share else (1 - l1_share) * loss + l1_share * F.l1_loss(predicted, target)
    return criterion


def learning_rate(recipe: Train, base: float, since: int, epoch: int, step: int, steps: int) -> float:
    """Return the learning rate of a step.

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
        decays = epoch - since - drops if not recipe.lr_decay_steps else _stairs(done + 1, recipe.lr_decay_steps)
        try:
            rate = base * recipe.lr_decay ** decays * recipe.lr_drop ** drops
        except OverflowError:  # training diverges at once, and says so
            rate = math.inf
    return rate * min(1.0, (done + 1) / recipe.warmup) if recipe.warmup else rate


def _stairs(step: int, length: int) -> float:
    """Return how often a staircase of so many steps has decayed at a step, counted from 1.

    The published programs set the rate at the first step and at each multiple of the length, to lr * decay ** (step /
    length): up to the first multiple it has therefore decayed by one step's worth.
    """
    return step // length if step >= length else 1 / length


class FiniteCheck:
    """Remembers, on the device, the first step of an epoch whose loss or gradient was not finite.

    From that step on the optimizer skips, because the flag is what its fused kernel reads as `found_inf`. Nothing waits
    for the device until `failed_step` is asked for.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device):
        self._flag = torch.zeros((), device=device)
        self._step = torch.full((), -1, dtype=torch.int64, device=device)
        vars(optimizer)['found_inf'] = self._flag  # the fused kernels read it, but torch declares no such attribute

    def look(self, loss: torch.Tensor, gradients: list[torch.Tensor], step: int) -> None:
        """Take in the loss, a scalar, and the gradients."""
        bounds: Sequence[torch.Tensor]
        if self._flag.device.type == 'cpu':
            bounds = [bound for gradient in gradients for bound in torch.aminmax(gradient)]  # in a sixth of the time
        else:
            bounds = torch._foreach_norm(gradients, math.inf)  # the other norm's squares may overflow
        failed = ~(torch.isfinite(loss) & torch.isfinite(torch.stack(bounds)).all())
        self._step.copy_(torch.where(failed & (self._flag == 0), step, self._step))
        self._flag.logical_or_(failed)

    def failed_step(self) -> int | None:
        """Return the first step that failed, if any did. Waits for the device."""
        step = int(self._step)
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
