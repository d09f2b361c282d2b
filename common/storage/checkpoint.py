"""Checkpoints: written atomically, read without executing anything, and explaining themselves.

A file of this program is a dict of plain values and tensors (readable with torch.load(weights_only=True)). A public
file is a bare state dict, or a dict that keeps one under one of the names in WEIGHTS beside epoch, learning rate and
much that is not needed; or it is a safetensors file. Both kinds may carry wrappers' prefixes in their keys.
"""

import io
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

import torch

from common.errors import FileError
from common.skeleton import Skeleton
from common.storage import tensors
from common.storage.contents import DIGEST, TOO_LARGE, digest_of, fault_in, skeleton_of
from common.storage.files import atomic_file, atomic_path, one_line, shown

FORMAT = 1
LAST, PREVIOUS, BEST = 'last.bin', 'previous.bin', 'best.bin'

# Where public files keep their weights.
WEIGHTS = ('model_pos', 'state_dict', 'model', 'model_state_dict', 'net', 'model_pos_train')
# What stands before the keys of a denoiser, beside the tables of its diffusion.
DENOISER = 'pose_estimator.'
# The prefixes that DataParallel and torch.compile put in front of every key.
_WRAPPERS = re.compile(r'^(module\.|_orig_mod\.)+')
# Buffers that profilers (thop) leave in every module that they counted.
_PROFILED = ('total_ops', 'total_params')

