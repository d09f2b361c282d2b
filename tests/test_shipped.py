"""The lifter that is shipped: what is in the file, and that its figures do not drift."""

import json
from pathlib import Path

import pytest
from processes import run_alone
from test_cmu import write_little_people

from common.models import load_lifter
from common.storage import checkpoint
from common.storage.shipped import main, ship, shipped_lifter
from data import prepare_data_cmu

HERE = Path(__file__).parent
# Millimetres: what `--evaluate checkpoint/lifter.bin -d cmu` says of the take in tests/cmu, of a test subject, as four
# virtual cameras see it.
MPJPE, P_MPJPE = 50.99, 28.25


def test_its_figures_on_a_walk_stay(tmp_path, capsys):
    assert prepare_data_cmu.main([str(HERE / 'cmu'), '--data', str(tmp_path)]) in (0, None)
    status, _, error = run_alone(HERE.parent / 'run_ktpformer.py', '--evaluate', shipped_lifter(), '-d', 'cmu',
                                    '--data', tmp_path, '--results', tmp_path / 'figures.json')
    assert status == 0, error
    figures = json.loads((tmp_path / 'figures.json').read_text())['protocols']['exact']['average']
    assert (figures['mpjpe'], figures['p_mpjpe']) == pytest.approx((MPJPE, P_MPJPE), abs=0.05)


def test_it_is_small_and_says_what_it_is():
    path = shipped_lifter()
    assert path == HERE.parent / 'checkpoint' / 'lifter.bin' and path.stat().st_size < 8_000_000
    saved = checkpoint.load(path)
    assert saved.optimizer == {} and saved.training_state is None
    assert (saved.dataset, saved.layout.name, saved.skeleton.name) == ('cmu', 'coco', 'h36m')
    assert saved.settings['views'] == 'random' and saved.settings['noise'] == 'detector'
    assert load_lifter().path == path


def test_training_cannot_go_on_from_it_but_begin(run, refused, tmp_path):
    assert prepare_data_cmu.main([str(write_little_people(tmp_path / 'mocap')), '--data', str(tmp_path)]) == 0
    flags = ['-d', 'cmu', '--data', tmp_path, '-c', tmp_path / 'c', '-l', tmp_path / 'l', '-e', 1]
    assert 'holds no optimizer' in refused(1, *flags, '--resume', shipped_lifter())
    status, _, error = run(*flags, '--init', shipped_lifter(), '--no-eval', '-str', '01', '--subset', 0.1, '--views',
                           'random', '--input', 'coco')
    assert (status, error) == (0, '')


def test_shipping_leaves_the_weights_and_drops_the_rest(trained, tmp_path):
    folder, *_ = trained
    ship(Path(folder) / 'best.bin', tmp_path / 'small.bin')
    whole, small = checkpoint.load(Path(folder) / 'best.bin'), checkpoint.load(tmp_path / 'small.bin')
    assert small.optimizer == {} and whole.optimizer and small.settings == whole.settings
    assert all((small.state[key] == value).all() for key, value in whole.state.items())
    assert small.state.keys() == whole.state.keys()


@pytest.mark.parametrize('name, content', [('none.bin', None), ('text.bin', 'no checkpoint')])
def test_what_cannot_be_shipped_ends_in_one_line(tmp_path, monkeypatch, name, content):
    if content:
        (tmp_path / name).write_text(content)
    monkeypatch.setattr('sys.argv', ['shipped.py', str(tmp_path / name), str(tmp_path / 'lifter.bin')])
    with pytest.raises(SystemExit) as ended:
        main()
    assert name in ended.value.code and 'error: ' in ended.value.code and '\n' not in ended.value.code
    assert not (tmp_path / 'lifter.bin').exists()
