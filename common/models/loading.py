"""Load a checkpoint, ours or a public one, as a model ready to lift.

Letters: B windows, F frames of a window, K keypoints in, J joints out, T frames of a clip, N frames of training data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.errors import ContractError, FileError
from common.models import DEFAULT_MODEL, MODELS, build_model, make_config, model_class
from common.models.diffusion import COUNT
from common.models.lifter import IN_THE_PICTURE, Lifter, describe_model
from common.models.stored import (
    BASE,
    REFINE,
    base_prefix,
    base_state,
    check_config,
    fault_in_types,
    no_more_weights_than,
)
from common.skeleton import Skeleton
from common.storage.checkpoint import Checkpoint, PublicCheckpoint, load_weights
from common.storage.checkpoint import load as read_checkpoint
from common.storage.files import one_line


@dataclasses.dataclass(frozen=True)
class LoadedLifter:
    """A trained model, and what it reads and predicts.

    Attributes:
        name, config: the model of the registry, and the sizes that build it.
        layout, skeleton: the keypoints that it reads and the joints that it predicts.
        settings: those of the run that made it; empty for a public file.
        how: how the file was recognised, in words.
        saved: the checkpoint as it was read.
    """

    model: Lifter
    name: str
    config: dict[str, Any]
    layout: Skeleton
    skeleton: Skeleton
    settings: dict[str, Any]
    how: str
    saved: Checkpoint

    @property
    def path(self) -> Path:
        """Return the file that it was loaded from."""
        return self.saved.path

    @property
    def in_the_picture(self) -> bool:
        """Return whether it predicts in units of the picture, which tell no size, and not in metres."""
        return learned_from(self.saved, self.name) in IN_THE_PICTURE

    @property
    def any_size(self) -> bool:
        """Return whether it was trained on people of any size and place in the picture, as virtual cameras see them."""
        return self.settings.get('views') == 'random'

    @property
    def device(self) -> torch.device:
        """Return where it computes."""
        return next(self.model.parameters()).device

    def describe(self) -> str:
        """Return the model in a few words, for a line of output."""
        return describe_model(self.model)

    def lift_clip(self, keypoints: np.ndarray, size: tuple[float, float] | None = None,
                  overlap: int | None = None, causal: bool = False, root: str | None = None,
                  intrinsics: tuple[float, float, float, float] | None = None) -> np.ndarray:
        """Lift the keypoints of one person: (T, K, 2 or 3) -> (T, J, 3) float32.

        Args:
            keypoints: pixels of a picture of this size, or normalised screen coordinates without one, in the order of
                `layout.joints`, without gaps; a third column is the detector's confidence, 0 to 1.
            size: (width, height) of the picture in pixels.
            overlap: frames that neighbouring windows share and blend; a quarter of what they answer for by default.
            causal: take each frame from a window that ends at it, as live footage has to.
            root: `zero` puts the root joint of each pose at the origin and leaves the others, `predicted` leaves it
                where the model predicts it; as the model is evaluated by default. Neither subtracts it from the
                others, as --predict does: `poses - poses[:, lifter.skeleton.root, None]`.
            intrinsics: fx, fy, cx, cy of the lens in pixels, for models that read it.

        Returns metres in camera axes (x right, y down, z forward), relative to the root joint, in the order of
        `skeleton.joints`; scaled to a person of average size where the model predicts in units of the picture. Raises
        ValueError for keypoints of another shape or that are not finite, and for a model that reads what is not given.
        """
        from common.models.lifting import lift_clip  # which needs this module
        return lift_clip(self, keypoints, size, overlap, causal, root, intrinsics)


def learned_from(saved: Checkpoint, name: str) -> str | None:
    """Return the data set that a checkpoint of the model called `name` learned from; None where its file tells none."""
    return model_class(name).public_data if saved.public else saved.dataset


def recognise(state: Mapping[str, torch.Tensor]) -> str | None:
    """Return the model that a public state dict is of, by keys that each has; None where it has none of them."""
    for name in MODELS:
        kind = model_class(name)
        if kind.public_keys and all(key in state for key in kind.public_keys) \
                and not any(key in state for key in kind.absent_keys):
            return name
    return None


def refined_by(saved: PublicCheckpoint, refinement: PublicCheckpoint) -> PublicCheckpoint:
    """Return the two public files of a refined model, its base and its refinement, as one. Raises FileError."""
    strange = next((key for key in refinement.state if not key.startswith('post_refine.')), None)
    if strange is not None:
        raise FileError(f'{refinement.path} holds {one_line(strange, 60)}, which no refinement has: name the file of '
                        f'weights called post_refine with --refinement, and that of the model with --evaluate')
    state = {BASE + key: value for key, value in saved.state.items()} | {
        REFINE + key: value for key, value in refinement.state.items()}
    return dataclasses.replace(saved, state=state, config={'refine': True})


def identify(saved: Checkpoint, asked: str | None = None, sizes: Mapping[str, Any] | None = None) -> tuple[
        str, dict[str, Any], str]:
    """Return the model of a checkpoint, its config, and how it was recognised.

    Args:
        asked: the model that the file is said to be of, which its content must not contradict.
        sizes: what public files do not tell of the config, such as `heads`.

    Raises FileError for a file of another model, or of none.
    """
    if saved.public:
        if all(key.startswith('post_refine.') for key in saved.state):
            raise FileError(f'{saved.path} is a refinement, without the model that it stands behind: name it with '
                            f'--refinement, and the file of that model with --evaluate')
        found = recognise(base_state(saved))
        name, how = found or asked or DEFAULT_MODEL, 'a public file, recognised by its keys'
    else:
        name, how = saved.model, 'a checkpoint of this program'
    if name not in MODELS:
        raise FileError(f'{saved.path} is a {one_line(name, 60)} checkpoint, this program builds {", ".join(MODELS)}')
    kind = model_class(name)
    if asked not in (None, name):
        raise FileError(f'{saved.path} is a {kind.title} checkpoint, which --model {asked} contradicts: leave the flag '
                        f'out or name another file')
    if not saved.public:
        if fault := fault_in_types(kind, saved.config):
            raise FileError(f'{saved.path} describes a model that cannot be built: {fault}')
        check_config(saved, kind, config_for(saved.path, name, saved.config))
        return name, dict(saved.config), how
    if not kind.public_keys:
        raise FileError(f'{saved.path} is a public file, and no public file of {kind.title} can be read: take a '
                        f'checkpoint of this program')
    untold = getattr(kind.Config, 'not_in_a_file', ())
    told = {size: value for size, value in (sizes or {}).items() if size in untold}
    try:
        config = dataclasses.asdict(kind.config_of(base_state(saved), told))
    except (ValueError, ArithmeticError) as error:
        raise FileError(f'{saved.path} is not a {kind.title} checkpoint: {one_line(error)}') from None
    return name, config | told | saved.config, how


def load(path: Path, device: torch.device, model: str | None = None, layout: Skeleton | None = None,
         skeleton: Skeleton | None = None, sizes: Mapping[str, Any] | None = None) -> LoadedLifter:
    """Load a checkpoint of ours or a public one as a model ready to lift.

    Args:
        model: the model that the file is said to be of; it is recognised by itself.
        layout, skeleton: of a public file, which does not tell them: the joints that the model was published with.
        sizes: of a public file, what it does not tell of its model's config, such as `heads`.

    Raises FileError for a file that is missing, broken, of no model that is known, or that does not fit.
    """
    saved = read_checkpoint(path)
    name, config, how = identify(saved, model, sizes)
    return assemble(saved, name, config, how, device, layout, skeleton)


def assemble(saved: Checkpoint, name: str, config: dict[str, Any], how: str, device: torch.device,
             layout: Skeleton | None = None, skeleton: Skeleton | None = None,
             measure: Callable[[Lifter], None] | None = None) -> LoadedLifter:
    """Build the model that a checkpoint was identified as, and load its weights.

    Args:
        measure: shows a model the training frames, of which a public file may lack the statistics.

    Raises FileError.
    """
    if saved.public:
        kind = model_class(name)
        layout, skeleton = layout or skeleton or kind.body(), skeleton or kind.body()
        found, there = kind.keypoints_of(base_state(saved)), kind.keypoints_in(layout)
        if found not in (0, there):
            raise FileError(f'{saved.path} takes {found} keypoints, but layout {layout.name} has {there}: say what it '
                            f'was trained on')
    else:
        layout, skeleton = saved.layout, saved.skeleton
    with no_more_weights_than(saved.state):
        built = build_for(saved.path, name, config, skeleton, layout).to(device)
    if not put_weights(built, saved, skeleton):
        if measure is None:
            raise FileError(f'{saved.path} lacks the statistics of its training data, which {built.title} standardises '
                            f'by: say --resume to it on that data for an epoch, and take the checkpoint of that run')
        measure(built)
    if built.samples:
        built.hypotheses = built.iterations = COUNT
    return LoadedLifter(built.eval(), name, config, layout, skeleton, dict(saved.settings), how, saved)


def put_weights(model: Lifter, saved: Checkpoint, skeleton: Skeleton) -> bool:
    """Put a checkpoint's weights into a model; return whether it has the statistics too that `measure` takes.

    Raises FileError, naming both sides, unless every weight has its place.
    """
    state, lacking = saved.state, []
    if saved.public:
        before, kind = base_prefix(saved.config), model.core
        base = kind.from_public(base_state(saved), skeleton)
        state = {before + key: value for key, value in base.items()} | {
            key: value for key, value in state.items() if not key.startswith(before)}
        own = model.state_dict()
        lacking = [before + key for key in kind.measured_keys if before + key not in state]
        constant = [key for key in model.constant_keys if key not in state]
        state = state | {key: own[key].cpu() for key in (*lacking, *constant)}
    load_weights(model, dataclasses.replace(saved, state=state))
    return not lacking


def begin_with(model: Lifter, saved: Checkpoint, of: str) -> None:
    """Put into a fresh model what it may begin with of a checkpoint of the model called `of`.

    Raises FileError, naming both sides, where that has another shape.
    """
    begun = {key: value for key, value in saved.state.items() if key.startswith(model.begins_with[of])}
    fresh = {key: value.cpu() for key, value in model.state_dict().items()}
    load_weights(model, dataclasses.replace(saved, state=fresh | begun))


def config_for(path: Path, name: str, sizes: Mapping[str, Any]) -> Any:
    """Return the Config that the file at `path` describes. Raises FileError where there cannot be such a model."""
    try:
        return make_config(name, sizes)
    except ValueError as error:
        raise FileError(f'{path} describes a model that cannot be built: {one_line(error, 300)}') from None


def build_for(path: Path, name: str, config: dict[str, Any], skeleton: Skeleton, layout: Skeleton,
              **rates: float) -> Lifter:
    """Build the model that the file at `path` describes. Raises FileError where that cannot be."""
    try:
        return build_model(name, config, skeleton, layout, **rates)
    except ContractError:
        raise
    except ValueError as error:
        raise FileError(f'{path} describes a model that cannot be built: {one_line(error, 300)}') from None
