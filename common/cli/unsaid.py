"""What --predict does where the command line leaves it to the program."""

from dataclasses import replace
from pathlib import Path

from common.config import PREDICT, Config
from common.detectors import is_video
from common.storage.shipped import shipped_lifter


def completed(config: Config) -> Config:
    """Return a command line of --predict with the shipped lifter and an output beside the video, if it names none."""
    if config.command != PREDICT:
        return config
    evaluate, predict = config.evaluate, config.predict
    source = Path(predict.predict or '')
    if not evaluate.evaluate:
        evaluate = replace(evaluate, evaluate=str(shipped_lifter()))
    if not predict.npz and is_video(source) and not predict.live:  # live, nothing is written unless asked for
        predict = replace(predict, npz=str(source.with_suffix('.npz')))
    return replace(config, evaluate=evaluate, predict=predict)
