"""The contract of a model: what every lifter is to the rest of the program, and how one is loaded.

Everything outside this package works through `Lifter` and never asks which model it has. Letters: B windows, F frames
of a window, A frames that it answers for, K keypoints in, J joints out, T frames of a clip.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast

import numpy as np
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from common.augment import Batch, Mirror
from common.errors import ContractError, FileError
from common.models import DEFAULT_MODEL, MODELS, build_model, make_config, model_class
from common.models.stored import check_config, fault_in_types, no_more_weights_than
from common.recipe import Published, Recipe
from common.skeleton import H36M, Skeleton
from common.storage.checkpoint import Checkpoint, load_weights
from common.storage.checkpoint import load as read_checkpoint
from common.storage.files import one_line

Criterion = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# All that a model may read besides keypoints, in the words that stand beside its figures.
NEEDS = {
    'confidence': "the detector's confidence in each keypoint",
    'intrinsic': "each camera's focal length and centre",
    'root': 'the true position of the root joint in every frame',
    'root_depth': 'the true depth of the root joint in every frame',
}


class ModelConfig(Protocol):
    """The sizes of a model: a frozen dataclass of fields with defaults, which raises ValueError for what cannot be."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __init__(self, **sizes: Any) -> None: ...


class PublicConfig(ModelConfig, Protocol):
    """The sizes of a model with public files: those of a model that has `public_keys`.

    Where a public file does not tell all of them, a class attribute `not_in_a_file` names the others.
    """

    @classmethod
    def from_state(cls, state: dict[str, torch.Tensor]) -> ModelConfig:
        """Read the sizes from the shapes of a public state dict. Raises ValueError for another model's weights."""


ONLY = 'predicted'  # what the prediction of a model is called that makes no other


def describe_needs(needs: frozenset[str]) -> str:
    """Return what a prediction reads besides the keypoints, in words; empty where it reads nothing else."""
    return ', and '.join(NEEDS[need] for need in sorted(needs))


