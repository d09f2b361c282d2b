"""The models by name, and how to build one from the plain config that a checkpoint stores."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from common.models import graph, htnet, ktpformer
from common.models.refine import Refined
from common.skeleton import Skeleton, correspondence

__all__ = ['MODELS', 'Refined', 'build_model', 'recognise']


@dataclass(frozen=True)
class _Entry:
    """A model's name in print, its class, how its config is read from a public state dict, and the key of a public
    file that says for how many keypoints (axis 1) it was made."""

    title: str
    build: Callable
    config_of: Callable
    positions: str


MODELS = {
    'ktpformer': _Entry('KTPFormer', ktpformer.KTPFormer, ktpformer.config_of, 'kpattention.attn.Spatial_pos_embed'),
    'htnet': _Entry('HTNet', htnet.HTNet, htnet.config_of, 'pos_embed'),
}


def build_model(name: str, config: dict, skeleton: Skeleton, layout: Skeleton, drop_path: float = 0.0,
                **rates: float) -> torch.nn.Module:
    """A model with fresh weights that lifts keypoints of `layout` to joints of `skeleton`.

    Args:
        config: keyword arguments of the model that a checkpoint must repeat (frames, channels, depth, ...); `refine`
            among them asks for a refinement behind the model.
        drop_path: training-time rate, which a checkpoint need not repeat.
        rates: for HTNet, another such rate, `dropout`.

    Raises ValueError for a config or a layout that cannot be built.
    """
    config = dict(config)
    refined = config.pop('refine', False)
    parts = {'adjacency': torch.from_numpy(graph.adjacency(len(layout), layout.edges)),
             'correspondence': None if layout == skeleton else torch.from_numpy(correspondence(skeleton, layout))}
    if name == 'htnet':
        parts['limbs'] = layout.limbs
    model = MODELS[name].build(**parts, drop_path=drop_path, **rates, **config)
    if not refined:
        return model
    if layout != skeleton:
        raise ValueError(f'a refinement needs a keypoint for each joint, not {layout.name} for {skeleton.name}')
    return Refined(model, len(skeleton), skeleton.root)


def recognise(state: dict[str, torch.Tensor]) -> str | None:
    """The model that a public state dict is of, by a key that each has; None where it has none of them."""
    return next((name for name, entry in MODELS.items() if entry.positions in state), None)
