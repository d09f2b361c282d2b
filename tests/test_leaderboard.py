"""The leaderboard: its rows, what is trained again and what is not, and its table."""

import json

import pytest
from processes import ROOT

from benchmarks import leaderboard
from benchmarks.leaderboard import ROWS, commands, keep_up, model_of, repeats, table, training_flags
from benchmarks.recipes import by_recipe
from benchmarks.runs import mean_and_spread, read
from common.cli.parser import parse
from common.commands.list_models import multiply_adds
from common.models import MODELS, build_model
from common.skeleton import H36M


def line(row, seed, published, zero, **more):
    flags = training_flags(row, 'noisy', seed)
    return {'row': row, 'keypoints': 'noisy', 'seed': seed, 'flags': flags, 'recipe': by_recipe(flags),
            'errors': {'published': {'mpjpe': published, 'p_mpjpe': 1, 'mpjve': 1},
                       'zero': {'mpjpe': zero, 'p_mpjpe': 50, 'mpjve': 3}}, 'minutes': 2 + seed, 'gigabytes': 1, **more}


LOG = [line('htnet', 0, 91, 90), line('htnet', 1, 93, 92), line('htnet', 2, 98, 97), line('mgcn', 0, 81, 80),
       line('mgcn', 0, 85, 84, again=True),
       {'row': 'mgcn', 'parameters': 150_000, 'macs': 2.5e6, 'batched': 3456.7, 'one_at_a_time': 99.6,
        'sizes': ROWS['mgcn'].sizes}]


def test_every_model_has_a_row_of_a_like_size():
    """All but the first stage of P-STMO, which lifts nothing."""
    assert {model_of(row) for row in ROWS} == set(MODELS) - {'pstmo_pretraining'}
    for row, of in ROWS.items():
        config = parse(training_flags(row, 'noisy', 0))  # raises for what is no command
        assert 1.5e6 < multiply_adds(build_model(model_of(row), config.model.sizes(), H36M, H36M), 17) < 4e6, row
        assert '-e' in of.training


def test_the_table_by_hand():
    """Sorted by the error with the root at 0; runs made again are told beside it, and cost stands where measured."""
    header, _, first, second = table(LOG, 'noisy').splitlines()
    cells = [[cell.strip() for cell in row.strip('|').split('|')] for row in (header, first, second)]
    assert len({len(row) for row in cells}) == 1
    assert cells[1] == ['`mgcn`', '81.0', '80.0', '50.0', '3.0', '1', '150 k', '2.50', '3,457', '100', '2.0', '1.00']
    # 90, 92 and 97: mean 93, deviation sqrt((9 + 1 + 16) / 2)
    assert cells[2][:6] == ['`htnet`', '94.0 ± 3.6', '93.0 ± 3.6', '50.0 ± 0.0', '3.0 ± 0.0', '3']
    assert cells[2][6:] == ['–', '–', '–', '–', '3.0', '1.00']
    assert table(LOG, 'gt').count('\n') == 1
    stale = [{**line('mgcn', 1, 999, 999), 'flags': ['other']}, line('mgcn', 0, 999, 999),
             {**line('mgcn', 2, 999, 999), 'recipe': {'lr': 1.0}}]
    assert table(LOG + stale, 'noisy') == table(LOG, 'noisy')  # of other flags, a seed that is there, another recipe
    assert repeats(LOG) == '`mgcn`, noisy, seed 0: 80.00, made again 84.00'
    assert mean_and_spread([1.0, 2.0], 2) == '1.50 ± 0.71'


def test_what_is_logged_is_not_made_again(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(leaderboard, 'run', lambda row, keypoints, seed, data: made.append((row, seed)) or line(
        row, seed, 1, 1))
    log = tmp_path / 'log.jsonl'
    log.write_text(json.dumps(LOG[0]) + '\n' + json.dumps({**LOG[1], 'flags': ['other', 'flags']}) + '\n')
    keep_up(log, tmp_path, ['htnet'], ['noisy'], seeds=2, again=False)
    assert made == [('htnet', 1)]
    assert len(read(log)) == 3
    keep_up(log, tmp_path, ['htnet'], ['noisy'], seeds=1, again=True)
    keep_up(log, tmp_path, ['htnet'], ['noisy'], seeds=1, again=True)
    assert made == [('htnet', 1), ('htnet', 0)]
    assert read(log)[-1]['again']


def test_the_commands_of_the_documents_are_those_of_the_rows():
    assert commands() in (ROOT / 'docs' / 'results.md').read_text()


@pytest.mark.parametrize('keypoints', ['noisy', 'gt'])
def test_the_tables_of_the_documents_are_those_of_the_log(keypoints):
    lines = [entry for entry in read(leaderboard.LOG) if entry.get('keypoints') == keypoints]
    if not lines:
        pytest.skip(f'no run with {keypoints} keypoints is logged')
    assert table(read(leaderboard.LOG), keypoints) in (ROOT / 'docs' / 'results.md').read_text()
