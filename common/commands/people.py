"""--person all: everybody in one world, and a set of files for each.

Letters: T frames, J joints.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.commands.outputs import check_outputs
from common.config import Config
from common.config_predict import EVERYBODY
from common.errors import FlagError
from common.geometry.placement import floor_below, upright

if TYPE_CHECKING:
    from common.commands.predict import Lifted
    from common.keypoints.clip import Clip

APART = 1.5  # metres between people of whom nothing tells where they stand


def config_of(config: Config, person: int) -> Config:
    """Return the flags with the files of one person: clip_3.npz in place of clip.npz."""
    asked = config.predict
    names = {name: str(Path(value).with_stem(f'{Path(value).stem}_{person}'))
             for name, value in (('npz', asked.npz), ('csv', asked.csv), ('export', asked.export)) if value}
    return replace(config, predict=replace(asked, **names))  # type: ignore[arg-type]


def check_files(config: Config, clips: list[Clip]) -> None:
    """Raise FileError before the work begins where a person's file cannot be written, or would destroy an input."""
    for clip in clips:
        check_outputs(config_of(config, clip.person or 0))


def refuse_folder(config: Config) -> None:
    """Raise FlagError for a folder of videos, which are known to be done by the one file of each."""
    if config.predict.person == EVERYBODY:
        raise FlagError('--person all lifts one video at a time, not a folder of them: name it with --predict')


def in_one_world(lifted: list[Lifted], feet: tuple[int, ...]) -> list[Lifted]:
    """Return people whose places are known over one floor, and others side by side as they are in the picture.

    Args:
        lifted: all with a root or all without. feet: the joints that may stand on the floor.
    """
    if len(lifted) == 1:
        return lifted
    if all(one.root is not None for one in lifted):
        together = np.concatenate([upright(one.poses + one.root[:, None]) for one in lifted if one.root is not None])
        worlds = np.split(floor_below(together, feet), len(lifted))
        told = 'the same floor for all people, under the lowest foot of any of them'
    else:
        middle = [float(np.median(one.clip.pixels[one.clip.present, :, 0])) for one in lifted]
        rank = np.argsort(np.argsort(middle, kind='stable'), kind='stable')
        aside = APART * (rank - (len(lifted) - 1) / 2)
        worlds = [one.world + np.array([x, 0, 0], one.world.dtype) for one, x in zip(lifted, aside, strict=True)]
        told = f'people stand side by side, {APART:g} m apart, from left to right as in the picture'
    return [replace(one, world=world, placement=f'{one.placement}; {told}')
            for one, world in zip(lifted, worlds, strict=True)]
