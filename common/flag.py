"""Flags: the spelling of a configuration's fields on the command line, and readers of values from text."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

TRAIN, EVALUATE, RENDER, PREDICT, EXPORT_MODEL, CHECK_DATA, INSPECT, LIST_MODELS = COMMANDS = (
    'train', 'evaluate', 'render', 'predict', 'export_model', 'check_data', 'inspect', 'list_models')


@dataclass(frozen=True)
class Flag:
    """The spelling of a field on the command line.

    Attributes:
        names: option strings, the best known first.
        commands: those that read the field.
        read: text -> value, raising ValueError (with `expected …` as its message) for other texts.
        kind: `value`; `yes`, a flag that sets True; `no`, one that sets False; `either`, a flag with its opposite,
            which all names but the first are.
        needs: the field without which this one would do nothing.
        excludes: fields that contradict this one.
        stored: whether it is part of a run, which its checkpoints store.
        starts: whether the flag says which command to run, or with which file.
    """

    names: tuple[str, ...]
    help: str
    commands: tuple[str, ...]
    read: Callable[[str], Any] | None = None
    choices: Collection[str] | None = None
    metavar: str | tuple[str, ...] | None = None
    nargs: int | str | None = None
    const: str | None = None
    kind: str = 'value'
    needs: str | None = None
    excludes: tuple[str, ...] = ()
    stored: bool = False
    starts: bool = False

    @property
    def name(self) -> str:
        """Return the spelling that messages use: the one people know."""
        return self.names[0]


def flag(*names: str, help: str, commands: tuple[str, ...], default: Any = None, **more: Any) -> Any:
    """Declare a field with its flag.

    Args:
        more: the other attributes of `Flag`.
    """
    return field(default=default, metadata={'flag': Flag(names, help, commands, **more)})


# No whole number of a command line is larger; arrays could not be counted by it.
MOST = 2**31 - 1


def number(kind: type, low: float, high: float = math.inf, low_included: bool = True) -> Callable[[str], Any]:
    """Return a reader of numbers of a kind from low to high."""
    most = MOST if kind is int and high == math.inf else high

    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if (low <= value if low_included else low < value) and value <= most and value != math.inf:
            return value
        sort = 'a whole number' if kind is int else 'a number'
        limits = f'of at least {low}' if low_included else f'above {low}'
        if high != math.inf or value > most:
            limits += f' up to {most}'
        raise ValueError(f'expected {sort} {limits}, got {text}')
    return read


def text(given: str) -> str:
    """Return a text that is not empty."""
    if not given:
        raise ValueError('expected a name, got an empty text')
    return given


def names_of(given: str) -> tuple[str, ...]:
    """Return the different names that commas separate."""
    names = tuple(name.strip() for name in given.split(','))
    if not all(names) or len(set(names)) < len(names):
        raise ValueError(f'expected different names separated by commas, got {given!r}')
    return names


def counts(given: str) -> tuple[int, ...]:
    """Return the whole numbers from 1 to 1000 that commas separate, at most 20."""
    parts = given.split(',')
    if len(parts) > 20 or not all(part.strip().isdecimal() and 1 <= int(part) <= 1000 for part in parts):
        raise ValueError(f'expected up to 20 whole numbers from 1 to 1000 separated by commas, got {given!r}')
    return tuple(int(part) for part in parts)


def listed(value: Any) -> str:
    """Return a value as the command line has it: several with commas between them."""
    return ','.join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def files_named(value: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the files that a field names, of which there may be none, one or several."""
    return (value,) if isinstance(value, str) and value else tuple(value or ())


def actions_of(given: str) -> tuple[str, ...]:
    """Return the names of actions; * is all of them."""
    return () if given == '*' else names_of(given)


def file_ending(*suffixes: str) -> Callable[[str], str]:
    """Return a reader of file names that end in one of these."""
    def read(given: str) -> str:
        if not given.endswith(suffixes):
            raise ValueError(f'expected a name that ends in {" or ".join(suffixes)}, got {given!r}')
        return given
    return read


def files_ending(*suffixes: str) -> Callable[[str], tuple[str, ...]]:
    """Return a reader of different file names that commas separate and that end in one of these."""
    one = file_ending(*suffixes)
    return lambda given: tuple(one(name) for name in names_of(given))


count, positive = number(int, 1), number(float, 0, low_included=False)
