"""What --predict and --export-model do where the command line leaves it to the program."""

from dataclasses import replace
from pathlib import Path

from common.config import EXPORT_MODEL, PREDICT, Config
from common.detectors import is_video
from common.storage.shipped import shipped_lifter

SHIPPED_UNLESS_NAMED = (PREDICT, EXPORT_MODEL)  # commands that take the shipped lifter where no checkpoint is named


def completed(config: Config) -> Config:
    """Return a command line with what it does not name: the shipped lifter, and an output beside the video."""
    if config.command not in SHIPPED_UNLESS_NAMED:
        return config
    evaluate, predict = config.evaluate, config.predict
    source = Path(predict.predict or '')
    if not evaluate.evaluate:
        evaluate = replace(evaluate, evaluate=str(shipped_lifter()))
    if not predict.npz and is_video(source) and not predict.live:  # live, nothing is written unless asked for
        predict = replace(predict, npz=str(source.with_suffix('.npz')))
    return replace(config, evaluate=evaluate, predict=predict)
