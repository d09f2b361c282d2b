"""A command under way: its configuration, device and processes; and what commands check before they begin."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from common.config import EXPORT_MODEL, TRAIN, Config, flag_of
from common.datasets import DATASETS, DEFAULT_DATASET
from common.datasets.poses import PoseDataset
from common.datasets.virtual_views import seen_anew
from common.distributed import World
from common.errors import FileError, FlagError
from common.flag import listed
from common.models import MODELS, model_class
from common.models.lifter import IN_THE_PICTURE, Lifter, describe_needs
from common.models.loading import LoadedLifter, assemble, identify, learned_from, refined_by
from common.models.stored import base_state
from common.recipe import KEYPOINTS
from common.sequences import Sequence as Take
from common.skeleton import H36M, H36M16, SKELETONS, VIEWED, Skeleton
from common.storage import checkpoint
from common.storage.checkpoint import Checkpoint
from common.store import SequenceStore
from common.training.resumed import check_settings


@dataclass(frozen=True)
class Session:
    """A command under way: its flags, device and processes, and how it speaks (only the first process does)."""

    config: Config
    device: torch.device
    world: World
    say: Callable[[str], None]

    def alone(self, what: str) -> None:
        """Raise FlagError where several processes run a command that is one process's."""
        if self.world.size > 1:
            raise FlagError(f'{what} runs in one process: start it without torchrun')


def choose_device(name: str) -> torch.device:
    """Return the device that --device asks for. Raises FlagError for cuda where there is none."""
    if name == 'cuda' and not torch.cuda.is_available():
        raise FlagError('--device cuda: there is no CUDA device here; use --device cpu')
    return torch.device('cuda' if name != 'cpu' and torch.cuda.is_available() else 'cpu')


# ---- models -----------------------------------------------------------------------------------------------------


def check_model_flags(config: Config, name: str) -> None:
    """Raise FlagError for a flag that the model called `name` does not have."""
    kind = model_class(name)
    fields = kind.Config.__dataclass_fields__
    for size, value in config.model.sizes().items():
        if size == 'frames' and size not in fields:
            frames, _ = kind.window(kind.Config())
            if value != frames:
                raise FlagError(f'-f {value}: {name} reads windows of {frames} frame{"" if frames == 1 else "s"}, so '
                                f'that more of them would change nothing; leave -f out or take another --model')
        elif size == 'causal' and size not in fields and config.command not in (TRAIN, EXPORT_MODEL):
            continue  # of the test, not of the model
        elif size not in fields:
            raise FlagError(f'{spelling("model", size)} is not for --model {name}: leave it out')
    if config.model.diffusion and not kind.denoises:
        able = ' or '.join(other for other in MODELS if model_class(other).denoises)
        raise FlagError(f'--diffusion is not for --model {name}, which cannot read a noisy pose beside the keypoints: '
                        f'take {able}')
    if config.train.unlabelled and not kind.semi_supervised:
        raise FlagError(f'{spelling("train", "unlabelled")} is not for --model {name}: leave it out')
    asked = config.data.joints
    if config.has('data.joints') and (asked == KEYPOINTS) != (kind.recipe.joints == KEYPOINTS):
        lifts = 'tells keypoints that are hidden, and no poses' if asked != KEYPOINTS else 'lifts to poses'
        raise FlagError(f'--joints {asked}: {name} {lifts}; leave the flag out')
    for rate in ('drop_path', 'dropout'):
        if config.has(f'train.{rate}') and getattr(kind.recipe, rate) is None:
            raise FlagError(f'{spelling("train", rate)} is not for --model {name}: leave it out')


def check_sampling_flags(config: Config, name: str, sizes: Mapping[str, Any]) -> None:
    """Raise FlagError for a flag of hypotheses where the model called `name` of these sizes makes one prediction."""
    for field in ('hypotheses', 'iterations', 'by_iteration', 'windows_per_choice'):
        if config.has(f'evaluate.{field}') and not sizes.get('diffusion'):
            raise FlagError(f'{spelling("evaluate", field)} is for a model that was trained with --diffusion, and '
                            f'{name} makes one prediction: leave it out')


def named_size(config: Config, name: str) -> dict[str, Any]:
    """Return the sizes that --size gives the model called `name`. Raises FlagError where it has none of that name."""
    try:
        return dict(model_class(name).size_called(config.model.size)) if config.model.size else {}
    except ValueError as error:
        raise FlagError(f'{spelling("model", "size")} {config.model.size}: {error}') from None


