"""The checkpoint folder of a run: what may be written there, what is resumed, what a kill left behind."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common.errors import FileError
from common.storage import checkpoint
from common.storage.checkpoint import Checkpoint, OwnCheckpoint
from common.storage.files import atomic_path
from common.training.resumed import check_progress, check_settings


def check_folder(folder: Path, resumed: Checkpoint | None, overwrite: bool) -> None:
    """Raise FileError when the checkpoint folder holds another run's files."""
    held = [name for name in (checkpoint.LAST, checkpoint.BEST) if os.path.lexists(folder / name)]
    if held and not overwrite and continued(folder, resumed) is None:
        raise FileError(f"{folder} holds another run's {held[0]}: choose another -c, continue it with --resume "
                        f'{held[0]}, or say --overwrite')


def continued(folder: Path, resumed: Checkpoint | None) -> OwnCheckpoint | None:
    """Return the resumed checkpoint where it is of ours and its run goes on in the folder it lies in; else None."""
    if resumed is None or resumed.public or resumed.path.parent.resolve() != folder.resolve():
        return None
    return resumed


def prepare_folder(folder: Path, resumed: Checkpoint | None,
                   overwrite: bool) -> tuple[dict[str, Any] | None, list[Path]]:
    """Make the checkpoint folder ready.

    Returns the figures of the best epoch so far, if its file is at hand, and another run's files: they are to be
    deleted when this run has saved for the first time (`delete_stale`), so that nothing is lost before there is
    something new. A best.bin of the run that is resumed, here or beside the resumed file, is its best so far, even when
    newer than that file. Raises FileError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise FileError(f'cannot write to the checkpoint folder {folder}')
        stale = _clear(folder, resumed, overwrite)
        best = folder / checkpoint.BEST
        figures = None if resumed is None or resumed.public else _bring_best(best, resumed)
        if figures is None and os.path.lexists(best):
            stale.append(best)
    except OSError as error:
        raise FileError(f'cannot use the checkpoint folder {folder}: {error.strerror}') from None
    return figures, [path for path in stale if resumed is None or path.resolve() != resumed.path.resolve()]


def delete_stale(stale: list[Path], saved: Sequence[str]) -> None:
    """Delete another run's files after the first save of this one, but for the names that it has just saved itself."""
    for path in stale:
        if path.name not in saved:
            path.unlink(missing_ok=True)
    stale.clear()


def _bring_best(best: Path, resumed: OwnCheckpoint) -> dict[str, Any] | None:
    """Return the figures of the run's best.bin, copying it to `best` from beside the resumed file if need be."""
    for candidate in (best, resumed.path.parent / checkpoint.BEST):
        figures = _best_figures(candidate, resumed)
        if figures is not None:
            if candidate != best:
                with atomic_path(best) as temporary:
                    shutil.copyfile(candidate, temporary)
            return figures
    return None


def _clear(folder: Path, resumed: Checkpoint | None, overwrite: bool) -> list[Path]:
    """Delete what a kill left half-written; return, under --overwrite, another run's files."""
    for left_by_a_kill in (*folder.glob('.*.bin.*.bin'), folder / f'.{checkpoint.PREVIOUS}'):
        left_by_a_kill.unlink(missing_ok=True)
    if own := continued(folder, resumed):
        if own.path.name == checkpoint.PREVIOUS and (folder / checkpoint.LAST).is_file():
            os.replace(folder / checkpoint.LAST, folder / 'last.damaged')  # it must not become previous.bin
    elif overwrite:
        # The first save makes the other run's last.bin this one's previous.bin, which it must not stay.
        return [folder / checkpoint.LAST, folder / checkpoint.PREVIOUS, *folder.glob('epoch_*.bin')]
    return []


def _best_figures(path: Path, resumed: OwnCheckpoint) -> dict[str, Any] | None:
    """Return the figures of the epoch in a best.bin, if that file is of the resumed run."""
    if not os.path.isfile(path):
        return None
    try:
        saved = checkpoint.load(path)
    except FileError:
        return None
    return saved.best if not saved.public and saved.run_id == resumed.run_id else None


def check_unchanged(resumed: Checkpoint | None) -> None:
    """Raise FileError where the resumed file has been replaced since it was read, by a run that has ended meanwhile."""
    if resumed is None or resumed.public:
        return
    now = checkpoint.load(resumed.path)
    if now.public or (now.run_id, now.epoch, now.stored['step']) != (
            resumed.run_id, resumed.epoch, resumed.stored['step']):
        raise FileError(f'{resumed.path} has changed since it was read: another run has just saved there; say --resume '
                        f'again')


def load_resumed(name: str, folder: Path, say: Callable[[str], None]) -> Checkpoint:
    """Return the checkpoint to go on from: previous.bin, saying so, where last.bin is damaged. Raises FileError."""
    saved = _load_last(checkpoint.find(name, folder), say)
    check_settings(saved)
    check_progress(saved)
    return saved


def _load_last(path: Path, say: Callable[[str], None]) -> Checkpoint:
    """Return the checkpoint at a path, or the save before it, saying so, where a last.bin is damaged."""
    try:
        return checkpoint.load(path)
    except FileError as error:
        previous = path.parent / checkpoint.PREVIOUS
        if path.name != checkpoint.LAST or not previous.is_file():
            raise
        say(f'{error}: going on from it')
        return checkpoint.load(previous)