class Lifter(nn.Module):
    """A model that lifts 2D keypoints to 3D poses. A model overrides as little of this as it can.

    Class attributes, beside the model's code:
        title: its name in print.
        Config: a `ModelConfig`, with a default for each size; it is what a checkpoint stores.
        recipe: the training of its publication.
        public_keys: keys that all public files of the model have, and no other model's; empty where there are none.
            With them goes `Config.from_state(state)`, which reads the sizes from a public state dict.
        fewest: windows that a training step needs at least: 2 for a model whose batch norms see one position of each
            window. A shorter rest at the end of an epoch joins the step before it.
        measured: whether it is shown all training frames before a training (`measure`).
        measured_keys: buffers that `measure` fills and public files lack.
        begins_with: the other models whose weights a fresh one may begin with, and what the keys of those begin with.
        paper: authors, title or venue, and year of its publication.
        results: its published figures, for --models.
        published: (data set, keypoints) -> (source, {action: P-MPJPE in millimetres}), for plots.

    Attributes:
        frames: F, how many frames a window has.
        answers: those frames of it that come out; all of them unless the model says otherwise in `window`.
        supervised: those frames of it whose truth `loss` reads, S of them; None for the answers.
        spacing: frames of the video from one frame of a window to the next.
        needs: what it reads besides keypoints, of NEEDS; usually nothing. Keypoints then come as (B, F, K, 3) where
            `confidence` is among them, and the others as arguments of `forward` of the same name.
        tokens: the dtype of tokens between embedding and head; None for that of the weights.
        recompute: whether training forgets what happens inside a block and computes it again on the way back.
    """

    title: str
    Config: ClassVar[type[ModelConfig]]
    recipe: Recipe
    public_keys: ClassVar[tuple[str, ...]] = ()
    fewest: int = 1
    measured: ClassVar[bool] = False
    measured_keys: ClassVar[tuple[str, ...]] = ()
    begins_with: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    paper: ClassVar[str] = ''
    results: ClassVar[tuple[Published, ...]] = ()
    published: ClassVar[Mapping[tuple[str, str], tuple[str, dict[str, float]]]] = {}

    frames: int
    answers: range
    supervised: range | None = None
    spacing: int = 1
    needs: frozenset[str] = frozenset()
    tokens: torch.dtype | None = None
    recompute: bool = False

    def __init__(self, config: Any):
        """Set what a window reads and what comes out of it. A model's own __init__ begins with this."""
        super().__init__()
        self.frames, self.answers = self.window(config)
        self.spacing = getattr(config, 'spacing', 1)

    @classmethod
    def window(cls, config: Any) -> tuple[int, range]:
        """Return how many frames a window of a model of this config has, and those of them that come out.

        Here: `config.frames`, or 1 where it has no such field, and all of them.
        """
        frames = getattr(config, 'frames', 1)
        return frames, range(frames)

    def window_for(self, count: int) -> tuple[int, range]:
        """Return the window that answers for `count` neighbouring frames: its frames, and those that come out.

        Here: the one window that there is, whatever the count. A network of convolutions over time, which can answer
        for any number of frames, says how many it then reads: -s of them are asked for in training, long pieces at
        test.
        """
        return self.frames, self.answers

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Make ready for the steps of an epoch, counted from 1, of so many; for what changes from epoch to epoch."""

    def measure(self, keypoints: torch.Tensor, poses: torch.Tensor) -> None:
        """Take in statistics of all training frames, keypoints (N, K, 2) and poses (N, J, 3), of a `measured` model."""

    def forward(self, keypoints: torch.Tensor) -> torch.Tensor:
        """Lift keypoints (B, F, K, 2), or (B, F, K, 3) with confidence, to poses (B, A, J, 3).

        Keypoints are normalised screen coordinates; poses are metres in camera axes, relative to the root.
        """
        raise NotImplementedError

    def read(self, batch: Batch) -> torch.Tensor:
        """Return the poses (B, A, J, 3) of a batch, with what the model needs besides keypoints."""
        needed = {need: getattr(batch, need) for need in self.needs if need != 'confidence'}
        return self(batch.keypoints, **needed)

    def loss(self, batch: Batch, criterion: Criterion) -> torch.Tensor:
        """Return the loss of a training batch, whose truth is (B, S, J, 3): a scalar in the unit of the criterion."""
        return criterion(self.read(batch), batch.truth)

    def lift(self, view: Batch, mirror: Mirror | None) -> dict[str, torch.Tensor]:
        """Return predictions by name, each (B, A, J, 3) metres; the last one is the headline.

        One prediction, unless the model says otherwise: the mean of the plain and the mirrored-and-back pose, or the
        plain one where there is no mirror.
        """
        if mirror is None:
            return {ONLY: self.read(view)}
        both = self.read(view.beside(mirror.batch(view)))
        check_shape(self, both, (2 * len(view.keypoints), *both.shape[1:2], len(mirror.joints), 3))
        plain, mirrored = both.chunk(2)
        return {ONLY: (plain + mirror.poses(mirrored)) / 2}

    def reads(self, name: str) -> frozenset[str]:
        """Return what the prediction called `name` reads besides keypoints, of NEEDS."""
        return self.needs

    def without_truth(self) -> Lifter:
        """Return the lifter to use where nobody knows the truth; another one only where this one reads it."""
        return self

    def through(self, block: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """Return a block's output for tokens x, saving its inner activations or computing them again in backward.

        A block with a batch norm must not go through here: computed twice, it would count every step twice.
        """
        return checkpoint(block, x, use_reentrant=False) if self.recompute and self.training else block(x)

    @classmethod
    def from_public(cls, state: dict[str, torch.Tensor], skeleton: Skeleton) -> dict[str, torch.Tensor]:
        """Return a public state dict in the keys and units of this model, which here are the same.

        Args:
            skeleton: the joints that the file is said to predict.
        """
        return state

    @classmethod
    def config_of(cls, state: dict[str, torch.Tensor]) -> ModelConfig:
        """Return the Config of a public state dict, of a model that has `public_keys`: see `PublicConfig`."""
        return cast('type[PublicConfig]', cls.Config).from_state(state)

    @classmethod
    def keypoints_of(cls, state: Mapping[str, torch.Tensor]) -> int:
        """Return for how many keypoints a public state dict was made: axis 1 of its first public key."""
        return state[cls.public_keys[0]].shape[1]

    @classmethod
    def keypoints_in(cls, layout: Skeleton) -> int:
        """Return how many keypoints of a layout the model reads: usually all."""
        return len(layout)


def check_contract(model: Lifter) -> None:
    """Raise ContractError, naming the model and what is wrong, for one that the program cannot run."""
    name = type(model).__name__
    if not isinstance(model.frames, int) or model.frames < 1:
        raise ContractError(f'{name} has windows of {model.frames!r} frames, expected a whole number of at least 1')
    answers = model.answers
    if not isinstance(answers, range) or not len(answers) or answers.step != 1 or answers.start < 0 \
            or answers.stop > model.frames:
        raise ContractError(f'{name} answers for {answers}, expected consecutive frames of its {model.frames}')
    if model.spacing < 1 or (model.spacing > 1 and len(answers) > 1):
        raise ContractError(f'{name} has frames {model.spacing} apart, and {len(answers)} answers that would not be '
                            f'neighbours: windows with gaps answer for one frame')
    read = model.supervised
    if read is not None and not (isinstance(read, range) and read.step == 1 and 0 <= read.start < read.stop
                                 <= model.frames):
        raise ContractError(f'{name} is supervised on {read}, expected consecutive frames of its {model.frames}')
    unknown = sorted(set(model.needs) - set(NEEDS))
    if unknown:
        raise ContractError(f'{name} needs {unknown[0]}, which nobody provides; known are {", ".join(NEEDS)}')


def check_shape(model: Lifter, predicted: torch.Tensor, expected: tuple[int, ...]) -> None:
    """Raise ContractError, naming both sides, unless a prediction has the shape (B, A, J, 3) it is used as."""
    if tuple(predicted.shape) != tuple(expected):
        raise ContractError(f'{type(model).__name__} predicts {tuple(predicted.shape)}, expected windows, answers, '
                            f'joints and coordinates {tuple(expected)}: nothing is broadcast')


def check_sizes(config: Any, *names: str) -> None:
    """Raise ValueError for a size of a Config that is not at least 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f'{name} is {getattr(config, name)}, expected at least 1')


