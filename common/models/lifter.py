"""The contract of a model: what every lifter is to the rest of the program.

Everything outside this package works through `Lifter` and never asks which model it has. Letters: B windows, F frames
of a window, A frames that it answers for, K keypoints in, J joints out, T frames of a clip.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, cast

import numpy as np
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from common.augment import Batch, Mirror
from common.errors import ContractError
from common.recipe import Published, Recipe, RefinementRecipe
from common.skeleton import H36M, SKELETONS, Skeleton
from common.windows import chunk_starts

Criterion = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# All that a model may read besides keypoints, in the words that stand beside its figures.
NEEDS = {
    'confidence': "the detector's confidence in each keypoint",
    'intrinsic': "each camera's focal length and centre",
    'root': 'the true position of the root joint in every frame',
    'root_depth': 'the true depth of the root joint in every frame',
}
# What a choice among predictions may read besides.
OF_CHOICES = {'answer': 'the true pose, by which it chooses', 'distortion': "each lens's distortion"}

# Data sets whose targets are no metres in camera axes but a pose in the picture's normalised units, which has no scale:
# the true depth of the root gives one. What is learned from them and from others does not compare.
IN_THE_PICTURE = frozenset({'motion3d'})


class ModelConfig(Protocol):
    """The sizes of a model: a frozen dataclass of fields with defaults, which raises ValueError for what cannot be.

    Where several sizes are published, a class attribute `named` has their names -> the fields that make them.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __init__(self, **sizes: Any) -> None: ...


class PublicConfig(ModelConfig, Protocol):
    """The sizes of a model with public files: those of a model that has `public_keys`.

    Where a public file does not tell all of them, a class attribute `not_in_a_file` names the others.
    """

    @classmethod
    def from_state(cls, state: dict[str, torch.Tensor]) -> ModelConfig:
        """Read the sizes from the shapes of a public state dict. Raises ValueError for another model's weights."""


# Frames in one forward pass, mirrored ones not counted: enough to fill the device, little enough to fit.
FRAMES_PER_BATCH = {'cpu': 1024, 'cuda': 4096}
ONLY = 'predicted'  # what the prediction of a model is called that makes no other


def describe_needs(needs: frozenset[str]) -> str:
    """Return what a prediction reads besides the keypoints, in words; empty where it reads nothing else."""
    return ', and '.join((NEEDS | OF_CHOICES)[need] for need in sorted(needs))


