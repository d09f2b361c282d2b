"""What a run leaves behind and shows: its folder, one JSON line per epoch, TensorBoard scalars, a progress bar."""

import json
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from common.errors import FileError
from common.files import atomic_path


def versions() -> dict:
    """Versions of what computes, for run folders and checkpoints."""
    return {'python': platform.python_version(), 'torch': str(torch.__version__), 'numpy': np.__version__}


def git_revision() -> str | None:
    """The commit of the source, with `+` where files differ from it; None where that is unknown."""
    def git(*arguments):
        return subprocess.run(['git', *arguments], cwd=Path(__file__).parent, capture_output=True, text=True,
                              check=True, timeout=10).stdout.strip()
    try:
        return git('rev-parse', 'HEAD') + ('+' if git('status', '--porcelain', '--untracked-files=no') else '')
    except (OSError, subprocess.SubprocessError):
        return None


class RunLog:
    """The folder of one run, `LOGDIR/<date>-<time>`."""

    def __init__(self, parent: Path, about: dict):
        """Make the folder and write `run.json`. Raises FileError when that cannot be."""
        stamp = time.strftime('%Y%m%d-%H%M%S')
        try:
            parent.mkdir(parents=True, exist_ok=True)
            self.folder = next(folder for folder in _names(parent, stamp) if _make(folder))
        except OSError as error:
            raise FileError(f'cannot make a run folder in {parent}: {error.strerror}') from None
        try:
            with atomic_path(self.folder / 'run.json') as temporary:
                temporary.write_text(json.dumps(about, indent=1) + '\n')
        except FileError:
            self.folder.rmdir()
            raise
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only a training run needs it
        self._scalars = SummaryWriter(str(self.folder))

    def epoch(self, figures: dict) -> None:
        """Add the figures of an epoch to `metrics.jsonl` and to TensorBoard. Raises FileError when that cannot be."""
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

    def close(self) -> None:
        """Flush what TensorBoard has not written yet."""
        self._scalars.close()


def _names(parent: Path, stamp: str):
    yield parent / stamp
    yield from (parent / f'{stamp}-{n}' for n in range(2, 1000))


def _make(folder: Path) -> bool:
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


class Progress:
    """A bar over the frames of an epoch, with loss, frames/s and time left; silent where stderr is no terminal."""

    def __init__(self, title: str, frames: int):
        self._bar = tqdm(total=frames, desc=title, unit=' frames', unit_scale=True, leave=False, dynamic_ncols=True,
                         disable=not sys.stderr.isatty())
        self._shown = time.monotonic()

    def step(self, frames: int, loss) -> None:
        """Advance; `loss()` is asked for its value only when the bar is drawn, because asking waits for the device."""
        self._bar.update(frames)
        if not self._bar.disable and time.monotonic() - self._shown > 0.5:
            self._bar.set_postfix_str(f'loss {loss():.2f}')
            self._shown = time.monotonic()

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()
