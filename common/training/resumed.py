"""Check the settings, progress and optimizer of a checkpoint of ours against what the program knows.

Its words and limits are those of the flags, whose fields stand in `common.config`: a word that no flag takes is
refused, and never taken for another.
"""

import math
from pathlib import Path
from typing import Any, get_args

import torch

from common.config import SECTIONS, all_flags
from common.errors import FileError
from common.flag import Flag
from common.models import MODELS, recipe_of
from common.storage.checkpoint import Checkpoint, OwnCheckpoint
from common.storage.contents import is_name, is_real, is_whole
from common.storage.files import shown

# Epochs that a run could have, steps of one, and epochs whose window orders are drawn again when it goes on.
MOST_EPOCHS = 1_000_000
# Which kernel an optimizer computes with is this program's choice wherever a run began; what it computes is not.
_KERNELS = ('foreach', 'fused', 'capturable', 'differentiable')
# What torch has added to the groups of parameters since 2.10; files of before do not have it.
_ADDED = ('decoupled_weight_decay',)


# ---- settings ---------------------------------------------------------------------------------------------------


def check_settings(saved: Checkpoint) -> None:
    """Raise FileError, naming the setting, for one that no command line could have given. Public files have none."""
    if saved.public or saved.model not in MODELS:  # which is refused where models are looked up
        return
    settings = saved.settings
    for name, expected in (('model', saved.model), ('refine', bool(saved.config.get('refine')))):
        if name in settings and (type(settings[name]) is not type(expected) or settings[name] != expected):
            raise _cannot_be(saved, name, f'expected {expected}')
    if 'unlabelled' in settings and bool(settings['unlabelled']) != bool(saved.config.get('trajectory')):
        raise _cannot_be(saved, 'unlabelled', 'which contradicts its config')
    recipe = recipe_of(saved.model, saved.config).values()
    for section, name, flag in all_flags():
        if not flag.stored or name not in settings:
            continue
        annotation = SECTIONS[section].__dataclass_fields__[name].type
        value = settings[name]
        if not _could_be(value, flag, annotation) and not (isinstance(value, str) and value == recipe.get(name)):
            known = f'expected {", ".join(flag.choices)}' if flag.choices else f'which {flag.name} does not take'
            raise _cannot_be(saved, name, known)


def _cannot_be(saved: OwnCheckpoint, name: str, but: str) -> FileError:
    return FileError(f'{saved.path} is not a complete checkpoint: its setting {name} is '
                     f'{shown(saved.settings[name])}, {but}')


def _could_be(value: Any, flag: Flag, annotation: Any) -> bool:
    """Return whether a field with this flag and type could hold a value."""
    kinds = get_args(annotation) if type(None) in get_args(annotation) else (annotation,)
    if value is None or isinstance(value, bool):
        return type(value) in kinds
    if flag.choices is not None:
        return isinstance(value, str) and value in flag.choices
    if isinstance(value, (list, tuple)):
        names = any(str(kind).startswith('tuple') for kind in kinds)
        return names and all(map(is_name, value)) and len(set(value)) == len(value)
    if isinstance(value, str):
        return str in kinds and is_name(value)
    if (is_whole(value) and (int in kinds or float in kinds)) or (is_real(value) and float in kinds):
        return _is_read(value, flag)
    return False


def _is_read(value: float, flag: Flag) -> bool:
    """Return whether a flag takes a number, which lies within its limits then."""
    try:
        return flag.read is None or flag.read(repr(value)) == value
    except ValueError:
        return False


# ---- progress ---------------------------------------------------------------------------------------------------


def check_progress(saved: Checkpoint) -> None:
    """Raise FileError for a place in a run that training cannot go on from."""
    if saved.public:
        return
    stored = saved.stored
    epoch = stored['epoch']
    for name, low, high in (('epoch', 0, MOST_EPOCHS), ('step', 0, math.inf), ('first_epoch', 1, epoch + 1),
                            ('lr_since', 1, epoch + 1)):
        if not low <= stored[name] <= high:
            raise FileError(f'{saved.path} is not a complete checkpoint: its {name} is {shown(stored[name])}')
    if stored['metrics'] and not is_whole(stored['metrics'].get('frames_per_second')):
        raise FileError(f'{saved.path} is not a complete checkpoint: its metrics are {shown(stored["metrics"])}')
    best = stored['best']
    if best is not None and not (is_whole(best.get('epoch')) and is_real(best.get('valid_mpjpe'))):
        raise FileError(f'{saved.path} is not a complete checkpoint: its best is {shown(best)}')


# ---- optimizer --------------------------------------------------------------------------------------------------


