"""The command line, made from the fields of `common.config`; its text as docs/flags.md has it.

Short flags keep the names people know from VideoPose3D and KTPFormer.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, asdict
from typing import Any, NoReturn

from common import __version__
from common.cli import rules, unsaid
from common.config import SECTIONS, Config, all_flags
from common.flag import Flag, listed
from common.models import MODELS
from common.storage.files import one_line

PROGRAM = 'run_ktpformer.py'
DESCRIPTION = ('Train and evaluate the lifting of 2D human keypoints to 3D poses. Without a data set at hand, start '
               'with -d synthetic.')


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line on stderr, exit status 2."""

    def error(self, message: str) -> NoReturn:
        """End the process with one line, not the usage as well: the message says what to do."""
        line = one_line(message, 1000)  # the command line can hold line breaks and codes that terminals obey
        first = os.environ.get('RANK', '0') == '0'  # all processes have the same command line: the first one says it
        self.exit(2, f'{self.prog}: error: {line}\n' if first else None)


class _Either(argparse.Action):
    """Set True by its first option string, False by all others."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str, default: object = argparse.SUPPRESS):
        super().__init__(option_strings, dest, nargs=0, default=default, help=help)

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object,
                 option: str | None = None) -> None:
        """Set the value that an option string stands for."""
        setattr(namespace, self.dest, option == self.option_strings[0])


def make_parser(model: str | None = None) -> argparse.ArgumentParser:
    """Return the parser. Flags that are not given are missing from what it returns.

    Args:
        model: show this model's sizes and recipe as the defaults, which imports it.
    """
    parser = Parser(prog=PROGRAM, allow_abbrev=False, argument_default=argparse.SUPPRESS, description=DESCRIPTION)
    parser.add_argument('--version', action='version', version=f'pose-lifting {__version__}')
    defaults = model_defaults(model) if model else {}
    groups = {section: parser.add_argument_group(kind.__doc__) for section, kind in SECTIONS.items()}
    for section, name, flag in all_flags():
        shown = help_text(section, name, flag, defaults).replace('%', '%%')
        add, dest = groups[section].add_argument, f'{section}.{name}'
        if flag.kind == 'value':
            options: dict[str, Any] = {'type': _reader(flag), 'choices': flag.choices and tuple(flag.choices),
                                       'metavar': flag.metavar, 'nargs': flag.nargs, 'const': flag.const}
            if options['choices']:
                options.pop('type')
            add(*flag.names, dest=dest, help=shown, **{key: v for key, v in options.items() if v is not None})
        elif flag.kind == 'either':
            add(*flag.names, dest=dest, action=_Either, help=shown)
        else:
            add(*flag.names, dest=dest, action='store_true' if flag.kind == 'yes' else 'store_false', help=shown)
    return parser


def _reader(flag: Flag) -> Callable[[str], Any]:
    """Return the flag's reader as argparse wants it: its errors are shown as they are."""
    read = flag.read

    def convert(text: str) -> Any:
        try:
            return read(text) if read else text
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
    return convert


def model_defaults(name: str) -> dict[str, Any]:
    """Return the sizes and the recipe of a model: field -> value."""
    from common.models import model_class
    kind = model_class(name)
    return kind.recipe.values() | asdict(kind.Config())


def help_text(section: str, name: str, flag: Flag, defaults: dict[str, Any]) -> str:
    """Return the help of a flag, with its default where the help does not tell it."""
    value = defaults.get(name, SECTIONS[section].__dataclass_fields__[name].default)
    tells = '(default' in flag.help and name not in defaults
    if tells or flag.kind in ('yes', 'no', 'either') or value in (None, MISSING, ()):
        from_recipe = section == 'train' and flag.kind == 'value' and value is None and not tells and not flag.starts
        untold = from_recipe and name != 'save_every_steps' and name != 'checkpoint_frequency'
        return f'{flag.help} (default: as the model was published)' if untold else flag.help
    return f'{flag.help.partition(" (default")[0]} (default {listed(value)})'


def parse(argv: list[str] | None = None) -> Config:
    """Return the flags given, checked against each other, in a configuration that is not yet resolved.

    Ends the process with status 2 and one line where they clash.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    named = argv[argv.index('--model') + 1:][:1] if '--model' in argv and {'-h', '--help'} & set(argv) else []
    parser = make_parser(named[0] if named and named[0] in MODELS else None)
    _check_spaces(parser, argv)
    config = unsaid.completed(config_of(vars(parser.parse_args(argv)), [PROGRAM, *argv]))
    if problem := rules.problem(config):
        parser.error(problem)
    return config


def config_of(given: dict[str, Any], argv: list[str]) -> Config:
    """Return the configuration of given fields, `section.field` -> value; the others have their defaults."""
    sections: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for dest, value in given.items():
        section, _, name = dest.partition('.')
        sections[section][name] = tuple(value) if isinstance(value, list) else value
    made = {section: kind(**sections[section]) for section, kind in SECTIONS.items()}
    return Config(**made, given=frozenset(given), argv=tuple(argv))


def _check_spaces(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    """Refuse `-lr1e-3`, which argparse would read as -l r1e-3, and `-causal`, which it would read as -c ausal."""
    flags = [option for _, _, flag in all_flags() for option in flag.names] + ['-h', '--help']
    short = [flag for flag in flags if flag[1] != '-']
    for token in argv:
        if token.partition('=')[0] in flags or not token.startswith(tuple(short)):
            continue
        flag = max((flag for flag in short if token.startswith(flag)), key=len)
        meant = [long for long in flags if long.startswith(f'-{token}')]
        if meant:
            parser.error(f'{token}: there is no such flag; did you mean {" or ".join(meant)}?')
        if token[2:3].isalpha() or len(flag) > 2:
            parser.error(f'{token}: there is no such flag; if {flag} is meant, leave a space, {flag} '
                         f'{token[len(flag):]}')


def flags_page() -> str:
    """Return docs/flags.md: every flag, its default and the commands that take it."""
    lines = ['# Flags', '', 'Made from `common/config.py` by `python -m common.cli.parser > docs/flags.md`; a test '
             'holds the two equal.', '', 'A flag is refused by a command that would ignore it. The commands: `train` '
             '(none of the following), `evaluate` (`--evaluate FILE`), `render` (`--evaluate FILE --render`), '
             '`predict` (`--predict INPUT`), `export_model`, `check_data`, `inspect` and `list_models`. Defaults that '
             'the table leaves to the model are shown by `python run_ktpformer.py --model NAME --help`.']
    for section, kind in SECTIONS.items():
        title = kind.__doc__ or section
        lines += ['', f'## {title[0].upper()}{title[1:]}', '', '| flag | what it does | commands |',
                  '|---|---|---|']
        for owner, name, flag in all_flags():
            if owner == section:
                told = help_text(section, name, flag, {}).replace('|', '\\|')
                spelled = ', '.join(f'`{option}{_value(flag)}`' for option in flag.names)
                lines.append(f'| {spelled} | {told} | {", ".join(flag.commands)} |')
    return '\n'.join(lines) + '\n'


def _value(flag: Flag) -> str:
    """Return what stands behind a flag on the command line."""
    if flag.kind != 'value':
        return ''
    if flag.choices:
        return f' {{{",".join(flag.choices)}}}'
    value = ' '.join(flag.metavar) if isinstance(flag.metavar, tuple) else flag.metavar or ''
    return f' [{value}]' if flag.nargs == '?' else f' {value}'


if __name__ == '__main__':
    print(flags_page(), end='')
