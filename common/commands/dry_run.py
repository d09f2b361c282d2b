"""--dry-run: what a training run would take on this machine. All is set up as for the run; nothing is written."""

import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from common import threads
from common.commands.judging import add_up, counted, set_sampling, target_of
from common.commands.plan import Plan
from common.commands.session import Session
from common.datasets.poses import PoseDataset
from common.errors import FileError, FlagError, out_of_memory
from common.models import computing
from common.models.lifting import widens, windows_for
from common.sampler import TestWindows
from common.storage import checkpoint
from common.store import SequenceStore
from common.training.cost import StepCost, WindowCost, changed, time_steps, time_windows
from common.training.loop import Judges, Trainer, judge, judged_by, make_sampler

NEIGHBOURS = 32  # frames that a window is tried to answer for where it can answer for any number
TRIED, TRIED_FOR = 5, 5.0  # steps and seconds that another setting is timed for
JUDGED = {'valid': 'validation', 'train': '--eval-train'}  # what is judged in an epoch, in words
LONG = 3600  # seconds of a run for which a smaller one is proposed
GB, MB = 2 ** 30, 2 ** 20


def check_folders(plan: Plan) -> None:
    """Raise FileError where a folder that the run would make or write into cannot be, without making it."""
    for folder in (plan.folder, Path(plan.config.run.log)):
        there = _existing(folder)
        if not (there.is_dir() and os.access(there, os.W_OK)):
            raise FileError(f'cannot write to the folder {folder}: {there} is no folder, or read-only')


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that is there."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))


def dry_run(session: Session, plan: Plan, trainer: Trainer, judges: Judges, test: SequenceStore | None,
            dataset: PoseDataset, about: dict[str, Any]) -> None:
    """Time a few steps, some windows of validation and of the closing table, and say what the run would take.

    Args:
        about: what a checkpoint says of its model and data.

    Raises FlagError where a step does not fit in memory, with what would, and DivergedError as the run would.
    """
    say, at, train = session.say, trainer.at, trainer.recipe
    if at.epoch >= train.epochs:
        say('dry run: the run would only print its closing table')
        return
    step = _time_steps(plan, trainer)
    judged = judged_by(trainer, judges)
    judging = [time_windows(_judging(trainer, name, store), windows, trainer.device)
               for name, (store, windows) in judged.items()]
    begun = time.perf_counter()
    size = len(checkpoint.packed(about | trainer.content()).getbuffer())
    saving = time.perf_counter() - begun
    closing = None if test is None else _time_closing(plan, trainer, test, dataset)
    peak = computing.peak_memory(trainer.device)
    steps = trainer.sampler.steps(train.windows)
    training = step.seconds * len(trainer.sampler) / step.windows
    validating = sum(cost.seconds for cost in judging)
    saves = 1 + (steps - 1) // train.save_every_steps if train.save_every_steps else 1
    epoch = training + validating + saves * saving
    left = train.epochs - at.epoch - at.step / steps
    run = left * epoch + (closing.seconds if closing else 0)

    say('dry run: nothing is written')
    for line in (*_measured(trainer, step, peak), _kept(plan, trainer, size)):
        say(f'measured: {line}')
    more = sum(2 * 12 * (cost.windows - cost.timed) * len(windows.taken) * store.joints
               for cost, (store, windows) in zip(judging, judged.values(), strict=True))
    timed = [(cost, JUDGED[name]) for name, cost in zip(judged, judging, strict=True)]
    timed += [(closing, 'the closing table')] if closing else []
    for line in _estimated(trainer, step, timed, more, training, saves * saving):
        say(f'estimate: {line}')
    say(f'estimate: the run takes {in_words(run)}: {_epochs(left)} of {in_words(epoch)}' +
        (f', and {in_words(closing.seconds)} for the closing table' if closing else ''))
    validation = sum(cost.seconds for cost, name in timed if name == JUDGED['valid'])
    for line in (*_tried(plan, trainer), *_by_arithmetic(plan, trainer, validation / epoch, peak, run)):
        say(line)


# ---- measuring --------------------------------------------------------------------------------------------------


def _judging(trainer: Trainer, name: str, store: SequenceStore) -> Callable[[TestWindows], Any]:
    """Return what judges an epoch on windows of a store."""
    return lambda windows: judge(trainer, {name: (store, windows)}, trainer.at.epoch + 1)


def _time_closing(plan: Plan, trainer: Trainer, test: SequenceStore, dataset: PoseDataset) -> WindowCost:
    """Time the predictions and sums of the closing table."""
    config, model = plan.config, trainer.model
    set_sampling(config, model)
    windows = windows_for(model, test, target_of(config, dataset, test))
    return time_windows(lambda some: add_up(config, model, plan.folder / checkpoint.LAST, test, some, dataset, False),
                        windows, trainer.device, most=1 if model.samples else None)


