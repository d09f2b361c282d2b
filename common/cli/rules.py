"""Rules across flags. One says it of all: a flag is refused by a command that would ignore it."""

import os
from pathlib import Path

from common.cli.unsaid import SHIPPED_UNLESS_NAMED
from common.config import CHECK_DATA, EVALUATE, PREDICT, RENDER, TRAIN, Config, all_flags, flag_of
from common.datasets import DATASETS
from common.detectors import camera_of, videos_in
from common.flag import Flag, files_named
from common.models.recipes import usual_model, values_of
from common.settings import of_a_run

# Files that are read, and those that are written: none of these may be written over one of the others.
READ = ('predict.predict', 'render.video', 'render.compare', 'evaluate.evaluate', 'train.init')
WRITTEN = ('predict.npz', 'predict.csv', 'predict.export', 'evaluate.results', 'evaluate.export_predictions',
           'render.output', 'render.export', 'run.export_model')
WITHOUT_EVALUATION = 'the evaluation that --no-eval leaves out'


def problem(config: Config) -> str | None:
    """Return what is wrong with a command line, in one sentence with the remedy; None where nothing is."""
    for rule in (_not_for_this_command, _excluded, _by_recipe, _needed, _lacking, _written_over):
        if found := rule(config):
            return found
    return None


def spelled(config: Config, name: str, flag: Flag) -> str:
    """Return how the command line said a flag: by its opposite, where it has one, if it was that."""
    return flag.names[1] if flag.kind == 'either' and not config.value(name) else flag.name


def _given(config: Config) -> list[tuple[str, Flag]]:
    """Return (section.field, flag) of the flags that were given, in the order of the help."""
    return [(f'{section}.{name}', flag) for section, name, flag in all_flags() if config.has(f'{section}.{name}')]


def _field(name: str, near: str) -> tuple[str, Flag]:
    """Return (section.field, flag) of the field called `name`, in the section of the flag `near` it if it is there."""
    found = {section: flag for section, field, flag in all_flags() if field == name}
    section = near.partition('.')[0]
    section = section if section in found else next(iter(found))
    return f'{section}.{name}', found[section]


def _not_for_this_command(config: Config) -> str | None:
    """Return which flag the command would ignore, and what it is for."""
    for name, flag in _given(config):
        if config.command not in flag.commands:
            return _out_of_place(config, name, flag)
    return None


def _out_of_place(config: Config, name: str, flag: Flag) -> str:
    """Return where a flag belongs that is not for this command."""
    command, section = config.command, name.partition('.')[0]
    asked = f'--{command.replace("_", "-")}'
    if command != TRAIN and flag.starts:
        return f'{asked} and {flag.names[-1]} exclude each other'
    if section == 'render' and RENDER in flag.commands and command in (TRAIN, EVALUATE):
        return f'{flag.name} needs --render'
    if section == 'predict' and PREDICT in flag.commands:
        return f'{flag.name} is for --predict: say what to lift'
    if command == TRAIN:
        return f'{flag.name} needs the checkpoint that --evaluate names'
    return f'{spelled(config, name, flag)} is not for {asked}, which would ignore it: leave it out'


def _excluded(config: Config) -> str | None:
    """Return which two flags contradict each other."""
    for name, flag in _given(config):
        for excluded in flag.excludes:
            other, its_flag = _field(excluded, name)
            if config.has(other):
                return f'{flag.name} and {its_flag.name} exclude each other'
    return None


def _by_recipe(config: Config) -> str | None:
    """Return which flag a recipe contradicts, which model or which other flag."""
    recipe = config.train.recipe
    try:
        values = values_of(recipe, config.model.model or usual_model(recipe))
    except ValueError as error:
        return str(error)
    for section, name, flag in of_a_run():
        for excluded in flag.excludes if name in values else ():
            other, its_flag = _field(excluded, f'{section}.{name}')
            if config.has(other):
                return f'{flag.name}, which --recipe {recipe} says, and {its_flag.name} exclude each other'
    return None


def _needed(config: Config) -> str | None:
    """Return which flag does nothing without another one."""
    for name, flag in _given(config):
        if flag.needs is None or (flag.needs == 'eval' and config.command != TRAIN):
            continue
        other, its_flag = _field(flag.needs, name)
        if not config.value(other):
            return f'{flag.name} needs {WITHOUT_EVALUATION if flag.needs == "eval" else its_flag.name}'
    return None


def _lacking(config: Config) -> str | None:
    """Return what a command lacks that it cannot do without."""
    return _lacking_truth(config) or _lacking_files(config) or _lacking_details(config)


def _lacking_truth(config: Config) -> str | None:
    """Return what may be done with a data set of 2D alone, where something else is asked for."""
    if DATASETS[config.data.dataset].truth or config.command == CHECK_DATA:
        return None
    if config.render.render and config.evaluate.evaluate and config.has('data.keypoints'):
        return None
    return (f'-d {config.data.dataset} is 2D without 3D, which can only be drawn and exported: say -k NAME --evaluate '
            'FILE --render')


def _lacking_files(config: Config) -> str | None:
    """Return which file a command needs that reads or writes one."""
    render, evaluated = config.render, config.evaluate.evaluate
    if config.command in SHIPPED_UNLESS_NAMED and config.has('run.checkpoint') and not config.has('evaluate.evaluate'):
        return ('-c is the folder of a checkpoint: name that with --evaluate FILE, or leave -c out to take the shipped '
                'one')
    if config.command == PREDICT:
        source, live = config.predict.predict or '', config.predict.live
        if not config.predict.npz and not live and camera_of(source) is None and not videos_in(Path(source)):
            return ('--predict needs --output FILE.npz for all but a video, a camera, and a folder of videos without '
                    'JSON or text beside them')
        if render.render and not render.output:
            return '--render needs --viz-output FILE'
    if config.command == RENDER:
        if not evaluated:
            return '--render needs the checkpoint that lifts: name it with --evaluate FILE'
        if not (render.output or render.export):
            return '--render needs --viz-output FILE or --viz-export FILE'
    return None


def _lacking_details(config: Config) -> str | None:
    """Return what a flag needs beside it, where that is more than one other flag."""
    predict, train = config.predict, config.train
    films = [name for name in config.render.output or () if not name.endswith('.html')]
    if config.render.bitrate and not any(name.endswith('.mp4') for name in films):
        return '--viz-bitrate needs a --viz-output that ends in .mp4'
    if config.render.output and not films:
        if config.has('render.size'):
            return '--viz-size is for films: a page (--viz-output .html) is as large as its window'
        if config.render.video:
            return '--viz-video is drawn behind a film: a page (--viz-output .html) holds no pictures'
    if predict.trajectory and not (predict.intrinsics or predict.fov):
        return '--trajectory needs the lens: --intrinsics FX FY CX CY in pixels, or --fov DEGREES'
    if config.model.refine and not (config.evaluate.evaluate or train.resume or train.init):
        return '--refine needs a trained model to stand behind: name its checkpoint with --init FILE'
    if config.has('evaluate.overlap') and config.command != PREDICT and config.evaluate.target != 'overlap':
        return '--overlap needs --target overlap, the table of windows that overlap'
    return None


def _written_over(config: Config) -> str | None:
    """Return which file would be written over another one."""
    seen: dict[str, str] = {}
    for name in (*READ, *WRITTEN):
        section, _, field = name.partition('.')
        spelled = flag_of(section, field).name
        for value in files_named(config.value(name)):
            path = os.path.realpath(value)
            if path in seen and name in WRITTEN:
                return f'{spelled} {value} is also {seen[path]}: choose another name'
            seen[path] = spelled
    return None
