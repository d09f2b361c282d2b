"""The records of a training run: its folder, one JSON line per epoch, TensorBoard scalars, a progress bar."""

import contextlib
import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from common.errors import FileError
from common.storage.files import atomic_path, read_regular


def versions() -> dict[str, str]:
    """Return the versions of Python, torch and numpy, for run folders and checkpoints."""
    return {'python': platform.python_version(), 'torch': str(torch.__version__), 'numpy': np.__version__}


def git_revision() -> str | None:
    """Return the commit of the source, with `+` where tracked files differ from it; None where it is unknown."""
    def git(*arguments: str) -> str:
        return subprocess.run(['git', *arguments], cwd=Path(__file__).parent, capture_output=True, text=True,
                              check=True, timeout=10).stdout.strip()
    try:
        git('ls-files', '--error-unmatch', Path(__file__).name)  # it may lie in somebody else's repository
        changed = git('status', '--porcelain', '--untracked-files=no')
        return git('rev-parse', 'HEAD') + ('+' if changed else '')
    except (OSError, subprocess.SubprocessError):
        return None


class RunLog:
    """The folder of one run, `LOGDIR/<date>-<time>`."""

    def __init__(self, folder: Path, epoch: int):
        """Open a run folder after `epoch` epochs, dropping the records of later ones. Raises FileError."""
        self.folder = folder
        path = folder / 'metrics.jsonl'
        _check_encodable(folder)
        if path.exists():
            kept = [m for m in read_metrics(path) if m['epoch'] <= epoch]
            with atomic_path(path) as temporary:
                temporary.write_text(''.join(json.dumps(m) + '\n' for m in kept))
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only a training run needs it
        self._scalars = SummaryWriter(str(folder), purge_step=epoch + 1)

    @classmethod
    def fresh(cls, parent: Path, about: dict[str, Any]) -> 'RunLog':
        """Make a new folder under `parent` and write `about` to its `run.json`. Raises FileError when that fails."""
        stamp = time.strftime('%Y%m%d-%H%M%S')
        _check_encodable(parent)
        try:
            parent.mkdir(parents=True, exist_ok=True)
            folder = next(folder for folder in _names(parent, stamp) if _make(folder))
        except OSError as error:
            raise FileError(f'cannot make a run folder in {parent}: {error.strerror}') from None
        try:
            with atomic_path(folder / 'run.json') as temporary:
                temporary.write_text(json.dumps(about, indent=1) + '\n')
        except FileError:
            folder.rmdir()
            raise
        return cls(folder, 0)

    @classmethod
    def continued(cls, folder: Path, epoch: int, about: dict[str, Any]) -> 'RunLog':
        """Reopen the folder of a run that is resumed after `epoch` epochs, adding `about` to its `resumed.jsonl`.

        Raises FileError when it cannot be written.
        """
        try:
            if (folder / 'resumed.jsonl').exists() and not (folder / 'resumed.jsonl').is_file():  # a pipe would wait
                raise FileError(f'cannot write {folder / "resumed.jsonl"}: it is not a regular file')
            with open(folder / 'resumed.jsonl', 'a') as file:
                file.write(json.dumps({'epoch': epoch, **about}) + '\n')
        except OSError as error:
            raise FileError(f'cannot write {folder}: {error.strerror}') from None
        return cls(folder, epoch)

    def epoch(self, figures: dict[str, Any]) -> None:
        """Add the figures of an epoch to `metrics.jsonl` and to TensorBoard. Raises FileError when that fails."""
        path = self.folder / 'metrics.jsonl'
        try:
            with open(path, 'a') as file:
                file.write(json.dumps(figures, allow_nan=False) + '\n')
            for name, value in figures.items():
                if name != 'epoch' and value is not None:
                    self._scalars.add_scalar(name, value, figures['epoch'])
            self._scalars.flush()
        except OSError as error:
            raise FileError(f'cannot write {path}: {error.strerror}') from None

    def epochs(self) -> list[dict[str, Any]]:
        """Return the figures of the epochs so far."""
        path = self.folder / 'metrics.jsonl'
        return read_metrics(path) if path.exists() else []

    def close(self) -> None:
        """Flush what TensorBoard has not written yet."""
        with contextlib.suppress(OSError):  # a full disk; the fate of metrics.jsonl is known by now
            self._scalars.close()


def _check_encodable(folder: Path) -> None:
    """Raise FileError for a folder whose name TensorBoard cannot write to: one that is not UTF-8."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise FileError(f'cannot make a run folder in {folder}: its name is not UTF-8; choose another -l, or set '
                        f'PYTHONUTF8=1') from None


def is_run_folder(folder: Path, run_id: str, parent: Path) -> bool:
    """Return True where a folder is that of a run: it says so itself, or it lies in the folder of runs.

    A checkpoint names its run folder, and a forged one may name any; run folders of earlier versions tell no run_id.
    """
    try:
        about = json.loads(read_regular(folder / 'run.json'))
    except (OSError, ValueError, RecursionError, FileError):
        return False
    said = about.get('run_id') if isinstance(about, dict) else None
    if said is None:
        return isinstance(about, dict) and folder.resolve().parent == parent.resolve()
    return said == run_id


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the epochs of a `metrics.jsonl`, leaving out lines that are not those of an epoch.

    A full disk or a kill may cut the last one short, and whatever else is in the file must not end a run.
    """
    epochs = []
    for line in read_regular(path).decode(errors='replace').splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            read = json.loads(line)
            if isinstance(read, dict) and type(read.get('epoch')) is int:
                epochs.append(read)
    return epochs


def _names(parent: Path, stamp: str) -> Iterator[Path]:
    """Yield names for a run folder: its time stamp, then numbered, where two runs start in one second."""
    yield parent / stamp
    yield from (parent / f'{stamp}-{n}' for n in range(2, 1000))


def _make(folder: Path) -> bool:
    """Make a folder; return False where it is there already."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


class Progress:
    """A progress bar over the frames of an epoch: loss, frames/s, time left; hidden where stderr is not a terminal."""

    def __init__(self, title: str, frames: int, shown: bool):
        self._bar = tqdm(total=frames, desc=title, unit=' frames', unit_scale=True, leave=False, dynamic_ncols=True,
                         disable=not (shown and sys.stderr.isatty()))
        self._shown = time.monotonic()

    def __enter__(self) -> 'Progress':
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def step(self, frames: int, loss: torch.Tensor) -> None:
        """Advance the bar. Reading the loss (metres) waits for the device, so it is read only when the bar is drawn."""
        self._bar.update(frames)
        if not self._bar.disable and time.monotonic() - self._shown > 0.5:
            self._bar.set_postfix_str(f'loss {1000 * loss.item():.2f}')
            self._shown = time.monotonic()
