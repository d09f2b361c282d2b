"""Sizes that a checkpoint of ours says its model has, compared with its weights before such a model is built.

A file of some kilobytes could otherwise ask for a model that fills the memory, or takes for ever to make.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.modules.module import register_module_parameter_registration_hook

from common.errors import FileError
from common.models import AROUND, computing
from common.storage.checkpoint import DENOISER, Checkpoint, OwnCheckpoint
from common.storage.contents import is_real, is_whole
from common.storage.files import one_line, shown

if TYPE_CHECKING:
    from common.models.lifter import Lifter

# Sizes that need not show in a shape, such as the frames of a convolution, go up to this.
_USUAL = 4096
BASE, REFINE = 'base.', 'refine.'  # where a refined model keeps its two parts; others keep a base there too
_PREFIXES = {'refine': BASE, 'trajectory': BASE, 'diffusion': DENOISER}


def check_config(saved: OwnCheckpoint, kind: type['Lifter'], config: Any) -> None:
    """Raise FileError for sizes that a file's weights contradict.

    Args:
        config: the whole Config, defaults included, that the file's sizes make.
    """
    for part in AROUND:
        if not isinstance(saved.config.get(part, False), bool):
            raise FileError(f'{saved.path} is not a complete checkpoint: its config has {part} '
                            f'{shown(saved.config[part])}')
    state = base_state(saved)
    largest = max((max(value.shape, default=1) for value in state.values()), default=1)
    most = max(_USUAL, largest, len(state))
    for name, value in vars(config).items():
        if isinstance(value, (int, float)) and not -most <= value <= most:
            raise FileError(f'{saved.path} describes a model that its weights contradict: {name} {shown(value)}, where '
                            f'no weight has more than {largest:,} rows or columns')
    if not kind.public_keys:
        return
    untold = getattr(kind.Config, 'not_in_a_file', ())
    try:
        found = vars(kind.config_of(state, {name: getattr(config, name) for name in untold}))
    except (ValueError, ArithmeticError) as error:
        raise FileError(f'{saved.path} does not fit {kind.title}: {one_line(error)}') from None
    for name, value in found.items():
        if isinstance(value, int) and name not in untold and getattr(config, name) != value:
            raise FileError(f'{saved.path} describes a model that its weights contradict: {name} '
                            f'{shown(getattr(config, name))}, where they have {value}')


def base_of(saved: Checkpoint) -> Checkpoint:
    """Return a file as if it held its model alone, without what is around it."""
    config = {name: value for name, value in saved.config.items() if name not in AROUND}
    return dataclasses.replace(saved, state=base_state(saved), config=config)


def base_state(saved: Checkpoint) -> dict[str, torch.Tensor]:
    """Return the weights of a file's model, without those of what is around it."""
    before = base_prefix(saved.config)
    return {key.removeprefix(before): value for key, value in saved.state.items() if key.startswith(before)}


def base_prefix(config: Mapping[str, Any]) -> str:
    """Return what stands before the keys of a model in a file, given what its config has around it."""
    return next((_PREFIXES[part] for part in AROUND if config.get(part)), '')


def fault_in_types(kind: type['Lifter'], sizes: Mapping[str, Any]) -> str | None:
    """Return which size of a file has another type than the model's Config gives it, in words; None if none has."""
    for field in dataclasses.fields(kind.Config):
        if field.name not in sizes or field.default is dataclasses.MISSING:
            continue
        value, usual = sizes[field.name], field.default
        fits = type(value) is type(usual)
        if isinstance(usual, tuple):
            fits = isinstance(value, (list, tuple)) and all(map(is_whole, value))
        if isinstance(usual, (int, float)) and not isinstance(usual, bool):
            fits = is_real(value) and (isinstance(usual, float) or is_whole(value))
        if not fits and usual is not None:
            return f'{field.name} is {shown(value)}, expected such as {usual}'
    return None


def no_more_weights_than(state: Mapping[str, torch.Tensor]) -> contextlib.AbstractContextManager[None]:
    """Raise ValueError in the making of a model that has many more weights than a state dict."""
    there = sum(value.numel() for value in state.values())
    # modules may make a weight and then another in its place
    return _at_most(4 * there + 2 ** 20, f'it would have many more weights than the {there:,} numbers in the file')


def weights_within_memory() -> contextlib.AbstractContextManager[None]:
    """Raise ValueError in the making of a model whose weights alone would fill the memory of the machine."""
    memory = computing.memory_of(torch.device('cpu'))
    return _at_most(memory // 4, f'its weights do not fit in the {memory / 2 ** 30:.0f} GiB of memory: try a smaller '
                    f'-cs, -dep or -f')


@contextlib.contextmanager
def _at_most(room: int, otherwise: str) -> Iterator[None]:
    """Raise ValueError in the making of a model with more weights than there is room for, before they are filled."""
    def counted(module: torch.nn.Module, name: str, parameter: torch.Tensor | None) -> None:
        nonlocal room
        room -= 0 if parameter is None else parameter.numel()
        if room < 0:
            raise ValueError(otherwise)

    hook = register_module_parameter_registration_hook(counted)
    try:
        yield
    finally:
        hook.remove()