class Lifter(nn.Module):
    """A model that lifts 2D keypoints to 3D poses. A model overrides as little of this as it can.

    Class attributes, beside the model's code:
        title: its name in print.
        Config: a `ModelConfig`, with a default for each size; it is what a checkpoint stores.
        recipe: the training of its publication.
        refinement: the training of a refinement behind it; that of HTNet's unless the model says otherwise.
        public_keys: keys that all public files of the model have, and no other model's; empty where there are none.
            With them goes `Config.from_state(state)`, which reads the sizes from a public state dict.
        absent_keys: keys that no public file of the model has, where another model has all of its `public_keys`.
        public_data: the data set whose targets the public files of the model predict, where these are not metres in
            camera axes.
        fewest: windows that a training step needs at least: 2 for a model whose batch norms see one position of each
            window. A shorter rest at the end of an epoch joins the step before it.
        measured: whether it is shown all training frames before a training (`measure`).
        measured_keys: buffers that `measure` fills and public files lack.
        mirrored_at_random: whether each training window is mirrored or not by chance whenever it is drawn, instead of
            coming a second time, mirrored.
        denoises: whether its class takes `noisy=True`, which makes it a denoiser: `forward` then takes (B, F, K, 5),
            a noisy pose beside each keypoint, and the time (B,) of each window's noise.
        semi_supervised: whether windows without truth can teach it too, by where its poses project to, beside a second
            network of its class that finds the root.
        samples: whether it makes several hypotheses of each window, refined in several iterations (`sampled`).
        constant_keys: buffers that are as a fresh model has them where a public file lacks them.
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
        needs_to_learn: what training windows tell besides keypoints and truth; `needs` unless the model says otherwise.
        needs_beside: what the windows without truth of `loss_beside` tell besides keypoints.
        hypotheses, iterations: how many of each, where it `samples`.
        tokens: the dtype of tokens between embedding and head; None for that of the weights.
        recompute: whether training forgets what happens inside a block and computes it again on the way back.
    """

    title: str
    Config: ClassVar[type[ModelConfig]]
    recipe: Recipe
    refinement: ClassVar[RefinementRecipe] = RefinementRecipe()
    public_keys: ClassVar[tuple[str, ...]] = ()
    absent_keys: ClassVar[tuple[str, ...]] = ()
    public_data: ClassVar[str | None] = None
    fewest: int = 1
    measured: bool = False
    measured_keys: ClassVar[tuple[str, ...]] = ()
    mirrored_at_random: bool = False
    denoises: ClassVar[bool] = False
    semi_supervised: ClassVar[bool] = False
    samples: ClassVar[bool] = False
    constant_keys: ClassVar[tuple[str, ...]] = ()
    begins_with: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    paper: ClassVar[str] = ''
    results: ClassVar[tuple[Published, ...]] = ()
    published: ClassVar[Mapping[tuple[str, str], tuple[str, dict[str, float]]]] = {}

    frames: int
    answers: range
    supervised: range | None = None
    spacing: int = 1
    needs: frozenset[str] = frozenset()
    needs_beside: frozenset[str] = frozenset()
    hypotheses: int = 1
    iterations: int = 1
    tokens: torch.dtype | None = None
    recompute: bool = False

    def __init__(self, config: Any):
        """Set what a window reads and what comes out of it. A model's own __init__ begins with this."""
        super().__init__()
        self.frames, self.answers = self.window(config)
        self.spacing = getattr(config, 'spacing', 1)

    @property
    def needs_to_learn(self) -> frozenset[str]:
        """Return what training windows tell besides keypoints and truth, of NEEDS."""
        return self.needs

    @classmethod
    def window(cls, config: Any) -> tuple[int, range]:
        """Return how many frames a window of a model of this config has, and those of them that come out.

        Here: `config.frames`, or 1 where it has no such field, and all of them.
        """
        frames = getattr(config, 'frames', 1)
        return frames, range(frames)

    @classmethod
    def size_called(cls, name: str) -> Mapping[str, Any]:
        """Return the fields of the Config that make a published size, by its name (`Config.named`).

        Raises ValueError where there is none of that name.
        """
        sizes: Mapping[str, Mapping[str, Any]] = getattr(cls.Config, 'named', {})
        if name not in sizes:
            others = f'it has {", ".join(sizes)}' if sizes else 'its sizes have no names'
            raise ValueError(f'{cls.title} has no published size {name}: {others}')
        return sizes[name]

    def window_for(self, count: int) -> tuple[int, range]:
        """Return the window that answers for `count` neighbouring frames: its frames, and those that come out.

        Here: the one window that there is, whatever the count. A network of convolutions over time, which can answer
        for any number of frames, says how many it then reads: -s of them are asked for in training, long pieces at
        test.
        """
        return self.frames, self.answers

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Make ready for the steps of an epoch, counted from 1, of so many; for what changes from epoch to epoch."""

    def begin_step(self, seed: int, windows: int, part: slice) -> None:
        """Make ready for a training step: draw what must not depend on how many processes share it.

        Args:
            seed: the same in all processes. windows: of the whole step. part: those of them that this process has.
        """

    def training_starts(self, length: int, answered: int, step: int | None = None) -> np.ndarray:
        """Return where the answers of the training windows of one sequence start, int64.

        Here: so that they tile the sequence, what they overhang shared by both ends.

        Args:
            length: frames of the sequence. answered: neighbouring frames that a window answers for.
            step: frames from window to window; None for the model's own.
        """
        return chunk_starts(length, answered, step)

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

    def loss_beside(self, batch: Batch, beside: Batch, criterion: Criterion) -> torch.Tensor:
        """Return the loss of a training batch and of windows without truth beside it, a scalar."""
        raise NotImplementedError

    def lift(self, view: Batch, mirror: Mirror | None) -> dict[str, torch.Tensor]:
        """Return predictions by name, each (B, A, J, 3) metres; the last one is the headline.

        One prediction, unless the model says otherwise: the mean of the plain and the mirrored-and-back pose, or the
        plain one where there is no mirror.
        """
        if mirror is None:
            return {ONLY: self.read(view)}
        both, windows = self.read(view.beside(mirror.batch(view))), view.keypoints.shape[0]
        check_shape(self, both, (2 * windows, *both.shape[1:2], len(mirror.joints), 3))
        plain, mirrored = both[:windows], both[windows:]
        return {ONLY: (plain + mirror.poses(mirrored)) / 2}

    def sampled(self, view: Batch, mirror: Mirror | None, every: bool = False) -> torch.Tensor:
        """Return the hypotheses (B, k, P, A, J, 3) of a model that `samples`, metres.

        Those after the last iteration, k = 1, or after `every` one, k = K.
        """
        raise NotImplementedError

    @property
    def core(self) -> Lifter:
        """Return the model whose weights a public file of it holds beside those of what is around it."""
        return self

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
    def config_of(cls, state: dict[str, torch.Tensor], told: Mapping[str, Any] | None = None) -> ModelConfig:
        """Return the Config of a public state dict, of a model that has `public_keys`: see `PublicConfig`.

        Args:
            told: sizes of `not_in_a_file`, for a model in which the meaning of shapes depends on them.
        """
        return cast('type[PublicConfig]', cls.Config).from_state(state)

    @classmethod
    def body(cls) -> Skeleton:
        """Return the joints that the model was published with, those of public files that nothing else is said of.

        Here: those of its recipe, or Human3.6M's.
        """
        return SKELETONS.get(cls.recipe.joints or '', H36M)

    @classmethod
    def keypoints_of(cls, state: Mapping[str, torch.Tensor]) -> int:
        """Return for how many keypoints a public state dict was made, 0 where its weights fit any number of them.

        Here: axis 1 of its first public key.
        """
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
    unknown = sorted({*model.needs, *model.needs_to_learn, *model.needs_beside} - set(NEEDS))
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


def usual_heads(channels: int) -> int:
    """Return the heads that a file does not tell: the usual 8, or fewer where these do not divide the channels."""
    return math.gcd(channels, 8)


def shape_in(state: Mapping[str, torch.Tensor], key: str, dimensions: int) -> tuple[int, ...]:
    """Return the shape of a weight of a public file. Raises ValueError unless it is there, with these dimensions."""
    if key not in state:
        raise ValueError(f'{key} is missing')
    if state[key].ndim != dimensions:
        raise ValueError(f'{key} has {state[key].ndim} dimensions, expected {dimensions}')
    return tuple(state[key].shape)


def describe_model(model: Lifter) -> str:
    """Return a model in a few words: its name and how much it sees."""
    return f'{model.title}, {model.frames} frame{"" if model.frames == 1 else "s"}'
