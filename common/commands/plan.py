"""Planning a training run: from flags and checkpoints to a decided configuration, before any data is read."""

import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.commands.outputs import check_outputs
from common.commands.session import (
    Session,
    check_model_flags,
    check_sampling_flags,
    check_test_flags,
    check_units,
    identify_for,
    named_size,
    read_checkpoint,
    said,
    spelling,
)
from common.config import Config, all_flags
from common.errors import FileError, FlagError
from common.models import computing, make_config, model_class, recipe_of
from common.models.loading import identify
from common.models.recipes import PUBLISHED, usual_model, values_of
from common.recipe import KEYPOINTS
from common.settings import in_flags, resolve
from common.storage.checkpoint import Checkpoint, OwnCheckpoint
from common.training.folder import check_folder, load_resumed

# The settings that decide of which windows the steps of an epoch are made, and what is added up over them.
STEP_SETTINGS = ('dataset', 'keypoints', 'subjects_train', 'subjects_valid', 'actions', 'subset', 'downsample', 'seed',
                 'batch', 'stride', 'augment', 'window_step', 'loss', 'l1_share', 'objective', 'joints', 'unlabelled',
                 'warmup_epochs', 'views', 'input', 'noise')
# The settings that decide on which frames an epoch is judged.
JUDGE_SETTINGS = ('dataset', 'keypoints', 'subjects_valid', 'subjects_test', 'actions', 'downsample', 'root', 'flip',
                  'joints', 'views', 'input', 'noise')


@dataclass
class Plan:
    """A run that is decided on.

    Attributes:
        config: the configuration with every setting decided.
        name, sizes: the model, and the config that a checkpoint stores of it.
        resumed: the checkpoint that is continued. initial: the one whose weights are taken.
        folder: of the run's checkpoints.
        begun: the model that `initial` is of, where it is another one, of which this one takes a part.
        run_id: what stays the same however often a run is resumed.
    """

    config: Config
    name: str
    sizes: dict[str, Any]
    resumed: Checkpoint | None
    initial: Checkpoint | None
    folder: Path
    run_id: str
    begun: str | None = None

    @property
    def source(self) -> Checkpoint | None:
        """Return the checkpoint that weights come from."""
        return self.resumed or self.initial

    @property
    def own(self) -> OwnCheckpoint | None:
        """Return the checkpoint that is continued where it is of this program, and tells of its run; else None."""
        return None if self.resumed is None or self.resumed.public else self.resumed


def make_plan(session: Session) -> Plan:
    """Read the checkpoints that flags name, decide all settings, and check what can be checked without data.

    Raises FileError, and FlagError for flags that ask for what cannot be.
    """
    given = session.config
    folder = Path(given.run.checkpoint)
    resumed = load_resumed(given.train.resume, folder, session.say) if given.train.resume else None
    initial = read_checkpoint(given, given.train.init) if given.train.init else None
    source = resumed or initial
    recipe = resumed.settings.get('recipe', PUBLISHED) if resumed else given.train.recipe
    if resumed and given.has('train.recipe') and given.train.recipe != recipe:
        raise FlagError(f'--recipe {given.train.recipe}: {resumed.path} goes on with the recipe {recipe}, by which it '
                        f'was begun; leave the flag out, or say --init to begin anew from its weights')
    begun, known = _begun(given, initial)
    if source is None or begun:
        if begun and given.model.refine:
            raise FlagError(f'--refine starts from a trained model, and {given.train.init} holds a part of one')
        name = given.model.model or usual_model(recipe)
        check_model_flags(given, name)
        sizes = _fresh_sizes(given, name, _named(recipe, name), known)
    else:
        name, sizes, _ = identify_for(given, source)
        if given.model.refine and initial and model_class(name).recipe.joints == KEYPOINTS:
            raise FlagError(f'--refine stands behind a model of poses, and {source.path} tells keypoints: train '
                            f'one with --model and --init {given.train.init} first')
    sizes = _with_parts(given, sizes, resumed, initial)
    check_sampling_flags(given, name, sizes)
    refined = bool(sizes.get('refine'))
    model = make_config(name, sizes)
    _, answers = model_class(name).window(model)
    named = _named(recipe, name, getattr(model, 'channels', None))
    config = resolve(given, recipe_of(name, sizes), len(answers), resumed.settings if resumed else None, named)
    run_id = session.world.told(uuid.uuid4().hex) if resumed is None or resumed.public else resumed.run_id
    if sizes.get('trajectory') and not config.train.unlabelled:
        raise FlagError(f'{given.train.resume} learns from subjects whose 2D alone is used: name those of '
                        f'-d {config.data.dataset} with --unlabelled')
    plan = Plan(config, name, sizes, resumed, initial, folder, run_id, begun)
    _check(session, plan, refined)
    if named:
        decided = sizes | config.settings()
        session.say(f'recipe {recipe}: {in_flags({field: v for field, v in named.items() if decided[field] == v})}')
    return plan


def _named(recipe: str, model: str, channels: int | None = None) -> dict[str, Any]:
    """Return the values of a recipe for a model of a width. Raises FlagError for that of another one."""
    try:
        return values_of(recipe, model, channels)
    except ValueError as error:
        raise FlagError(str(error)) from None