State: TypeAlias = dict[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class _Saved:
    """Hold what public files and those of this program have in common.

    Attributes:
        path: the file it was read from.
        state: the model's state dict, without wrappers' prefixes and profilers' buffers.
        epoch: finished epochs, 0 where a public file has no number of them.
        lr: learning rate of the next epoch; None where a public file has none, or several.
    """

    path: Path
    state: State
    epoch: int
    lr: float | None


@dataclass(frozen=True, eq=False)
class OwnCheckpoint(_Saved):
    """A file of this program, which says all about itself.

    Attributes:
        model, config: name and keyword arguments of the model.
        skeleton, layout: joints of the poses and of the keypoints.
        dataset, keypoints: the -d and -k that the run was given.
        optimizer: the optimizer's state dict.
        settings: the run's resolved flags, its seed among them.
        run: the run folder.
        run_id: an id that stays the same however often a run is resumed or its files are copied.
        best: figures of the best epoch so far.
        training_state: the weights that training goes on from, where `state` is their moving average.
        stored: the whole content of the file, the run's progress included.
    """

    public: ClassVar[Literal[False]] = False

    lr: float
    model: str
    config: dict[str, Any]
    skeleton: Skeleton
    layout: Skeleton
    dataset: str
    keypoints: str
    optimizer: dict[str, Any]
    settings: dict[str, Any]
    run: str
    run_id: str
    best: dict[str, Any] | None
    training_state: State | None
    stored: dict[str, Any]


@dataclass(frozen=True, eq=False)
class PublicCheckpoint(_Saved):
    """A file of another program: weights, perhaps an epoch and a rate, and nothing about what they are for.

    It has the attributes of a file of this program that can say "nothing is known", so that these need no question
    about the kind of file: `settings` are empty, `config` too unless keys tell that the model is a denoiser;
    `skeleton`, `layout` and `training_state` are None.
    """

    public: ClassVar[Literal[True]] = True
    skeleton: ClassVar[None] = None
    layout: ClassVar[None] = None
    training_state: ClassVar[None] = None

    epoch: int = 0
    lr: float | None = None
    config: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


# Type checkers tell the two apart by `saved.public` as well as by isinstance.
Checkpoint: TypeAlias = OwnCheckpoint | PublicCheckpoint


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint so that no moment exists at which `path` is half a file. Raises FileError when it cannot.

    The digest of its tensors goes into it, and is compared when it is loaded.
    """
    written = packed(content)  # in memory first: torch's own writer reports a full disk by a place in its source
    with atomic_file(path) as file:
        file.write(written.getbuffer())


def packed(content: dict[str, Any]) -> io.BytesIO:
    """Return in memory what `save` writes."""
    written = io.BytesIO()
    torch.save({'format': FORMAT, **content, DIGEST: digest_of(content)}, written)
    return written


def save_last(folder: Path, content: dict[str, Any], also: Iterable[str] = ()) -> None:
    """Write `last.bin`, keeping the one before as `previous.bin`. Raises FileError when it cannot.

    `also` names other files that are to hold the same. They are there before last.bin is, which speaks of them.
    """
    *others, last = (folder / name for name in (*also, LAST))
    spare = folder / f'.{PREVIOUS}'
    if last.exists():
        _link(last, spare)
    first, *rest = (*others, last)
    try:
        save(first, content)
        for other in rest:  # copies, not links: damage to one of them must not be damage to all
            with atomic_path(other) as temporary:
                shutil.copyfile(first, temporary)
        if spare.exists():
            os.replace(spare, folder / PREVIOUS)
    finally:
        spare.unlink(missing_ok=True)


def _link(path: Path, name: Path) -> None:
    """Give a file another name for the time of a save; a copy where the file system knows no links."""
    try:
        name.unlink(missing_ok=True)
        try:
            os.link(path, name)
        except OSError:
            shutil.copyfile(path, name)
    except OSError as error:
        raise FileError(f'cannot write {name}: {error.strerror}') from None


def describe(skeleton: Skeleton) -> dict[str, Any]:
    """Return a skeleton as plain values, for a checkpoint or a file of predictions."""
    return {'name': skeleton.name, 'joints': list(skeleton.joints), 'parents': list(skeleton.parents)}


def find(name: str, folder: Path) -> Path:
    """Return the file that --evaluate or --resume names: in the checkpoint folder, else as a path. Raises FileError."""
    for path in (folder / name, Path(name)):
        if os.path.isfile(path):  # never raises, whatever the name
            return path
    raise FileError(f'checkpoint {name} is neither in {folder} nor a file of that path')


def load(path: Path) -> Checkpoint:
    """Load a checkpoint of this program or a public file; its tensors come on the CPU.

    Raises FileError for a file that is damaged or broken, asks for code to be run, holds no weights, or says of itself
    what cannot be. Where the save before it is at hand, the message says so.
    """
    try:
        return _load(path)
    except FileError as error:
        previous = path.parent / PREVIOUS
        ours = path.name in (LAST, BEST) or path.name.startswith('epoch_')
        if not ours or not os.path.isfile(path) or not os.path.isfile(previous):
            raise
        which = 'the save before it' if path.name == LAST else 'the last save but one'
        raise FileError(f'{error}; {previous}, {which}, is there') from None


def _load(path: Path) -> Checkpoint:
    content = tensors.read(path)
    if not isinstance(content, dict):
        raise FileError(f'{path} holds {type(content).__name__}, expected a checkpoint')
    # A bare state dict may well have a weight called format.
    bare = isinstance(content.get('format'), torch.Tensor) and not isinstance(content.get('model_pos'), dict)
    if 'format' in content and not bare:
        return _load_own(path, content)
    return _load_public(path, content)


def _load_own(path: Path, content: dict[str, Any]) -> OwnCheckpoint:
    """Return the checkpoint in the content of a file of this program. Raises FileError."""
    if type(content['format']) is not int or content['format'] != FORMAT:
        raise FileError(f'{path} has checkpoint format {_shown(content["format"])}, this program reads {FORMAT}')
    if fault := _fault_of(content.get('model_pos')):
        raise FileError(f'{path} holds no model weights: under model_pos, {fault}')
    if fault := fault_in(content):
        raise FileError(f'{path} is not a complete checkpoint: {fault}')
    if content['training_state'] is not None and (fault := _fault_of(content['training_state'])):
        raise FileError(f'{path} is not a complete checkpoint: under training_state, {fault}')
    _check_digest(path, content)
    return OwnCheckpoint(
        path, _clean(path, content['model_pos']), skeleton=skeleton_of(content['skeleton']),
        layout=skeleton_of(content['layout']), stored=content,
        **{name: content[name] for name in ('epoch', 'lr', 'model', 'config', 'dataset', 'keypoints', 'optimizer',
                                            'settings', 'run', 'run_id', 'best', 'training_state')})


def _check_digest(path: Path, content: dict[str, Any]) -> None:
    """Raise FileError for tensors that are not those that were saved; files of earlier versions have no digest."""
    if DIGEST not in content:
        return
    try:
        sound = content[DIGEST] == digest_of(content)
    except (ValueError, RuntimeError):  # tensors that were never in a file of ours
        sound = False
    if not sound:
        raise FileError(f'{path} is not a readable checkpoint: it is damaged, as its weights or the state of its '
                        f'optimizer are not those that were saved; fetch or save it again')


def _load_public(path: Path, content: dict[Any, Any]) -> PublicCheckpoint:
    """Return the weights in the content of another program's file, its epoch and its rate. Raises FileError."""
    under = [name for name in WEIGHTS if isinstance(content.get(name), dict)]
    if not under:
        if fault := _fault_of(content):
            raise FileError(f'{path} holds no model weights: there are none under {", ".join(WEIGHTS)}, and it is no '
                            f'bare state dict, as {fault}')
        return _public(path, content)
    # Settings may have such a name too: {'model': {'depth': 5}, 'net': ...}
    holding = [name for name in under if _fault_of(content[name]) is None]
    if not holding:
        raise FileError(f'{path} holds no model weights: under {under[0]}, {_fault_of(content[under[0]])}')
    if len(holding) > 1:
        raise FileError(f'{path} holds weights under {" and ".join(holding)}: save those you mean in a file of their '
                        f'own')
    epoch = _number(path, content, 'epoch', 'a count of finished epochs')
    lr = _number(path, content, 'lr', 'a learning rate')
    return _public(path, content[holding[0]], 0 if epoch is None else int(epoch), None if lr is None else float(lr))


def _public(path: Path, weights: dict[Any, Any], epoch: int = 0, lr: float | None = None) -> PublicCheckpoint:
    """Return a public file with these weights. Raises FileError for two of one name."""
    state = _clean(path, weights)
    denoiser = any(key.startswith(DENOISER) for key in state)
    return PublicCheckpoint(path, state, epoch, lr, config={'diffusion': True} if denoiser else {})


def _fault_of(state: Any) -> str | None:
    """Return why a value is not a state dict; None if it is one."""
    if not isinstance(state, dict):
        return f'it is {_shown(state)}'
    weights = {key: value for key, value in state.items() if not _is_profiled(key)}
    wrong = [key for key, value in weights.items() if not isinstance(value, torch.Tensor)]
    if wrong:
        return f'{_shown(wrong[0])} is {_shown(weights[wrong[0]])}, not a tensor'
    return None if weights else 'it is empty'


def _is_profiled(key: Any) -> bool:
    return str(key).rpartition('.')[2] in _PROFILED


def _clean(path: Path, state: dict[Any, Any]) -> State:
    """Return a state dict without wrappers' prefixes and profilers' buffers."""
    cleaned: State = {}
    for key, value in state.items():
        if _is_profiled(key):
            continue
        plain = _WRAPPERS.sub('', str(key))
        if plain in cleaned:
            raise FileError(f'{path} holds {_shown(plain)} twice, with and without the prefix of DataParallel or '
                            f'torch.compile: save the one you mean in a file of its own')
        cleaned[plain] = value
    return cleaned


def _number(path: Path, content: dict[Any, Any], name: str, expected: str) -> float | None:
    """Return the epoch or lr of a public file; None where it has none, or several rates.

    What is there but no such number is refused: --resume would otherwise start at another epoch or rate.
    """
    value = _item(content.get(name))
    if name == 'lr' and isinstance(value, (list, tuple)):  # as schedulers give it: a rate per group of parameters
        rates = {_shown(_item(rate)) for rate in value}
        value = _item(value[0]) if len(rates) == 1 else None
    if value is None:
        return None
    if (isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < TOO_LARGE
            or (name == 'epoch' and value != int(value))):
        raise FileError(f'{path}: its {name} is {_shown(value)}, expected {expected}; to do without, save its weights '
                        f'alone in a file')
    return value


def _item(value: Any) -> Any:
    """Return the number in a tensor of one number; anything else as it is."""
    one = (isinstance(value, torch.Tensor) and value.numel() == 1
           and value.layout == torch.strided and value.device.type == 'cpu')
    return value.item() if one else value


def _shown(value: Any) -> str:
    """Return a value from a file, fit for a part of one line, whatever it is."""
    return f'a tensor of shape {one_line(tuple(value.shape), 60)}' if isinstance(value, torch.Tensor) else shown(value)


def load_weights(model: torch.nn.Module, checkpoint: Checkpoint) -> None:
    """Put a checkpoint's weights into a model. Raises FileError, naming both sides, unless every one has its place."""
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    got = {key: tuple(value.shape) for key, value in checkpoint.state.items()}
    wrong = [f'{key} is {one_line(got[key], 60)}, not {shape}' for key, shape in expected.items()
             if got.get(key, shape) != shape]
    wrong += [f'{key} is missing' for key in expected if key not in got]
    wrong += [f'{one_line(key, 80)} is not a weight of this model' for key in got if key not in expected]
    wrong = wrong or [f'{key} holds {checkpoint.state[key].dtype}, not {value.dtype}'.replace('torch.', '')
                      for key, value in model.state_dict().items() if not _converts(checkpoint.state[key], value)]
    if wrong:
        more = f' (and {len(wrong) - 1} more)' if len(wrong) > 1 else ''
        raise FileError(f'{checkpoint.path} does not fit {type(model).__name__}: {wrong[0]}{more}')
    try:
        model.load_state_dict(checkpoint.state)
    except RuntimeError as error:
        raise FileError(f'{checkpoint.path}: {one_line(str(error).splitlines()[-1].strip())}') from None


def _converts(value: torch.Tensor, into: torch.Tensor) -> bool:
    """Return whether numbers of a file can stand for those of a weight: floats of any width, or whole numbers."""
    if value.layout != torch.strided or value.is_quantized or value.device.type != 'cpu':
        return False
    if into.is_floating_point():
        return value.is_floating_point()
    return value.dtype == into.dtype or not (value.is_floating_point() or value.is_complex()
                                             or torch.bool in (value.dtype, into.dtype))
