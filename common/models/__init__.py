"""The models by name, and how to build one from the plain config that a checkpoint stores."""

import torch

from common import graph
from common.models.ktpformer import KTPFormer
from common.skeleton import Skeleton, correspondence

__all__ = ['MODELS', 'KTPFormer', 'build_model']

MODELS = {'ktpformer': KTPFormer}


def build_model(name: str, config: dict, skeleton: Skeleton, layout: Skeleton, drop_path: float = 0.0):
    """A model with fresh weights that lifts keypoints of `layout` to joints of `skeleton`.

    Args:
        config: keyword arguments of the model that a checkpoint must repeat (frames, channels, depth, ...).
        drop_path: training-time rate, which a checkpoint need not repeat.

    Raises ValueError for a config that cannot be built.
    """
    adjacency = torch.from_numpy(graph.adjacency(len(layout), layout.edges))
    mapping = None if layout == skeleton else torch.from_numpy(correspondence(skeleton, layout))
    return MODELS[name](adjacency=adjacency, correspondence=mapping, drop_path=drop_path, **config)
