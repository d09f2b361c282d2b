"""The command line as a whole: a frozen snapshot of it, its page in docs/, and one rule for flags that do nothing."""

import json
import shutil
from pathlib import Path

import pytest

from common.cli.parser import flags_page, make_parser, parse
from common.config import SECTIONS, Config, Train, all_flags
from common.flag import COMMANDS
from common.models import MODELS, recipe_of
from common.settings import resolve

ROOT = Path(__file__).parents[1]
SNAPSHOT = ROOT / 'tests' / 'command_line.json'
# The flags that make a command, without those that are being tried.
START = {'train': ['-d', 'synthetic'], 'evaluate': ['--evaluate', 'x.bin'],
         'render': ['--evaluate', 'x.bin', '--render', '--viz-output', 'film.mp4'],
         'predict': ['--evaluate', 'x.bin', '--predict', 'in.npy', '--output', 'out.npz'],
         'export_model': ['--evaluate', 'x.bin', '--export-model', 'lifter.onnx'],
         'check_data': ['-d', 'synthetic', '--check-data'], 'inspect': ['--inspect', 'x.bin'],
         'list_models': ['--models']}
FLAGS = {f'{section}.{name}': flag for section, name, flag in all_flags()}


def described() -> dict:
    """Return all that a user may rely on: option -> field, default, choices, how many values, commands."""
    options = {}
    for section, name, flag in all_flags():
        default = SECTIONS[section].__dataclass_fields__[name].default
        for option in flag.names:
            options[option] = {
                'field': f'{section}.{name}', 'kind': flag.kind, 'default': default, 'commands': list(flag.commands),
                'choices': list(flag.choices) if flag.choices else None, 'nargs': flag.nargs, 'const': flag.const,
                'stored': flag.stored}
    return options


def test_no_flag_changes_unnoticed():
    """A new model or data set is a new choice of its flag, and so a change."""
    now, snapshot = described(), json.loads(SNAPSHOT.read_text())
    changed = [option for option in {**snapshot, **now} if now.get(option) != snapshot.get(option)]
    assert not changed, f'{", ".join(changed)} changed; if on purpose: PYTHONPATH=. python tests/test_command_line.py'


def test_the_page_of_flags_is_made_from_them():
    same = (ROOT / 'docs' / 'flags.md').read_text() == flags_page()
    assert same, 'write the page anew: PYTHONPATH=. python -m common.cli.parser > docs/flags.md'


def sample(name: str) -> list[str]:
    """Return a way to give a flag that its reader takes, and that differs from its default."""
    flag = FLAGS[name]
    if flag.kind == 'either':
        return [flag.names[1] if SECTIONS[name.split('.')[0]].__dataclass_fields__[name.split('.')[1]].default else
                flag.names[0]]
    if flag.kind != 'value':
        return [flag.names[0]]
    if flag.choices:
        return [flag.names[0], list(flag.choices)[-1]]
    for text in ('2', '0.5', 'a.npz', 'a.mp4', 'a.trc', 'some', 'coco'):
        try:
            flag.read(text)
        except ValueError:
            continue
        return [flag.names[0], *[text] * (flag.nargs if isinstance(flag.nargs, int) else 1)]
    raise AssertionError(f'no sample for {name}')


@pytest.mark.parametrize('command', COMMANDS)
def test_a_command_refuses_every_flag_that_it_would_ignore(command, capsys):
    assert parse(START[command]).command == command
    for name, flag in FLAGS.items():
        if command in flag.commands or flag.starts or name == 'render.render':
            continue
        with pytest.raises(SystemExit) as stop:
            parse([*START[command], *sample(name)])
        assert stop.value.code == 2, name
        (line,) = capsys.readouterr().err.splitlines()
        assert any(option in line for option in flag.names), (name, line)


@pytest.mark.parametrize('flags', [['-d', 'synthetic', '--check-data', '-lr', '5'], ['--evaluate', 'FILE', '-e', '3'],
                                   ['--inspect', 'FILE', '-f', '9'], ['-d', 'synthetic', '--viz-size', '2']],
                         ids=' '.join)
def test_flags_that_would_do_nothing_are_refused(refused, flags):
    assert flags[-2] in refused(2, *flags)


def test_every_field_reaches_the_configuration():
    """Each flag that a command takes is in the configuration, typed, where the code reads it."""
    for command in COMMANDS:
        for name, flag in FLAGS.items():
            if command in flag.commands and not (flag.starts or flag.needs or flag.excludes):
                config = parse_leniently([*START[command], *sample(name)])
                section, _, field = name.partition('.')
                assert config is None or config.has(name), name
                default = SECTIONS[section].__dataclass_fields__[field].default
                assert config is None or getattr(getattr(config, section), field) != default, name


def parse_leniently(argv: list[str]) -> Config | None:
    """Return the configuration, or None where the flag lacks another one beside it."""
    try:
        return parse(argv)
    except SystemExit:
        return None