def spelling(section: str, name: str) -> str:
    """Return how the command line spells a field of the configuration."""
    return flag_of(section, name).name


def said(size: str, value: Any) -> str:
    """Return the flag that gives a size this value."""
    return spelling('model', size) + ('' if isinstance(value, bool) else f' {listed(value)}')


def needed(value: str | None, flag: str) -> str:
    """Return the value of a flag that the command cannot do without. Raises FlagError where it is missing."""
    if not value:
        raise FlagError(f'{flag} is missing')
    return value


def identify_for(config: Config, saved: Checkpoint) -> tuple[str, dict[str, Any], str]:
    """Return the model of a checkpoint, its config and how it was recognised.

    Raises FileError where the file holds something else than the flags ask for, FlagError for flags that its model does
    not have.
    """
    sizes = config.model.sizes()
    name, stored, how = identify(saved, config.model.model, sizes)
    check_model_flags(config, name)
    if config.command != TRAIN:
        check_sampling_flags(config, name, stored)
    kind = model_class(name)
    had = asdict(kind.Config()) | stored  # a file from before a size could be chosen does not tell it
    for size, given in (named_size(config, name) | sizes).items():
        if size in kind.Config.__dataclass_fields__ and given != had[size]:
            flag = said(size, given) if size in sizes else said('size', config.model.size)
            raise FileError(f'{saved.path} was made with {size} {listed(had[size])}, which {flag} contradicts: '
                            f'leave the flag out or name another file')
    return name, stored, how


def read_checkpoint(config: Config, name: str) -> Checkpoint:
    """Read the checkpoint that a flag names, looked up in -c, then as a path. Raises FileError."""
    saved = checkpoint.load(checkpoint.find(name, Path(config.run.checkpoint)))
    check_settings(saved)
    return saved


def _with_refinement(config: Config, saved: Checkpoint) -> Checkpoint:
    """Return the public file of --evaluate with that of --refinement behind it, where one is asked for."""
    if not config.model.refinement:
        return saved
    refinement = read_checkpoint(config, config.model.refinement)
    if not saved.public:
        raise FileError(f'{saved.path} is a checkpoint of this program, which holds its own refinement: leave '
                        f'--refinement out')
    if not refinement.public:
        raise FileError(f'{refinement.path} is a checkpoint of this program, not a refinement alone: name it with '
                        f'--evaluate')
    return refined_by(saved, refinement)


def read_evaluated(config: Config) -> Checkpoint:
    """Read the checkpoint that --evaluate names. Raises FileError, and FlagError where the flag is missing."""
    return _with_refinement(config, read_checkpoint(config, needed(config.evaluate.evaluate, '--evaluate')))


def load_evaluated(session: Session, config: Config, saved: Checkpoint, name: str, sizes: dict[str, Any], how: str,
                   layout: Skeleton | None = None, skeleton: Skeleton | None = None,
                   measure: Callable[[Lifter], None] | None = None) -> LoadedLifter:
    """Build the model that a checkpoint was identified as; see `assemble`. Raises FileError."""
    if config.model.diffusion and not sizes.get('diffusion'):
        raise FileError(f'{saved.path} is no denoiser: leave --diffusion out, or train one with --model {name} '
                        f'--diffusion')
    if config.model.refine and not sizes.get('refine'):
        raise FileError(f'{saved.path} holds no refinement: train one behind it with --refine --init '
                        f'{config.evaluate.evaluate}, or name the public file of one with --refinement')
    return assemble(saved, name, sizes, how, session.device, layout, skeleton, measure)


def check_units(saved: Checkpoint, name: str, dataset: str) -> None:
    """Raise FileError for a checkpoint that predicts metres, or poses in the picture, where the data set has the other.

    A data set without 3D has neither.
    """
    learned = learned_from(saved, name)
    if not DATASETS[dataset].truth or (learned in IN_THE_PICTURE) == (dataset in IN_THE_PICTURE):
        return
    if learned in IN_THE_PICTURE:
        raise FileError(f'{saved.path} predicts poses in units of the picture, as {learned} has them, and {dataset} '
                        f'has metres: say -d {learned} with a file of it (data/prepare_data_{learned}.py makes one)')
    raise FileError(f'{saved.path} predicts metres, and {dataset} has poses in units of the picture: say -d '
                    f'{learned or DEFAULT_DATASET}')


