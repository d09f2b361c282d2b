"""The form of a published recipe and of published figures, which stand beside the model that they are of."""

from dataclasses import dataclass, fields
from typing import Any

# What is lifted and judged where it is not a body: the keypoints, at depth 0.
KEYPOINTS = 'keypoints'
# How the predicted root is taken at test: as it is, set to 0 alone, or subtracted from every joint.
ROOTS = ('predicted', 'zero', 'subtract')

# The remark of figures of a model with a refinement behind it.
REFINED = 'refined, which reads the camera and the true depth of the root'


@dataclass(frozen=True)
class Published:
    """A published figure of a model in millimetres, on Human3.6M's test subjects S9 and S11 unless a remark says else.

    Attributes:
        keypoints: the 2D that it lifts, as -k names it or in the words of the paper.
        frames: of a window. mpjpe, p_mpjpe: protocols 1 and 2; None where the source has none.
        source: where the figure stands.
        remark: what sets it apart, such as what it reads besides the keypoints.
    """

    keypoints: str
    frames: int
    mpjpe: float | None
    p_mpjpe: float | None
    source: str
    remark: str = ''


@dataclass(frozen=True)
class Recipe:
    """The training of a publication: values for the fields of Train and Evaluate of the same names.

    Attributes:
        lr_decay_steps: steps over which the rate falls by lr_decay, in a staircase; 0 for after every epoch.
        windows: of a step, whatever they answer for, where that is what was published: the default of -b is then as
            many frames as they answer for, and `batch` is that of the published size. 0 where -b is `batch` frames.
        stride_limit: what the default of -s is at most; it is the frames that a window answers for.
        window_step: frames from one training window to the next; None for as many as it answers for, or as the model
            has it.
        drop_path, dropout: None for a model without.
        flip: whether mirrored keypoints are lifted too at test.
        joints: the body of Human3.6M that is lifted and averaged over, or KEYPOINTS; None for all that the data have.
    """

    epochs: int
    batch: int
    optimizer: str
    lr: float
    lr_decay: float
    loss: str
    objective: str
    root: str
    seed: int
    windows: int = 0
    stride_limit: int = 128
    window_step: int | None = None
    lr_decay_steps: int = 0
    lr_drop_every: int = 0
    lr_drop: float = 0.5
    weight_decay: float = 0.0
    drop_path: float | None = None
    dropout: float | None = None
    l1_share: float = 0.0
    clip: float | None = None
    augment: bool = True
    flip: bool = True
    joints: str | None = None
    select: str = 'best'

    def values(self) -> dict[str, Any]:
        """Return field -> value."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True)
class RefinementRecipe:
    """The training of a refinement behind a model; all else is as in the model's recipe. HTNet's are the defaults.

    Attributes:
        lr: learning rate.
        base: weight of the criterion of the poses before the refinement, beside the MPJPE of those behind it; with the
            model's share of L1, which that of the refined poses does not have.
        symmetry: weight of the difference in length of left and right bones of the refined poses.
    """

    lr: float = 1e-5
    base: float = 1.0
    symmetry: float = 0.01
