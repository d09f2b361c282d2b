"""Check the form of each fact in a checkpoint of this program, and the digest of its tensors.

Facts whose words or limits other parts of the program know are checked there: sizes of a model in
`common.models.stored`, settings and the optimizer in `common.training.resumed`.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from common.skeleton import Skeleton
from common.storage.files import shown

DIGEST = 'digest'
# From here on, whole numbers are not told apart as floats.
TOO_LARGE = 2 ** 53
MOST_JOINTS = 1000
_LONGEST_NAME, _LONGEST_PATH, _MOST_ENTRIES = 200, 5000, 1000


# ---- the form of facts ------------------------------------------------------------------------------------------


def is_whole(value: Any, low: int = 0) -> bool:
    """Return whether a value is a whole number from `low` on, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value < TOO_LARGE


def is_real(value: Any, low: float = -math.inf) -> bool:
    """Return whether a value is a finite number from `low` on, and no bool."""
    return (isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value
            and abs(value) < math.inf and (isinstance(value, float) or abs(value) < TOO_LARGE))


def is_name(value: Any) -> bool:
    """Return whether a value is a text that fits into a line, such as the name of a joint."""
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_NAME and value.isprintable()


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST_PATH and '\0' not in value


def _is_rate(value: Any) -> bool:
    return isinstance(value, float) and is_real(value, 0) and value < TOO_LARGE


def _is_plain(value: Any) -> bool:
    """Return whether a value is a number, a text, or nothing; or a short sequence of texts or of whole numbers."""
    if isinstance(value, (list, tuple)):
        return len(value) <= _MOST_ENTRIES and (all(map(is_name, value)) or all(map(is_whole, value)))
    return value is None or isinstance(value, bool) or is_real(value) or (
        isinstance(value, str) and len(value) <= _LONGEST_PATH)


def _is_dict_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        return isinstance(value, dict) and len(value) <= _MOST_ENTRIES and all(
            is_name(name) and fits(item) for name, item in value.items())
    return check


_figures = _is_dict_of(lambda value: value is None or is_real(value))

# What a file holds besides weights and skeletons, and what it must be.
FIELDS: dict[str, Callable[[Any], bool]] = {
    'epoch': is_whole, 'lr': _is_rate, 'model': is_name, 'config': _is_dict_of(_is_plain), 'dataset': is_name,
    'keypoints': is_name, 'settings': _is_dict_of(_is_plain), 'first_epoch': is_whole, 'metrics': _figures,
    'best': lambda value: value is None or _figures(value), 'optimizer': lambda value: isinstance(value, dict),
    'step': is_whole, 'loss_sum': lambda value: isinstance(value, float) and is_real(value), 'base_lr': _is_rate,
    'lr_since': is_whole, 'training_state': lambda value: value is None or isinstance(value, dict), 'run': _is_path,
    'run_id': is_name,
}


def fault_in(content: Mapping[str, Any]) -> str | None:
    """Return which of a file's facts cannot be, in words; None where all of them can."""
    for name, fits in FIELDS.items():
        if name not in content or not fits(content[name]):
            return f'its {name} is {_told(content.get(name), fits)}'
    for name in ('skeleton', 'layout'):
        if fault := _fault_in_skeleton(content.get(name)):
            return f'its {name} {fault}'
    return None


def _told(value: Any, fits: Callable[[Any], bool]) -> str:
    """Return a value that does not fit; of a dict the entry that does not."""
    if isinstance(value, dict) and len(value) <= _MOST_ENTRIES:
        for key, item in value.items():
            if not fits({key: item}):
                return shown({key: item}, 80)
    return shown(value)


def _fault_in_skeleton(value: Any) -> str | None:
    if not isinstance(value, dict):
        return f'is {shown(value)}'
    for part in ('name', 'joints', 'parents'):
        if part not in value:
            return f'has no {part}'
    name, joints, parents = (value[part] for part in ('name', 'joints', 'parents'))
    if not is_name(name):
        return f'is called {shown(name)}'
    if not isinstance(joints, (list, tuple)) or not 0 < len(joints) <= MOST_JOINTS or not all(map(is_name, joints)):
        return f'has the joints {shown(joints)}'
    if len(set(joints)) < len(joints):
        return f'has a joint twice: {shown(joints)}'
    if (not isinstance(parents, (list, tuple)) or len(parents) != len(joints)
            or not all(is_whole(parent, -1) and parent < len(joints) for parent in parents)
            or not _is_tree(parents)):
        return f'has the parents {shown(parents)}, expected a tree of {len(joints)} joints'
    for name in joints:
        if name.startswith('left_') and 'right_' + name.removeprefix('left_') not in joints:
            return f'has {shown(name)} without its other side'
    return None


def _is_tree(parents: list[int] | tuple[int, ...]) -> bool:
    """Return whether every joint's ancestors end at one that has none."""
    for joint in range(len(parents)):
        for _ in parents:
            joint = parents[joint] if joint >= 0 else joint
        if joint >= 0:
            return False
    return True


def skeleton_of(value: Mapping[str, Any]) -> Skeleton:
    """Return the skeleton that a file holds as plain values."""
    return Skeleton(value['name'], tuple(value['joints']), tuple(value['parents']))


# ---- the digest of tensors --------------------------------------------------------------------------------------


def digest_of(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a checkpoint's weights and optimizer state: names, types, shapes and bytes.

    Raises ValueError for tensors that no checkpoint of ours holds, such as sparse ones.
    """
    total = hashlib.sha256()
    for where, value in _tensors(content):
        if value.layout != torch.strided or value.device.type == 'meta' or value.is_quantized:
            raise ValueError(f'{where} is no plain tensor')
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f'{where} has fewer numbers than its shape says')
        total.update(f'{where}\0{value.dtype}\0{tuple(value.shape)}\0'.encode('utf-8', 'backslashreplace'))
        numbers = value.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
        total.update(numbers.view(torch.uint8).numpy().data)
    return total.hexdigest()


def _tensors(content: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (place, tensor) of the weights, of those that training goes on from, and of the optimizer's state."""
    for part in ('model_pos', 'training_state'):
        for key, value in (content.get(part) or {}).items():
            if isinstance(value, torch.Tensor):
                yield f'{part} {key}', value
    optimizer = content.get('optimizer')
    states = optimizer.get('state') if isinstance(optimizer, dict) else None
    for index, state in (states if isinstance(states, dict) else {}).items():
        for key, value in (state if isinstance(state, dict) else {}).items():
            if isinstance(value, torch.Tensor):
                yield f'optimizer {index} {key}', value