def check_layouts(saved: Checkpoint, name: str, dataset: PoseDataset, joints: bool = True) -> None:
    """Raise FileError unless a checkpoint's keypoints and, where asked for, joints are those of the data set."""
    if saved.public:
        kind = model_class(name)
        found, there = kind.keypoints_of(base_state(saved)), kind.keypoints_in(dataset.layout)
        if found not in (0, there):
            raise FileError(f'{saved.path} takes {found} keypoints, but {dataset.source_2d} has {there} (layout '
                            f'{dataset.layout.name})')
        return
    for things, its, others, source in (('joints', saved.skeleton, dataset.skeleton, dataset.source_3d),
                                        ('keypoints', saved.layout, dataset.layout, dataset.source_2d)):
        if its != others and (joints or things == 'keypoints'):
            but = f'a {others.name} with another order or tree'
            if its.name != others.name:
                but = f'layout {others.name}'
            raise FileError(f'{saved.path} was made for {things} of layout {its.name}, but {source} has {but}')


def with_joints(dataset: PoseDataset, config: Config) -> PoseDataset:
    """Return the data set with the joints and the views that flags or the model's recipe ask for.

    Raises FlagError where they ask for what the data set cannot have.
    """
    data, dataset = config.data, _with_body(dataset, config)
    if data.views == 'random':
        if config.has('data.keypoints') and config.command != TRAIN:
            raise FlagError(f'-k {data.keypoints} names the keypoints of a file, and these are seen by virtual '
                            f'cameras, as in the training: say --views file, or leave -k out')
        layout = SKELETONS[data.input] if data.input in VIEWED else dataset.skeleton
        return seen_anew(dataset, layout, data.noise != 'none')
    if config.has('data.input'):
        raise FlagError(f'--input {data.input} is for --views random: -k names the keypoints of a file')
    if config.has('data.noise') and data.noise != 'none' and config.command != TRAIN:
        raise FlagError(f'--noise {data.noise} is for training, and for --views random: the keypoints of a file stay '
                        f'as they are; leave it out')
    return dataset


def _with_body(dataset: PoseDataset, config: Config) -> PoseDataset:
    """Return the data set with what --joints or the model's recipe asks for in the place of its joints."""
    asked = config.data.joints
    if asked == KEYPOINTS:
        return dataset.flattened()
    if dataset.skeleton == H36M and asked == H36M16.name:
        return dataset.without('neck', H36M16, replacing=H36M)
    if config.has('data.joints') and dataset.skeleton != SKELETONS[str(asked)]:
        raise FlagError(f'--joints {asked}: {dataset.name} has the joints of {dataset.skeleton.name}; leave the flag '
                        f'out')
    return dataset


# ---- data -------------------------------------------------------------------------------------------------------


def make_store(session: Session, config: Config, dataset: PoseDataset, subjects: Sequence[str], subset: float,
               model_needs: frozenset[str], title: str, test: bool = True) -> SequenceStore:
    """Return the selected sequences of some subjects on the device.

    Raises FlagError where the model reads what the data set does not tell, or where no frame that counts is left, and
    FileError where it reads confidence that is none.
    """
    data = config.data
    sequences = dataset.sequences(subjects, data.actions or None, data.downsample, subset)
    store = _store_of(session, dataset, sequences, subjects, model_needs, title)
    if 'confidence' in model_needs and store.confidence is None:
        session.say(f'{dataset.source_2d} tells no confidence: it is 1 for each keypoint')
    elif 'confidence' in model_needs and (problem := confidence_problem(dataset.source_2d, store.confidence)):
        raise FileError(problem)
    if test:
        _check_marks(store, subjects)
        check_scale(store, dataset, subjects)
    return store


def confidence_problem(source: str, scores: Any) -> str | None:
    """Return what is wrong with the third numbers of keypoints, an array or a tensor; None where they are confidence.

    Networks' own scores may be a little above 1.
    """
    low, high = float(scores.min()), float(scores.max())
    if 0 <= low and high <= 1.2:
        return None
    return (f'{source} has third numbers of keypoints from {low:.4g} to {high:.4g}, expected confidence from 0 to 1: '
            f'scale them, or leave them out')


