"""What training costs on this machine: steps and windows of a judge, timed. The model does not stay what it was."""

import contextlib
import itertools
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from common.models.lifting import batches_of
from common.sampler import Step, TestWindows
from common.training.loop import Trainer
from common.training.optimiser import FiniteCheck

WARM_UP = 2  # steps that are not timed: memory is asked for, kernels are chosen and the optimizer's state is made
STEPS, LIMIT = 20, 10.0  # a timing ends with so many steps, or after so many seconds


@dataclass(frozen=True)
class StepCost:
    """The time of the steps of an epoch, seconds.

    Attributes:
        seconds: the median of those that were timed. least, most: of them.
        timed: how many these are.
        first: the very first step, with all that is done once.
        windows: of a step.
        stages: the median of each of its parts, data, forward, backward and update.
    """

    seconds: float
    least: float
    most: float
    timed: int
    first: float
    windows: int
    stages: dict[str, float]


@dataclass(frozen=True)
class WindowCost:
    """The time of lifting and judging windows, seconds: `seconds` for all `windows`, of which `timed` were timed."""

    seconds: float
    timed: int
    windows: int


class _Stages:
    """The seconds of the stages of a step, each of which is waited for on its device."""

    def __init__(self, device: torch.device):
        self._device, self._since = device, time.perf_counter()
        self.seconds: dict[str, float] = {}

    def passed(self, stage: str) -> None:
        """Take in that a stage has ended."""
        wait(self._device)
        now = time.perf_counter()
        self.seconds[stage], self._since = now - self._since, now


def wait(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def time_steps(trainer: Trainer, most: int = STEPS, limit: float = LIMIT) -> StepCost:
    """Train whole steps from where a run stands, and time them after the first ones.

    On CUDA each stage is waited for, which a run does not do: there its steps can be faster. Goes on until `most` are
    timed or `limit` seconds have passed, but with a step at least, and three where they are not long themselves.

    Raises DivergedError as the run would.
    """
    trainer.model.train()
    check = FiniteCheck(trainer.optimizer, trainer.device)
    parts, warm_up = defaultdict(list), WARM_UP
    begun, first, windows = time.perf_counter(), 0.0, 0
    stages = _Stages(trainer.device)
    trainer.passed = stages.passed
    try:
        for number, (epoch, step) in enumerate(_whole_steps(trainer)):
            stages.passed('data')
            trainer.take(step, epoch, check)
            trainer.raise_if_failed(check, epoch)
            windows = step.whole
            if number == 0:
                first = sum(stages.seconds.values())
                warm_up = WARM_UP if first < limit / 4 else 1
            if number >= warm_up:
                for stage, seconds in stages.seconds.items():
                    parts[stage].append(seconds)
                parts['step'].append(sum(stages.seconds.values()))
            timed, passed = len(parts['step']), time.perf_counter() - begun
            if timed >= most or (passed > limit and timed >= (3 if passed < 3 * limit else 1)):
                break
    finally:
        trainer.passed = lambda stage: None
    steps = parts.pop('step')
    return StepCost(statistics.median(steps), min(steps), max(steps), len(steps), first, windows,
                    {stage: statistics.median(seconds) for stage, seconds in parts.items()})


def _whole_steps(trainer: Trainer) -> Iterator[tuple[int, Step]]:
    """Yield epochs and steps from where a run stands, without end and without a last step of another size.

    Where windows without truth join in later, from the epoch in which they do.
    """
    sampler, recipe, at = trainer.sampler, trainer.recipe, trainer.at
    steps = sampler.steps(recipe.windows)
    whole = steps - (steps > 1 and len(sampler) != steps * recipe.windows)
    joins = trainer.beside is not None and recipe.warmup_epochs < recipe.epochs
    joined = max(at.epoch, recipe.warmup_epochs) if joins else at.epoch
    for epoch in itertools.count(joined + 1):
        first = at.step if epoch == at.epoch + 1 else 0
        trainer.model.begin_epoch(epoch, max(epoch, recipe.epochs))
        for step in itertools.islice(trainer.steps(epoch, first), max(0, whole - first)):
            yield epoch, step


def time_windows(work: Callable[[TestWindows], Any], windows: TestWindows, device: torch.device,
                 most: int | None = None, limit: float = LIMIT / 2) -> WindowCost:
    """Time a work on windows: on all of them where that takes no longer than `limit`, else on the first ones.

    Args:
        most: windows that are lifted at once, if fewer than those of a usual batch.
    """
    def timed(count: int) -> float:
        begun = time.perf_counter()
        work(windows.head(count))
        wait(device)
        return time.perf_counter() - begun

    if not len(windows):
        return WindowCost(0.0, 0, 0)
    _, size = batches_of(windows, device)
    count = min(size, most or size, len(windows))
    seconds = timed(count)  # with what is done once
    if seconds < limit:
        seconds = timed(count)
        count, again = min(len(windows), count * max(1, int(limit / seconds))), count
        if count > again:
            seconds = timed(count)
    return WindowCost(seconds * len(windows) / count, count, len(windows))


@contextlib.contextmanager
def changed(trainer: Trainer, **attributes: Any) -> Iterator[None]:
    """Give a trainer other attributes inside the context."""
    before = {name: getattr(trainer, name) for name in attributes}
    try:
        vars(trainer).update(attributes)
        yield
    finally:
        vars(trainer).update(before)
