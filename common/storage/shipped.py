"""The lifter that comes with the program: where it lies, and how it was made of a run's checkpoint.

    python -m common.storage.shipped RUN.bin LIFTER.bin

writes a checkpoint without what only training needs.
"""

import sys
from pathlib import Path

_COMMON = Path(__file__).resolve().parents[1]
# In a clone; and in an installation, whose package `common.shipped_files` is that folder (pyproject.toml).
_PLACES = (_COMMON.parent / 'checkpoint' / 'lifter.bin', _COMMON / 'shipped_files' / 'lifter.bin')


def shipped_lifter() -> Path:
    """Return where the checkpoint lies that is lifted with unless another one is named."""
    return next((path for path in _PLACES if path.exists()), _PLACES[0])


def ship(run: Path, lifter: Path) -> None:
    """Write a checkpoint of ours without optimizer and training's own weights. Raises FileError."""
    from common.errors import FileError
    from common.storage import checkpoint  # torch takes a second to import
    saved = checkpoint.load(run)
    if saved.public:
        raise FileError(f'{run} is not a checkpoint of this program')
    checkpoint.save(lifter, {**saved.stored, 'optimizer': {}, 'training_state': None})


if __name__ == '__main__':
    ship(*map(Path, sys.argv[1:]))