def _time_steps(plan: Plan, trainer: Trainer) -> StepCost:
    """Time steps. Raises FlagError where one does not fit in memory, with the settings under which it was seen to."""
    step = _fitting(trainer)
    if step is not None:
        return step
    there = f'the {computing.memory_of(trainer.device) / GB:.1f} GB of the card' if _on_cuda(trainer) else 'memory'
    fits = list(_what_fits(plan, trainer))
    raise FlagError(f'a step of {counted(trainer.recipe.windows, "window", "windows")} does not fit in {there}' + (
        f'; as tried, it does with {", or with ".join(fits)}' if fits else
        ', and nothing that was tried does: take a smaller -f or -cs, or --subset'))


def _fitting(trainer: Trainer, most: int | None = None) -> StepCost | None:
    """Return the time of steps; None where they do not fit in memory, which is as it was then."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', 'mkldnn')  # oneDNN tells first that it has no memory
            return time_steps(trainer) if most is None else time_steps(trainer, most, TRIED_FOR)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
    trainer.optimizer.zero_grad(set_to_none=True)
    if _on_cuda(trainer):
        torch.cuda.empty_cache()
    return None


def _what_fits(plan: Plan, trainer: Trainer) -> Iterator[str]:
    """Yield flags under which a step fits in memory, having tried them."""
    run, train = plan.config.run, trainer.recipe
    if not (run.compile or run.activation_checkpointing):
        with computing.recomputing(trainer.model):
            if step := _fitting(trainer, most=1):
                yield f'--activation-checkpointing (the same numbers, {step.seconds:.3g} s a step)'
    if 'bf16' in _precisions(trainer):
        with changed(trainer, precision='bf16'):
            if step := _fitting(trainer, most=1):
                yield f'--precision bf16 ({step.seconds:.3g} s a step)'
    windows = train.windows // 2
    while windows >= max(1, trainer.model.fewest):
        with changed(trainer, recipe=replace(train, batch=windows * train.stride)):
            if step := _fitting(trainer, most=1):
                yield (f'-b {windows * train.stride} (another training, with steps of '
                       f'{counted(windows, "window", "windows")}, {step.seconds:.3g} s each)')
                return
        windows //= 2


def _precisions(trainer: Trainer) -> list[str]:
    """Return the precisions that the device has units for and that could be faster than that of the run."""
    faster = ['tf32'] if trainer.precision == 'fp32' and _on_cuda(trainer) else []
    if trainer.precision != 'bf16' and computing.has_bf16_units(trainer.device):
        faster.append('bf16')
    return faster


def _on_cuda(trainer: Trainer) -> bool:
    return trainer.device.type == 'cuda'


# ---- saying -----------------------------------------------------------------------------------------------------


def in_words(seconds: float) -> str:
    """Return a time in the two units that tell most of it."""
    if seconds < 100:
        return f'{seconds:.3g} s'
    for unit, name, size, below in ((60, 's', 1, 7200), (3600, 'min', 60, 172_800)):
        if seconds < below:
            whole, rest = divmod(round(seconds / size), unit // size)
            return f'{whole} {"min" if unit == 60 else "h"} {rest} {name}'
    days, hours = divmod(round(seconds / 3600), 24)
    return f'{days} days {hours} h'


def _epochs(left: float) -> str:
    return counted(int(left), 'epoch', 'epochs') if left == int(left) else f'{left:.2f} epochs'


def _measured(trainer: Trainer, step: StepCost, peak: int) -> Iterator[str]:
    """Yield what was measured of steps and memory."""
    frames = step.windows * len(trainer.sampler.answers)
    yield (f'a step takes {step.seconds:.3g} s, {frames / step.seconds:,.0f} frames/s: the median of {step.timed}, of '
           f'{step.least:.3g} to {step.most:.3g} s')
    whole = sum(step.stages.values())
    yield 'of it ' + ', '.join(f'{name} {100 * seconds / whole:.0f} %' for name, seconds in step.stages.items())
    if step.first > 2 * step.seconds + 1:
        yield f'the first step takes {in_words(step.first)}'
    what = 'of tensors on the card, which has' if _on_cuda(trainer) else 'of the process, on a machine with'
    yield f'memory: at most {peak / GB:.2f} GB {what} {computing.memory_of(trainer.device) / GB:.1f} GB'


def _kept(plan: Plan, trainer: Trainer, size: int) -> str:
    """Return in words how much room checkpoints take. One more is there while it is being written."""
    train, at = trainer.recipe, trainer.at
    names = [checkpoint.LAST, checkpoint.PREVIOUS, *([checkpoint.BEST] if train.eval else [])]
    often = train.checkpoint_frequency
    numbered = train.epochs // often - at.epoch // often if often else 0
    files = len(names) + numbered
    free = shutil.disk_usage(_existing(plan.folder)).free
    short = '' if (files + 1) * size < free else (
        ', WHICH IS TOO LITTLE: ' + ('raise -cf, or ' if numbered else '') + 'choose a -c on a larger disk')
    return (f'a checkpoint has {size / MB:.3g} MB; {files} are kept ({", ".join(names)}' +
            (f' and {numbered} of -cf {often}' if numbered else '') +
            f'), {files * size / MB:,.3g} MB, and {free / GB:,.1f} GB are free{short}')


def _estimated(trainer: Trainer, step: StepCost, timed: list[tuple[WindowCost, str]], more: int, training: float,
               saving: float) -> Iterator[str]:
    """Yield what follows from a part that was measured for the whole."""
    steps = trainer.sampler.steps(trainer.recipe.windows)
    parts = [f'{in_words(training)} for {counted(steps, "step", "steps")} of {step.windows} windows',
             *(f'{in_words(cost.seconds)} for {name}' for cost, name in timed if name in JUDGED.values())]
    yield f'an epoch takes {", ".join(parts)} and {in_words(saving)} for saving, without what the disk takes'
    for cost, name in timed:
        if cost.timed < cost.windows:
            yield f'of the {cost.windows:,} windows of {name}, {cost.timed:,} were timed'
    if trainer.beside is not None and trainer.at.epoch < trainer.recipe.warmup_epochs < trainer.recipe.epochs:
        yield (f'epochs up to {trainer.recipe.warmup_epochs}, before the subjects of --unlabelled join in, take less '
               f'than that')
    if more > 0.01 * GB:
        yield f'judging all windows takes {more / GB:.2f} GB of memory more, for their predictions and true poses'


# ---- what would change it ---------------------------------------------------------------------------------------


def _tried(plan: Plan, trainer: Trainer) -> Iterator[str]:
    """Yield how fast other settings are, having tried them, each next to those of the run.

    Compiled models are left alone: that would take minutes.
    """
    if plan.config.run.compile:
        return
    trials: list[tuple[str, dict[str, Any]]] = [(f'--precision {name}', {'precision': name})
                                                for name in _precisions(trainer)]
    train, sampler = trainer.recipe, trainer.sampler
    if widens(trainer.model) and train.stride == 1 and trainer.beside is None and train.batch >= NEIGHBOURS:
        wide = replace(train, stride=NEIGHBOURS)
        trials.append((f'-s {NEIGHBOURS}, which is another training,', {'recipe': wide, 'sampler': make_sampler(
            trainer.model, sampler.store, wide, sampler.cameras, sampler.noise)}))
    for flags, attributes in trials:
        usual = time_steps(trainer, TRIED, TRIED_FOR)
        windows = len(trainer.sampler) / usual.windows
        with changed(trainer, **attributes):
            other = _fitting(trainer, TRIED)
            if other is None:
                continue
            times = len(trainer.sampler) / other.windows / windows
        overlap = other.least * times < usual.most and usual.least < other.most * times
        yield (f'tried: {flags} takes {other.seconds * times / usual.seconds:.2f} times as long for the steps of an '
               f'epoch' + (', no more of a difference than between steps' if overlap else ''))


def _by_arithmetic(plan: Plan, trainer: Trainer, validation: float, peak: int, seconds: float) -> Iterator[str]:
    """Yield flags whose effect follows from what was measured."""
    train, sampler, model = trainer.recipe, trainer.sampler, trainer.model
    apart = len(sampler.answers)
    if train.window_step != apart:
        tiled = replace(train, window_step=apart)
        once = len(make_sampler(model, sampler.store, tiled, sampler.cameras, sampler.noise))
        if once < 0.9 * len(sampler):
            yield (f'windows overlap: --window-step {apart} makes {once:,} of {len(sampler):,} an epoch, which is '
                   f'another training')
    if validation > 0.2:
        yield f'--no-eval leaves out the validation, {100 * validation:.0f} % of an epoch, and the closing table'
    if seconds > LONG and plan.config.data.subset == 1:
        yield '--subset 0.1 trains on a tenth of each take, with about a tenth of the steps; -e N ends earlier'
    if peak > 0.8 * computing.memory_of(trainer.device) and not plan.config.run.activation_checkpointing:
        yield 'memory is nearly full: --activation-checkpointing, or a smaller -b, -f or -cs, leaves more of it'
    cores, busy = threads.cores(), torch.get_num_threads()
    if busy < cores and not _on_cuda(trainer):
        yield f'{counted(busy, "thread computes", "threads compute")} on {cores} cores: OMP_NUM_THREADS says so'