def _with_parts(given: Config, sizes: dict[str, Any], resumed: Checkpoint | None,
                initial: Checkpoint | None) -> dict[str, Any]:
    """Return the config of a model with what flags put around it: a refinement, or what unlabelled subjects need.

    The weights of --init are taken without what only unlabelled subjects need. Raises FlagError for what a resumed run
    cannot become.
    """
    if given.model.diffusion and (source := resumed or initial) and not sizes.get('diffusion'):
        raise FlagError(f'{source.path} is no denoiser, whose first layer reads more: start --diffusion from fresh '
                        f'weights, or from those of a denoiser')
    if given.model.diffusion:
        sizes = sizes | {'diffusion': True}
    if given.model.refine and sizes.get('diffusion'):
        raise FlagError('--refine stands behind a model that makes one prediction, not behind a diffusion')
    if resumed is None:
        sizes = {name: value for name, value in sizes.items() if name != 'trajectory'}
    for asked, part, flag in ((given.model.refine, 'refine', '--refine starts'),
                              (given.train.unlabelled, 'trajectory', '--unlabelled begins')):
        if asked and resumed and not sizes.get(part):
            raise FlagError(f'{flag} from a trained model: say --init {given.train.resume}, not --resume')
        if asked:
            sizes = sizes | {part: True}
    return sizes


def _begun(given: Config, initial: Checkpoint | None) -> tuple[str | None, dict[str, Any]]:
    """Return the other model that --init is of, where the one of --model may begin with a part of it, and its sizes."""
    if initial is None or given.model.model is None or not model_class(given.model.model).begins_with:
        return None, {}
    found, sizes, _ = identify(initial, sizes=given.model.sizes())
    return (found, sizes) if found in model_class(given.model.model).begins_with else (None, {})


def _fresh_sizes(config: Config, name: str, by_recipe: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """Return the config of a new model: as flags have it, else as `known`, else as a recipe has it.

    Raises FlagError where it cannot be.
    """
    own, given = model_class(name).Config.__dataclass_fields__, config.model.sizes()
    wanted = by_recipe | known | named_size(config, name) | given
    try:
        return asdict(make_config(name, {size: v for size, v in wanted.items() if size in own}))
    except ValueError as error:
        flags = ' '.join(said(size, value) for size, value in given.items())
        others = [said(size, value) for size, value in by_recipe.items() if size in own and size not in given]
        beside = f', beside {" ".join(others)} of --recipe {config.train.recipe}' if others else ''
        raise FlagError(f'{flags}{beside}: {error}') from None


def _check(session: Session, plan: Plan, refined: bool) -> None:
    """Raise FlagError for flags that other settings leave nothing to say, FileError for folders that cannot be used."""
    given, train = session.config, plan.config.train
    if plan.resumed is not None:  # --init may begin with weights of either kind
        check_units(plan.resumed, plan.name, plan.config.data.dataset)
    _check_recipe(given, plan, refined)
    check_outputs(plan.config)
    check_test_flags(plan.config)
    for section, field, flag in all_flags() if not train.eval else ():
        if flag.needs == 'eval' and given.has(f'{section}.{field}'):
            raise FlagError(f'{flag.name} needs the evaluation that the resumed run leaves out: say --eval')
    _check_mid_epoch(plan)
    check_folder(plan.folder, plan.resumed, given.train.overwrite)
    initial = plan.initial
    if initial is not None and given.train.overwrite and initial.path.parent.resolve() == plan.folder.resolve():
        raise FileError(f'--overwrite would delete {initial.path}, which --init starts from: choose another -c')
    if train.unlabelled:
        session.alone('--unlabelled')
    elif given.has('train.warmup_epochs'):
        raise FlagError('--warmup-epochs needs --unlabelled')
    computing.check(plan.config.run.precision, session.device)
    if train.windows < session.world.size:
        raise FlagError(f'a step of {train.windows} windows cannot be shared by {session.world.size} processes: raise '
                        f'-b or start fewer')


def _check_recipe(given: Config, plan: Plan, refined: bool) -> None:
    """Raise FlagError for settings of the training that contradict each other, or the checkpoint that is continued."""
    train = plan.config.train
    for name in ('lr_decay', 'lr_decay_steps', 'lr_drop_every', 'lr_drop') if train.schedule == 'cosine' else ():
        if given.has(f'train.{name}'):
            raise FlagError(f'{spelling("train", name)} is for a rate that decays, and this one falls by a cosine '
                            f'(--schedule cosine, or --recipe): leave it out, or say --schedule exp')
    if given.has('train.lr_drop') and not train.lr_drop_every:
        raise FlagError('--lr-drop needs --lr-drop-every N, which says when')
    kind = model_class(plan.name)
    if train.windows < kind.fewest:
        raise FlagError(f'-b {train.batch} with -s {train.stride} makes steps of {train.windows} windows, and '
                        f'{kind.title} needs {kind.fewest}: raise -b')
    if refined and given.has('train.loss'):
        raise FlagError('a refinement has a loss of its own: leave --loss out')
    if plan.own is not None:
        had = _saved(plan.own, plan.name, 'optimizer')
        if train.optimizer != had:
            raise FlagError(f'--optimizer {train.optimizer}: {plan.own.path} holds the state of {had}; say --init to '
                            f'start another')


def _saved(resumed: OwnCheckpoint, name: str, setting: str) -> Any:
    """Return a setting of a checkpoint of ours; files from before there was a choice have that of their model."""
    usual = recipe_of(name, resumed.config).values().get(setting, Config().settings()[setting])
    return resumed.settings.get(setting, usual)


def changed_settings(plan: Plan, names: tuple[str, ...]) -> list[str]:
    """Return the settings in which a resumed run differs from its checkpoint."""
    own, settings = plan.own, plan.config.settings()
    return [] if own is None else [name for name in names if settings[name] != _saved(own, plan.name, name)]


def _check_mid_epoch(plan: Plan) -> None:
    """Raise FlagError when a checkpoint lies inside an epoch whose other steps would be made of other windows."""
    own, changed = plan.own, changed_settings(plan, STEP_SETTINGS)
    if own is not None and changed and own.stored.get('step'):
        raise FlagError(f'{own.path} lies inside an epoch, at step {own.stored["step"]}: {changed[0]} cannot change '
                        f'before it ends')
