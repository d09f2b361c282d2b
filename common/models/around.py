"""What stands around a model and trains with it, such as a refinement behind it, or the diffusion of a denoiser."""

import numpy as np
from torch import nn

from common.models.lifter import Lifter


class Around(Lifter):
    """Something around a lifter, its `core`, whose windows and whose way through a training it shares."""

    def __init__(self, core: Lifter):
        """Take over what the core says of its windows, needs and training."""
        nn.Module.__init__(self)  # no Config is there: windows are those of the core
        self.frames, self.answers, self.spacing = core.frames, core.answers, core.spacing
        self.needs, self.fewest, self.measured = core.needs, core.fewest, core.measured
        self.mirrored_at_random = core.mirrored_at_random
        self.title, self.recipe = core.title, core.recipe

    def window_for(self, count: int) -> tuple[int, range]:
        """Return the core's window for so many frames."""
        return self.core.window_for(count)

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Let the core make ready for an epoch."""
        self.core.begin_epoch(epoch, epochs)

    def begin_step(self, seed: int, windows: int, part: slice) -> None:
        """Let the core make ready for a step."""
        self.core.begin_step(seed, windows, part)

    def training_starts(self, length: int, answered: int, step: int | None = None) -> np.ndarray:
        """Return where the core's training windows start."""
        return self.core.training_starts(length, answered, step)
