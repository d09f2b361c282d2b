"""The models by name. Importing this package does not import torch; a model's module is imported when it is used.

A model is one file that defines a `Lifter`, and one line of MODELS: docs/architecture.md says how to add one.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from common.models.lifter import Lifter
    from common.models.loading import LoadedLifter
    from common.recipe import Recipe
    from common.skeleton import Skeleton

# Name, as --model has it -> module and class.
MODELS = {
    'ktpformer': 'common.models.ktpformer:KTPFormer',
    'mixste': 'common.models.mixste:MixSTE',
    'htnet': 'common.models.htnet:HTNet',
    'videopose3d': 'common.models.videopose3d:VideoPose3D',
    'martinez': 'common.models.martinez:Martinez',
    'graformer': 'common.models.graformer:GraFormer',
    'mgcn': 'common.models.mgcn:ModulatedGCN',
    'mgcn16': 'common.models.mgcn:ModulatedGCN16',
    'mhformer': 'common.models.mhformer:MHFormer',
    'strided': 'common.models.strided:StridedTransformer',
    'pstmo': 'common.models.pstmo:PSTMO',
    'pstmo_pretraining': 'common.models.pstmo_pretraining:PSTMOPretraining',
    'stcformer': 'common.models.stcformer:STCFormer',
    'stcformer_3dhp': 'common.models.stcformer:STCFormer3DHP',
    'dstformer': 'common.models.dstformer:DSTformer',
    'motionagformer': 'common.models.motionagformer:MotionAGFormer',
}
DEFAULT_MODEL = 'ktpformer'
# What a config may ask for around a model beside its sizes: a refinement behind it, a network for the root beside it,
# or that it is the denoiser of a diffusion. One of them at most.
AROUND = ('refine', 'trajectory', 'diffusion')
_IN_WORDS = {'refine': 'a refinement', 'trajectory': 'training by windows without truth', 'diffusion': 'a diffusion'}


def model_class(name: str) -> type[Lifter]:
    """Return the class of the model called `name`. Raises KeyError for a name that is not in MODELS."""
    module, _, attribute = MODELS[name].partition(':')
    return getattr(importlib.import_module(module), attribute)


def make_config(name: str, sizes: Mapping[str, Any]) -> Any:
    """Return the Config of the model called `name`, with these fields and its defaults for the others.

    AROUND, which is not its own, is passed over. Raises ValueError for fields that it does not have and for sizes that
    cannot be.
    """
    kind = model_class(name)
    own = {size: value for size, value in sizes.items() if size not in AROUND}
    try:
        return kind.Config(**own)
    except (TypeError, ZeroDivisionError) as error:
        raise ValueError(f'{kind.title} has no such sizes as {own}: {error}') from None


def recipe_of(name: str, config: Mapping[str, Any] | None = None) -> Recipe:
    """Return the published recipe of a model, or of what a config asks for around it."""
    from common.models.diffusion import diffusion_recipe
    from common.models.refine import refinement_recipe
    kind, around = model_class(name), config or {}
    if around.get('refine'):
        return refinement_recipe(kind)
    return diffusion_recipe(kind.recipe) if around.get('diffusion') else kind.recipe


def build_model(name: str, config: Mapping[str, Any], skeleton: Skeleton, layout: Skeleton,
                drop_path: float = 0.0, **rates: float) -> Lifter:
    """Return a model with fresh weights that lifts keypoints of `layout` to joints of `skeleton`.

    Args:
        config: the fields of the model's Config that differ from its defaults; `refine` among them asks for a
            refinement behind the model, `trajectory` for training with windows that have no truth, `diffusion` for the
            model as a denoiser.
        drop_path, rates: rates of training, such as `dropout`, for models whose recipe has them.

    Raises ValueError for a config or a layout that cannot be built, and for a model that breaks its contract.
    """
    from common.models.diffusion import Diffusion
    from common.models.lifter import check_contract
    from common.models.refine import Refined
    from common.models.semi_supervised import ROOT_ALONE, SemiSupervised
    kind = model_class(name)
    if kind.recipe.drop_path is not None:
        rates['drop_path'] = drop_path
    build: Callable[..., Lifter] = kind  # a model's own constructor takes more than that of the contract
    around = [part for part in AROUND if config.get(part)]
    if len(around) > 1:
        raise ValueError(f'{kind.title} cannot have {" and ".join(_IN_WORDS[part] for part in around)} around it')
    if config.get('diffusion'):
        if not kind.denoises:
            raise ValueError(f'{kind.title} cannot be a denoiser')
        rates['noisy'] = True
    model = build(make_config(name, config), skeleton, layout, **rates)
    if config.get('diffusion'):
        model = Diffusion(model, skeleton)
    if config.get('refine'):
        model = Refined(model, skeleton, layout)
    if config.get('trajectory'):
        if not kind.semi_supervised:
            raise ValueError(f'windows without truth cannot teach {kind.title}')
        model = SemiSupervised(model, build(make_config(name, config), ROOT_ALONE, layout, **rates), skeleton, layout)
    check_contract(model)
    return model


def load_lifter(path: str | Path | None = None, device: str = 'cpu', **how: Any) -> LoadedLifter:
    """Load a trained model, ours or a public one, ready to lift: see `LoadedLifter.lift_clip`.

        lifter = load_lifter('checkpoint/best.bin')
        poses = lifter.lift_clip(keypoints, size=(1920, 1080))

    Args:
        path: a checkpoint file, the shipped lifter if None. device: where it is to compute, such as 'cuda'.
        how: what a public file does not tell: see `common.models.loading.load`.

    Raises FileError for a file that is missing, broken or of no model that is known.
    """
    from pathlib import Path

    import torch

    from common.models.loading import load
    from common.storage.shipped import shipped_lifter
    return load(Path(path or shipped_lifter()), torch.device(device), **how)
