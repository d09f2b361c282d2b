"""The lifter that comes with the program: where it lies, and how it was made of a run's checkpoint.

    python -m common.storage.shipped RUN.bin LIFTER.bin

writes a checkpoint without what only training needs.
"""

import argparse
import sys
from pathlib import Path

from common.errors import FileError

_COMMON = Path(__file__).resolve().parents[1]
# In a clone; and in an installation, whose package `common.shipped_files` is that folder (pyproject.toml).
_PLACES = (_COMMON.parent / 'checkpoint' / 'lifter.bin', _COMMON / 'shipped_files' / 'lifter.bin')


def shipped_lifter() -> Path:
    """Return where the checkpoint lies that is lifted with unless another one is named."""
    return next((path for path in _PLACES if path.exists()), _PLACES[0])


def ship(run: Path, lifter: Path) -> None:
    """Write a checkpoint of ours without optimizer and training's own weights. Raises FileError."""
    from common.storage import checkpoint  # torch takes a second to import
    saved = checkpoint.load(run)
    if saved.public:
        raise FileError(f'{run} is not a checkpoint of this program')
    checkpoint.save(lifter, {**saved.stored, 'optimizer': {}, 'training_state': None})


def main() -> None:
    """Run `ship` from the command line; exit status 1 with one line where a file cannot be read or written."""
    parser = argparse.ArgumentParser(description='Write a checkpoint without what only training needs.')
    parser.add_argument('run', type=Path, metavar='RUN.bin')
    parser.add_argument('lifter', type=Path, metavar='LIFTER.bin')
    asked = parser.parse_args()
    try:
        ship(asked.run, asked.lifter)
    except FileError as error:
        sys.exit(f'{parser.prog}: error: {error}')


if __name__ == '__main__':
    main()
