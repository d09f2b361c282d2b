"""Checkpoints: written atomically, read without executing anything, and explaining themselves.

A file of ours is a dict of plain values and tensors (readable with torch.load(weights_only=True)). A public file is
KTPFormer's `{epoch, lr, random_state, optimizer, model_pos}`, of which the numpy generator object is passed over, or a
bare state dict. Both may carry a leading `module.` in their keys.
"""

import os
import pickle
import re
import shutil
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from common.errors import FileError
from common.skeleton import Skeleton
from common.storage.files import atomic_path

FORMAT = 1
LAST, PREVIOUS, BEST = 'last.bin', 'previous.bin', 'best.bin'


@dataclass
class Checkpoint:
    """What a file holds. `public` files know only their weights, epoch and lr; the rest is None or empty.

    Attributes:
        path: where it was read from.
        state: the model's state dict, without `module.`.
        epoch: finished epochs.
        lr: learning rate of the next epoch.
        model, config: name and keyword arguments of the model.
        skeleton, layout: joints of the poses and of the keypoints.
        dataset, keypoints: what -d and -k were.
        optimizer: the optimizer's state dict; training_state: the weights it goes on from, where `state` is their
            moving average.
        settings: the run's resolved flags, its seed among them.
        run: the run folder; run_id: what stays the same however often a run is resumed or its files are copied.
        best: figures of the best epoch so far.
        stored: the whole content of a file of ours, where the run stood included.
    """

    path: Path
    state: dict
    public: bool
    epoch: int = 0
    lr: float | None = None
    model: str | None = None
    config: dict = field(default_factory=dict)
    skeleton: Skeleton | None = None
    layout: Skeleton | None = None
    dataset: str | None = None
    keypoints: str | None = None
    optimizer: dict | None = None
    settings: dict = field(default_factory=dict)
    run: str | None = None
    run_id: str | None = None
    best: dict | None = None
    training_state: dict | None = None
    stored: dict = field(default_factory=dict)


def save(path: Path, content: dict) -> None:
    """Write a checkpoint so that no moment exists at which `path` is half a file. Raises FileError when it cannot."""
    with atomic_path(path) as temporary:
        try:
            torch.save({'format': FORMAT, **content}, temporary)
        except RuntimeError as error:  # torch's zip writer reports a full disk so
            raise FileError(f'cannot write {path}: {str(error).splitlines()[0]}') from None


def save_last(folder: Path, content: dict, also: Iterable[str] = ()) -> None:
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


def describe(skeleton: Skeleton) -> dict:
    """A skeleton as plain values, for a checkpoint or a file of predictions."""
    return {'name': skeleton.name, 'joints': list(skeleton.joints), 'parents': list(skeleton.parents)}


def find(name: str, folder: Path) -> Path:
    """The file that --evaluate or --resume names: in the checkpoint folder, else as a path. Raises FileError."""
    for path in (folder / name, Path(name)):
        if os.path.isfile(path):  # never raises, whatever the name
            return path
    raise FileError(f'checkpoint {name} is neither in {folder} nor a file of that path')


