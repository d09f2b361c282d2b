"""From poses in camera axes to people who stand in a world, several in the same one.

Letters: T frames, J joints.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from common.config import Config
from common.errors import FlagError
from common.geometry.placement import LEVEL, feet_on_floor, floor_below, tilt_of, upright
from common.keypoints.clip import Clip
from common.skeleton import Skeleton

APART = 1.5  # metres between people of whom nothing tells where they stand


@dataclass(frozen=True)
class Lifted:
    """The lifted poses, and all that a picture of them needs.

    Attributes:
        skeleton, layout: the joints of the poses, and the keypoints of the clip.
        poses: (T, J, 3) float32 metres in camera axes, relative to the root.
        world: (T, J, 3) float32 metres, z up, the floor at 0; `poses` until they are `placed`. placement: how that was
            found, in words.
        root: (T, 3) float32 metres in camera axes; None where nothing tells.
        hypotheses: (P, T, J, 3) as `poses`, which are their mean; None of a model that makes one prediction.
        scale: where the size of the person comes from, in words, if not from the model; else empty. smoothing: what was
            done against jitter, in words, or empty.
        tilt: (3, 3), as of `geometry.placement.upright`.
    """

    clip: Clip
    skeleton: Skeleton
    layout: Skeleton
    poses: np.ndarray
    world: np.ndarray
    placement: str
    root: np.ndarray | None
    hypotheses: np.ndarray | None = None
    scale: str = ''
    smoothing: str = ''
    tilt: np.ndarray = field(default_factory=lambda: LEVEL)

    @property
    def spread(self) -> np.ndarray | None:
        """Return the standard deviation of each joint's place over hypotheses, (T, J) metres; None of a single one.

        Its square is the mean square distance from the mean, with one hypothesis less in the divisor.
        """
        if self.hypotheses is None or len(self.hypotheses) < 2:
            return None
        return np.sqrt(np.square(self.hypotheses - self.poses).sum(-1).sum(0) / (len(self.hypotheses) - 1))

    def hypotheses_in_world(self) -> np.ndarray | None:
        """Return the hypotheses (P, T, J, 3) where their mean stands in the world; None of a single one."""
        if self.hypotheses is None or len(self.hypotheses) < 2:
            return None
        return self.world + upright(self.hypotheses - self.poses, self.tilt)


def placed(people: list[Lifted], config: Config) -> list[Lifted]:
    """Return people with `world`, `placement` and `tilt`, as the flags ask for.

    Those whose root is known stand over one floor, others on their own feet, side by side as they are in the picture.

    Args:
        people: all with a root or all without.

    Raises FlagError for people who cannot be taken to stand.
    """
    skeleton = people[0].skeleton
    feet = skeleton.feet
    tilt, stance = _tilt(people, config)
    if all(one.root is not None for one in people):
        together = np.concatenate([upright(one.poses + one.root[:, None], tilt) for one in people
                                   if one.root is not None])
        worlds = np.split(floor_below(together, feet), len(people))
        floor = 'the lowest foot of the clip put on the floor' if len(people) == 1 else (
            'the same floor for all people, under the lowest foot of any of them')
    else:
        middle = [float(np.median(one.clip.pixels[one.clip.present, :, 0])) for one in people]
        rank = np.argsort(np.argsort(middle, kind='stable'), kind='stable')
        aside = APART * (rank - (len(people) - 1) / 2)
        worlds = [feet_on_floor(upright(one.poses, tilt), feet) + np.array([x, 0, 0], one.poses.dtype)
                  for one, x in zip(people, aside, strict=True)]
        floor = 'the lower foot of each frame put on the floor; where the person stands is not estimated (--trajectory)'
        if len(people) > 1:
            floor += f'; people stand side by side, {APART:g} m apart, from left to right as in the picture'
    return [replace(one, world=world, tilt=tilt, placement=f'{one.placement}{stance}, {floor}')
            for one, world in zip(people, worlds, strict=True)]


def _tilt(people: list[Lifted], config: Config) -> tuple[np.ndarray, str]:
    """Return the tilt of the camera that --upright asks for, and how the camera stands in words. Raises FlagError."""
    if not config.predict.upright:
        return LEVEL, 'the camera taken as level'
    skeleton, seen = people[0].skeleton, np.concatenate([one.poses[one.clip.present] for one in people])
    try:
        tilt, degrees = tilt_of(seen, skeleton.joints.index('thorax'), skeleton.feet)
    except ValueError as error:
        raise FlagError(f'--upright: {error}: leave it out for people who lie, bend or hang') from None
    return tilt, f'the camera taken as tilted by {degrees:.0f} degrees, after which bodies are upright on average'
