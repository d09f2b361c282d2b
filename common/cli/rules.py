"""Rules across flags. One says it of all: a flag is refused by a command that would ignore it."""

import os

from common.config import CHECK_DATA, PREDICT, RENDER, SECTIONS, TRAIN, Config, Flag, all_flags
from common.datasets import DATASETS

# Files that are read, and those that are written: none of these may be written over one of the others.
READ = ('predict.predict', 'render.video', 'render.compare', 'evaluate.evaluate', 'train.init')
WRITTEN = ('predict.npz', 'predict.csv', 'evaluate.results', 'evaluate.export_predictions', 'render.output',
           'render.export')
WITHOUT_EVALUATION = 'the evaluation that --no-eval leaves out'


def problem(config: Config) -> str | None:
    """Return what is wrong with a command line, in one sentence with the remedy; None where nothing is."""
    for rule in (_not_for_this_command, _excluded, _needed, _lacking, _written_over):
        if found := rule(config):
            return found
    return None


def value_of(config: Config, name: str):
    """Return the value of a field named `section.field`."""
    section, _, field = name.partition('.')
    return getattr(getattr(config, section), field)


def spelled(config: Config, name: str, flag: Flag) -> str:
    """Return how the command line said a flag: by its opposite, where it has one, if it was that."""
    return flag.names[1] if flag.kind == 'either' and not value_of(config, name) else flag.name


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
    command = config.command
    for name, flag in _given(config):
        if command in flag.commands:
            continue
        if command == TRAIN:
            if flag.commands == (RENDER, PREDICT) or (RENDER in flag.commands and name.startswith('render.')):
                return f'{flag.name} needs --render'
            if PREDICT in flag.commands and name.startswith('predict.'):
                return f'{flag.name} is for --predict: say what to lift'
            return f'{flag.name} needs the checkpoint that --evaluate names'
        asked = f'--{command.replace("_", "-")}'
        if flag.starts:
            return f'{asked} and {flag.names[-1]} exclude each other'
        if RENDER in flag.commands and name.startswith('render.') and command != PREDICT:
            return f'{flag.name} needs --render'
        if PREDICT in flag.commands and name.startswith('predict.'):
            return f'{flag.name} is for --predict: say what to lift'
        return f'{spelled(config, name, flag)} is not for {asked}, which would ignore it: leave it out'
    return None


def _excluded(config: Config) -> str | None:
    for name, flag in _given(config):
        for excluded in flag.excludes:
            other, its_flag = _field(excluded, name)
            if config.has(other):
                return f'{flag.name} and {its_flag.name} exclude each other'
    return None


def _needed(config: Config) -> str | None:
    for name, flag in _given(config):
        if flag.needs is None or (flag.needs == 'eval' and config.command != TRAIN):
            continue
        other, its_flag = _field(flag.needs, name)
        if not value_of(config, other):
            return f'{flag.name} needs {WITHOUT_EVALUATION if flag.needs == "eval" else its_flag.name}'
    return None


def _lacking(config: Config) -> str | None:
    """Return what a command lacks that it cannot do without."""
    render, predict, evaluated = config.render, config.predict, config.evaluate.evaluate
    drawn_only = not DATASETS[config.data.dataset].truth
    lens = predict.intrinsics or predict.fov
    for wrong, message in (
            (drawn_only and config.command != CHECK_DATA
             and not (render.render and evaluated and config.has('data.keypoints')),
             f'-d {config.data.dataset} is 2D without 3D, which can only be drawn and exported: say -k NAME --evaluate '
             'FILE --render'),
            (config.command == PREDICT and not evaluated, '--predict needs --evaluate FILE, the checkpoint to lift '
             'with'),
            (config.command == PREDICT and not predict.npz, '--predict needs --output FILE.npz'),
            (render.render and not evaluated, '--render needs the checkpoint that lifts: name it with --evaluate FILE'),
            (config.command == RENDER and not (render.output or render.export),
             '--render needs --viz-output FILE or --viz-export FILE'),
            (config.command == PREDICT and render.render and not render.output, '--render needs --viz-output FILE'),
            (render.bitrate and not (render.output or '').endswith('.mp4'),
             '--viz-bitrate needs a --viz-output that ends in .mp4'),
            (predict.trajectory and not lens, '--trajectory needs the lens: --intrinsics FX FY CX CY in pixels, or '
             '--fov DEGREES'),
            (config.model.refine and not (evaluated or config.train.resume or config.train.init),
             '--refine needs a trained model to stand behind: name its checkpoint with --init FILE')):
        if wrong:
            return message
    return None


def _written_over(config: Config) -> str | None:
    """Return which file would be written over another one."""
    seen: dict[str, str] = {}
    for name in (*READ, *WRITTEN):
        value = value_of(config, name)
        section, _, field = name.partition('.')
        spelled = SECTIONS[section].__dataclass_fields__[field].metadata['flag'].name
        path = value and os.path.realpath(value)
        if path in seen and name in WRITTEN:
            return f'{spelled} {value} is also {seen[path]}: choose another name'
        if path:
            seen[path] = spelled
    return None