def make_unlabelled_store(session: Session, config: Config, dataset: PoseDataset, needs: frozenset[str],
                          title: str) -> SequenceStore:
    """Return the 2D alone of the subjects of --unlabelled, whole takes of it, on the device.

    Raises FlagError where training with it reads what the data set does not tell, and FileError for 2D that is broken.
    """
    data, subjects = config.data, config.train.unlabelled or ()
    sequences = dataset.unlabelled(subjects, data.actions or None, data.downsample)
    return _store_of(session, dataset, sequences, subjects, needs, title)


def _store_of(session: Session, dataset: PoseDataset, takes: Sequence[Take], subjects: Sequence[str],
              needs: frozenset[str], title: str) -> SequenceStore:
    """Return takes of some subjects on the device. Raises FlagError where they do not tell what is read."""
    store = SequenceStore(takes, dataset.layout, dataset.skeleton, session.device)
    if missing := store.lacks(needs):
        raise FlagError(f'{title} reads {describe_needs(frozenset({missing}))}, which {dataset.name} does not tell for '
                        f'{",".join(subjects)}: it needs a data set with calibrated cameras')
    return store


def check_scale(store: SequenceStore, dataset: PoseDataset, subjects: Sequence[str]) -> None:
    """Raise FlagError for sequences of poses in the picture of which nothing tells how large the people are."""
    if dataset.name in IN_THE_PICTURE and store.units is None:
        raise FlagError(f'{dataset.source_3d} does not tell how many millimetres a pixel is (2.5d_factor) for all of '
                        f'{",".join(subjects)}: they can be trained on, not judged by')


def _check_marks(store: SequenceStore, subjects: Sequence[str]) -> None:
    """Raise FlagError for a subject none of whose frames count."""
    if store.marks is None:
        return
    counted = {subject for (subject, _, _), marks in zip(store.takes, store.marks.split(store.lengths), strict=True)
               if marks.any()}
    for subject in subjects:
        if subject not in counted:
            raise FlagError(f'no frame of {subject} that counts is left: change --downsample or --subset')


def describe_store(store: SequenceStore) -> str:
    """Return in words what a store holds."""
    subjects = ','.join(dict.fromkeys(subject for subject, _, _ in store.takes))
    counted = '' if store.marks is None else f', {int((store.marks != 0).sum()):,} of which count'
    return f'subjects {subjects}, {len(store.takes):,} sequences, {len(store):,} frames{counted}'


def check_test_flags(config: Config) -> None:
    """Raise FlagError for a flag that means nothing in the test of the data set."""
    dataset = config.data.dataset
    marked, only, asked = DATASETS[dataset].marked, DATASETS[dataset].protocol, config.evaluate.protocol
    if asked and only and asked != only:
        raise FlagError(f'--protocol {asked}: -d {dataset} is tested by {only} alone, as the true depth of the root '
                        f'gives the scale: leave the flag out')
    if asked and asked != only and (of := [name for name in IN_THE_PICTURE if asked == DATASETS[name].protocol]):
        raise FlagError(f'--protocol {asked} is for -d {of[0]}: {dataset} tells no pose in the picture and no factor '
                        f'to its size; data/prepare_data_{of[0]}.py makes such a file of npz files with cameras')
    overlapping = config.evaluate.target == 'overlap'
    if overlapping and only:
        raise FlagError(f'--target overlap: -d {dataset} is tested on the windows that {only} has: leave it out')
    if overlapping and asked == 'paper':
        raise FlagError('--target overlap takes the mean of what windows say of a frame, and --protocol paper counts '
                        'each of them: leave --protocol out')
    for name in ('protocol', 'by_subject') if marked else () if overlapping else ('target',):
        if config.has(f'evaluate.{name}'):
            instead = 'its table has the rows of its own test, see --target' if marked else 'see --protocol'
            raise FlagError(f'{spelling("evaluate", name)} means nothing for -d {dataset}: {instead}')
    exported = config.evaluate.export_predictions or ''
    if not marked and exported.endswith('.mat'):
        raise FlagError(f'--export-predictions {exported}: expected a name that ends in .npz; .mat is for the test '
                        f'script of a data set that marks its frames')


def with_names(config: Config, dataset: PoseDataset) -> Config:
    """Return the configuration with the names by which the data set was read, defaults included.

    Keypoints that virtual cameras see are none of its files'.
    """
    keypoints = dataset.keypoints if dataset.anew is None else config.data.keypoints
    return replace(config, data=replace(config.data, dataset=dataset.name, keypoints=keypoints))
