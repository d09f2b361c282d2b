"""The form of a published recipe, which stands beside the model that it trains."""

from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """The training of a publication: values for the fields of Train and Evaluate of the same names.

    Attributes:
        drop_path, dropout: None for a model without.
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
    lr_drop_every: int = 0
    weight_decay: float = 0.0
    drop_path: float | None = None
    dropout: float | None = None

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