@pytest.mark.parametrize('model', MODELS)
def test_help_shows_the_recipe_of_the_model_that_is_named(model, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(['--model', model, '--help'])
    assert not stop.value.code
    shown = ' '.join(capsys.readouterr().out.split())
    recipe = recipe_of(model)
    for value in (recipe.lr, recipe.epochs, recipe.batch, recipe.optimizer):
        assert f'(default {value})' in shown, value


def test_settings_come_from_the_command_line_then_the_checkpoint_then_the_recipe():
    recipe = recipe_of('ktpformer')
    fresh = resolve(parse(['-d', 'synthetic', '--clip', '2']), recipe, 243)
    assert (fresh.train.clip, fresh.train.lr, fresh.train.stride, fresh.data.dataset) == (2, 8e-5, 128, 'synthetic')
    saved = fresh.settings() | {'lr': 1e-3, 'keypoints': 'noisy', 'root': 'zero'}
    resumed = resolve(parse(['--resume', '--clip', '3']), recipe, 243, saved)
    assert (resumed.train.clip, resumed.train.lr, resumed.data.keypoints) == (3, 1e-3, 'noisy')
    assert (resumed.data.dataset, resumed.evaluate.root) == ('synthetic', 'zero')
    elsewhere = resolve(parse(['--resume', '-d', 'cmu']), recipe, 243, saved)
    assert (elsewhere.data.keypoints, elsewhere.evaluate.root, elsewhere.train.lr) == (None, 'predicted', 1e-3)
    assert resolve(parse(['-d', '3dhp']), recipe, 81).evaluate.root == 'zero'  # the data set's own test has it so
    assert resolve(parse([]), recipe, 1).train.stride == 1


def test_settings_are_kinds_that_json_knows():
    config = resolve(parse(['-d', 'synthetic']), recipe_of('htnet'), 1)
    assert json.loads(json.dumps(config.settings())) == config.settings()
    assert {name for name in Train.__dataclass_fields__} > {'lr', 'clip'}


def test_options_of_the_parser_are_those_of_the_fields():
    options = {option for action in make_parser()._actions for option in action.option_strings}
    assert options - {'-h', '--help', '--version'} == {option for flag in FLAGS.values() for option in flag.names}


if __name__ == '__main__':
    SNAPSHOT.write_text(json.dumps(described(), indent=1) + '\n')


@pytest.mark.parametrize('flags', [
    ('-f', '1\n2'), ('-d', 'x\nrun_ktpformer.py: error: forged'), ('--seed', '\x1b[2J'), ('\x1b[31m\n',),
    ('-f', '9' * 5000), ('--viz-output', 'x\n')])
def test_refusals_of_odd_texts_stay_one_line(refused, flags):
    line = refused(2, *flags)
    assert line.isprintable() and len(line) < 1100


@pytest.mark.parametrize('flags', [('-f', 10 ** 9), ('-cs', 2 ** 31), ('-dep', 2 ** 31), ('-num_heads', 2 ** 31),
                                   ('--hidden', 10 ** 9)])
def test_sizes_that_no_memory_holds_are_refused_at_once(refused, flags):
    assert 'expected a whole number of at least 1 up to ' in refused(2, '-d', 'synthetic', *flags)


def test_weights_that_the_memory_cannot_hold_are_not_made(refused, monkeypatch, tmp_path):
    monkeypatch.setattr('os.sysconf', lambda name: {'SC_PAGE_SIZE': 4096}.get(name, 100))
    line = refused(2, '-d', 'synthetic', '--subset', 0.01, '-f', 9, '-cs', 256, '-dep', 4, '-c', tmp_path / 'c', '-l',
                   tmp_path / 'l', '--device', 'cpu')
    assert 'its weights do not fit in the 0 GiB of memory: try a smaller -cs, -dep or -f' in line


@pytest.mark.parametrize('flags', [
    ('--viz-limit', 2 ** 63), ('--window-step', 2 ** 63), ('--fps', '1e-308'), ('--fps', '1e308'), ('--zoom', '1e308'),
    ('--image-size', '1e308', 1), ('--intrinsics', 1, 1, 1, '1e308'), ('-b', '9' * 400)])
def test_numbers_that_nothing_can_be_counted_or_measured_by_are_refused(refused, flags):
    assert ' up to ' in refused(2, *flags)


def test_a_rate_that_no_number_holds_is_a_divergence(trained, h36m_folder, refused, tmp_path):
    shutil.copytree(trained[0], tmp_path / 'c')
    assert 'diverged' in refused(1, '--data', h36m_folder, '-c', tmp_path / 'c', '-l', tmp_path / 'l', '-r', '-e', 4,
                                 '-lrd', '1e308', '--device', 'cpu')


def test_names_too_long_for_a_file_are_told_before_the_work(trained, h36m_folder, run, tmp_path):
    for flag in ('--results', '--plots'):
        status, out, err = run('--data', h36m_folder, '-c', trained[0], '--evaluate', 'best.bin', '--device', 'cpu',
                               flag, tmp_path / ('x' * 300))
        assert (status, err.count('\n'), 'average' in out) == (1, 1, False)
        assert 'its name is too long' in err
