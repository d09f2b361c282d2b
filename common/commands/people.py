"""--person all: a set of files for each person."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from common.commands.outputs import check_outputs
from common.commands.videos import check_unsaid
from common.config import Config
from common.config_predict import EVERYBODY
from common.errors import FlagError
from common.exports import holds

if TYPE_CHECKING:
    from common.keypoints.clip import Clip


def config_of(config: Config, person: int) -> Config:
    """Return the flags with the files of one person: clip_3.npz in place of clip.npz."""
    asked = config.predict
    names = {}
    for name, value in (('npz', asked.npz), ('csv', asked.csv), ('export', asked.export)):
        if value:
            stem, dot, suffix = value.rpartition('.')  # not pathlib's, for which .trc alone has no suffix
            names[name] = f'{stem}_{person}{dot}{suffix}'
    return replace(config, predict=replace(asked, **names))  # type: ignore[arg-type]


def check_files(config: Config, clips: list[Clip]) -> None:
    """Raise FileError before the work begins where a person's file cannot be written, or would destroy an input."""
    for clip in clips:
        own = config_of(config, clip.person or 0)
        check_outputs(own)
        check_unsaid(own)


def check_length(config: Config, clips: list[Clip]) -> None:
    """Raise FileError before the work begins where the file of --export cannot hold so many frames."""
    if config.predict.export:
        for clip in clips:
            holds(Path(config.predict.export), len(clip.frames))


def refuse_folder(config: Config) -> None:
    """Raise FlagError for a folder of videos, which are known to be done by the one file of each."""
    if config.predict.person == EVERYBODY:
        raise FlagError('--person all lifts one video at a time, not a folder of them: name it with --predict')
