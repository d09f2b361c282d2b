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