def restore_optimizer(path: Path, optimizer: torch.optim.Optimizer, stored: dict[str, Any]) -> None:
    """Put the state that a file holds into a fresh optimizer, which then has it in memory of its own.

    Fused kernels write as many numbers as a weight has, wherever these lie: a state that is too small, or whose
    numbers are all the same one in memory, would have them write over something else. So every tensor is compared with
    its weight, and copied. Raises FileError where anything is missing, left over or of another form.
    """
    if not stored:
        raise FileError(f'{path} holds no optimizer, as a file that is only for lifting: training cannot go on from '
                        f'it, but can begin with its weights, --init {path}')
    (own,) = optimizer.state_dict()['param_groups']
    parameters = [p for group in optimizer.param_groups for p in group['params']]
    fault = _fault_in_groups(stored.get('param_groups'), own) or _fault_in_states(
        stored.get('state'), parameters, own['amsgrad'])
    if fault is None and stored.keys() != {'state', 'param_groups'}:
        fault = f'it holds {shown(sorted(map(str, stored)))}'
    if fault:
        raise FileError(f'{path}: its optimizer state does not fit the model: {fault}')
    states = {index: {key: torch.empty_like(value if key == 'step' else parameters[index], device='cpu').copy_(value)
                      for key, value in state.items()} for index, state in stored['state'].items()}
    optimizer.load_state_dict({'state': states, 'param_groups': [own | {'lr': stored['param_groups'][0]['lr']}]})


def _fault_in_groups(groups: Any, own: dict[str, Any]) -> str | None:
    """Return what is wrong with groups of parameters, which have the settings of an optimizer; None if nothing is."""
    if not isinstance(groups, list) or len(groups) != 1 or not isinstance(groups[0], dict):
        return f'param_groups is {shown(groups)}'
    group = groups[0]
    if odd := [name for name in group if name not in own]:
        return f'a group of parameters has {shown(odd[0])}'
    for name, value in own.items():
        if name not in group and name not in _ADDED:
            return f'a group of parameters has no {name}'
        got = group.get(name, value)
        if name == 'lr' or name == 'weight_decay':
            fits = is_real(got, 0)
        elif name in _KERNELS:
            fits = got is None or isinstance(got, bool)
        elif name == 'params':
            fits = isinstance(got, list) and all(map(is_whole, got)) and got == value
        else:
            fits = shown(list(got) if isinstance(got, tuple) else got) == shown(
                list(value) if isinstance(value, tuple) else value)
        if not fits:
            return f'{name} is {shown(got)}, expected {shown(value)}'
    return None


def _fault_in_states(states: Any, parameters: list[torch.Tensor], amsgrad: bool) -> str | None:
    """Return what is wrong with the states of parameters, by number; None if nothing is."""
    if not isinstance(states, dict) or list(states) != list(range(len(parameters))):
        return f'it is not of {len(parameters)} parameters, numbered from 0'
    names = {'step', 'exp_avg', 'exp_avg_sq', *(['max_exp_avg_sq'] if amsgrad else [])}
    for index, (state, parameter) in enumerate(zip(states.values(), parameters, strict=True)):
        if not isinstance(state, dict) or state.keys() != names:
            held = sorted(map(str, state)) if isinstance(state, dict) else state
            return f'that of parameter {index} holds {shown(held)}, expected {", ".join(sorted(names))}'
        for name, value in state.items():
            like = torch.zeros(()) if name == 'step' else parameter
            if fault := _fault_in_tensor(value, like):
                return f'{name} of parameter {index} {fault}'
        if not 0 <= state['step'].item() < math.inf or state['step'].item() % 1:
            return f'step of parameter {index} is {shown(state["step"].item())}'
        if any((state[name] < 0).any() for name in names if name.endswith('_sq')):
            return f'squares of parameter {index} are negative'
    return None


def _fault_in_tensor(value: Any, like: torch.Tensor) -> str | None:
    """Return why a value is not a tensor of the form of another one, each number in a place of its own."""
    if not isinstance(value, torch.Tensor):
        return f'is {shown(value)}, not a tensor'
    if value.dtype != like.dtype or tuple(value.shape) != tuple(like.shape):
        return f'is {shown(tuple(value.shape))} {value.dtype}, expected {tuple(like.shape)} {like.dtype}'
    if value.layout != torch.strided or value.device.type != 'cpu':
        return f'is a tensor of layout {value.layout} on {value.device}'
    if not value.is_contiguous() and value.stride() != like.stride():
        return 'has numbers that share a place in memory'
    if (value.storage_offset() + value.numel()) * value.element_size() > value.untyped_storage().nbytes():
        return 'has fewer numbers in memory than its shape says'
    return None