def load(path: Path) -> Checkpoint:
    """Read one of our files or a public one.

    Raises FileError for a file that is broken, asks for code to be run, or holds no weights.
    """
    content = _read(path)
    if not isinstance(content, dict):
        raise FileError(f'{path} holds {type(content).__name__}, expected a checkpoint')
    state = content.get('model_pos', content)
    if not isinstance(state, dict) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise FileError(f'{path} holds no model weights')
    state = {str(key).removeprefix('module.'): value for key, value in state.items()}
    if 'format' not in content:
        epoch, lr = content.get('epoch'), content.get('lr')
        return Checkpoint(path, state, public=True, epoch=epoch if isinstance(epoch, int) else 0,
                          lr=float(lr) if isinstance(lr, (int, float)) else None)
    if content['format'] != FORMAT:
        raise FileError(f'{path} has checkpoint format {content["format"]}, this program reads {FORMAT}')
    for name, kind in (('epoch', int), ('lr', float), ('model', str), ('config', dict), ('settings', dict),
                       ('first_epoch', int), ('metrics', dict), ('best', (dict, type(None))), ('optimizer', dict),
                       ('step', int), ('loss_sum', float), ('base_lr', float), ('lr_since', int),
                       ('training_state', (dict, type(None))), ('run', str), ('run_id', str)):
        if not isinstance(content.get(name), kind):
            raise FileError(f'{path} is not a complete checkpoint: its {name} is {content.get(name)!r:.40}')
    try:
        skeleton, layout = (Skeleton(s['name'], tuple(s['joints']), tuple(s['parents']))
                            for s in (content['skeleton'], content['layout']))
        return Checkpoint(
            path, state, public=False, skeleton=skeleton, layout=layout, stored=content,
            **{name: content[name] for name in ('epoch', 'lr', 'model', 'config', 'dataset', 'keypoints', 'optimizer',
                                                'settings', 'run', 'run_id', 'best', 'training_state')})
    except (KeyError, TypeError, ValueError) as error:
        raise FileError(f'{path} is not a complete checkpoint ({error!r})') from None


def load_weights(model: torch.nn.Module, checkpoint: Checkpoint) -> None:
    """Put a checkpoint's weights into a model. Raises FileError, naming both sides, unless every one has its place."""
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    got = {key: tuple(value.shape) for key, value in checkpoint.state.items()}
    wrong = [f'{key} is {got[key]}, not {shape}' for key, shape in expected.items() if got.get(key, shape) != shape]
    wrong += [f'{key} is missing' for key in expected if key not in got]
    wrong += [f'{key} is not a weight of this model' for key in got if key not in expected]
    if wrong:
        more = f' (and {len(wrong) - 1} more)' if len(wrong) > 1 else ''
        raise FileError(f'{checkpoint.path} does not fit {type(model).__name__}: {wrong[0]}{more}')
    try:
        model.load_state_dict(checkpoint.state)
    except RuntimeError as error:
        raise FileError(f'{checkpoint.path}: {str(error).splitlines()[-1].strip()}') from None


class _PassedOver:
    """Stands for the numpy objects of public files, whose content nothing needs."""

    def __init__(self, *args):
        pass

    def __setstate__(self, state):
        pass


# The names under which numpy 1 and 2 pickle a RandomState and the arrays and scalars inside.
_NUMPY_NAMES = [
    'numpy.ndarray', 'numpy.dtype', 'numpy.random._mt19937.MT19937', 'numpy.random.mtrand.RandomState',
    'numpy.random._pickle.__randomstate_ctor', 'numpy.random._pickle.__bit_generator_ctor',
    *(f'numpy.{core}.{name}' for core in ('core', '_core')
      for name in ('multiarray._reconstruct', 'multiarray.scalar', 'numeric._frombuffer')),
]


def _read(path: Path):
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([(_PassedOver, n) for n in _NUMPY_NAMES]):
            warnings.simplefilter('ignore')  # torch muses about pickle protocols; what it cannot read, it raises on
            return torch.load(path, map_location='cpu', weights_only=True)
    except FileNotFoundError:
        raise FileError(f'{path} is missing') from None
    except pickle.UnpicklingError as error:
        asked = re.search(r'GLOBAL ([\w.]+)', str(error))
        if asked:
            raise FileError(f'{path} is refused: it asks for {asked[1]}, which no checkpoint needs; nothing in it was '
                            f'executed') from None
        raise FileError(f'{path} is not a readable checkpoint') from None
    except OSError as error:
        raise FileError(f'cannot read {path}: {error.strerror or error}') from None
    except Exception:  # damage makes zip readers, unpickler and tensor rebuilding raise anything
        raise FileError(f'{path} is not a readable checkpoint: it is truncated or of another kind') from None
