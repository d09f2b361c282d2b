"""The lifter that comes with the program, and what --predict does where the command line leaves it to the program.

    python -m common.shipped RUN.bin LIFTER.bin

writes a checkpoint without what only training needs: how `checkpoint/lifter.bin` was made of a run's last.bin.
"""

import sys
from dataclasses import replace
from pathlib import Path

from common.config import PREDICT, Config
from common.detectors import is_video
from common.errors import FileError

_HERE = Path(__file__).resolve().parent
# In a clone; and in an installation, whose package `common.shipped_files` is that folder (pyproject.toml).
_PLACES = (_HERE.parent / 'checkpoint' / 'lifter.bin', _HERE / 'shipped_files' / 'lifter.bin')


def shipped_lifter() -> Path:
    """Return where the checkpoint lies that is lifted with unless --evaluate names one."""
    return next((path for path in _PLACES if path.exists()), _PLACES[0])


def with_shipped(config: Config) -> Config:
    """Return a command line of --predict with the shipped lifter and an output beside the video, if it names none."""
    if config.command != PREDICT:
        return config
    evaluate, predict = config.evaluate, config.predict
    source = Path(predict.predict or '')
    if not evaluate.evaluate:
        evaluate = replace(evaluate, evaluate=str(shipped_lifter()))
    if not predict.npz and is_video(source):
        predict = replace(predict, npz=str(source.with_suffix('.npz')))
    return replace(config, evaluate=evaluate, predict=predict)


def ship(run: Path, lifter: Path) -> None:
    """Write a checkpoint of ours without optimizer and training's own weights. Raises FileError."""
    from common.storage import checkpoint  # torch takes a second to import
    saved = checkpoint.load(run)
    if saved.public:
        raise FileError(f'{run} is not a checkpoint of this program')
    checkpoint.save(lifter, {**saved.stored, 'optimizer': {}, 'training_state': None})


if __name__ == '__main__':
    ship(*map(Path, sys.argv[1:]))