def shape_in(state: Mapping[str, torch.Tensor], key: str, dimensions: int) -> tuple[int, ...]:
    """Return the shape of a weight of a public file. Raises ValueError unless it is there, with these dimensions."""
    if key not in state:
        raise ValueError(f'{key} is missing')
    if state[key].ndim != dimensions:
        raise ValueError(f'{key} has {state[key].ndim} dimensions, expected {dimensions}')
    return tuple(state[key].shape)


# ---- loading ----------------------------------------------------------------------------------------------------


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
        `skeleton.joints`. Raises ValueError for keypoints of another shape or that are not finite, and for a model that
        reads what is not given.
        """
        from common.models.lifting import lift_clip  # which needs this module
        return lift_clip(self, keypoints, size, overlap, causal, root, intrinsics)


def describe_model(model: Lifter) -> str:
    """Return a model in a few words: its name and how much it sees."""
    return f'{model.title}, {model.frames} frame{"" if model.frames == 1 else "s"}'


def recognise(state: Mapping[str, torch.Tensor]) -> str | None:
    """Return the model that a public state dict is of, by keys that each has; None where it has none of them."""
    for name in MODELS:
        keys = model_class(name).public_keys
        if keys and all(key in state for key in keys):
            return name
    return None


def identify(saved: Checkpoint, asked: str | None = None, sizes: Mapping[str, Any] | None = None) -> tuple[
        str, dict[str, Any], str]:
    """Return the model of a checkpoint, its config, and how it was recognised.

    Args:
        asked: the model that the file is said to be of, which its content must not contradict.
        sizes: what public files do not tell of the config, such as `heads`.

    Raises FileError for a file of another model, or of none.
    """
    if saved.public:
        found = recognise(saved.state)
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
    try:
        config = dataclasses.asdict(kind.config_of(saved.state))
    except (ValueError, ArithmeticError) as error:
        raise FileError(f'{saved.path} is not a {kind.title} checkpoint: {one_line(error)}') from None
    untold = getattr(kind.Config, 'not_in_a_file', ())
    return name, config | {size: value for size, value in (sizes or {}).items() if size in untold}, how


def load(path: Path, device: torch.device, model: str | None = None, layout: Skeleton | None = None,
         skeleton: Skeleton | None = None, sizes: Mapping[str, Any] | None = None) -> LoadedLifter:
    """Load a checkpoint of ours or a public one as a model ready to lift.

    Args:
        model: the model that the file is said to be of; it is recognised by itself.
        layout, skeleton: of a public file, which does not tell them: Human3.6M's 17 joints by default.
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
        layout, skeleton = layout or skeleton or H36M, skeleton or H36M
        kind = model_class(name)
        found, there = kind.keypoints_of(saved.state), kind.keypoints_in(layout)
        if found != there:
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
    return LoadedLifter(built.eval(), name, config, layout, skeleton, dict(saved.settings), how, saved)


def put_weights(model: Lifter, saved: Checkpoint, skeleton: Skeleton) -> bool:
    """Put a checkpoint's weights into a model; return whether it has the statistics too that `measure` takes.

    Raises FileError, naming both sides, unless every weight has its place.
    """
    state, lacking = saved.state, []
    if saved.public:
        state = model.from_public(dict(state), skeleton)
        own = model.state_dict()
        lacking = [key for key in model.measured_keys if key not in state]
        state = state | {key: own[key].cpu() for key in lacking}
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
