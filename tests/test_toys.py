"""Three toy models, each one file and one line of the registry, go through every command; nothing else knows them."""

import json
import re
import signal
import time

import keypoint_files as files
import numpy as np
import pytest
import torch
from PIL import Image
from processes import Process, run_alone
from test_mpi_inf_3dhp import write_files
from test_predict import clip
from test_resume import assert_same_run, epochs_of
from toys import TOYS
from toys.hypotheses import NAMES

import run_ktpformer
from common.models import MODELS, load_lifter
from common.storage.npz import read_npz

RUN = 'tests/toys/run.py'
ONLY_ITS_CENTRE = '--causal: Toy centre net answers for frame 5 of the 9 that it reads'
SIZES = {'centre': ['-f', 9, '-cs', 16], 'hypotheses': ['-f', 9, '-cs', 16], 'lens': ['-cs', 16]}
LENS = ['--intrinsics', 1145, 1143, 512, 515]
CPU = ['--device', 'cpu']
each = pytest.mark.parametrize('name', TOYS)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    for name, place in TOYS.items():
        monkeypatch.setitem(MODELS, name, place)


def training(name, data, folder, run, *more):
    """Return the flags of a run of a toy on the small Human3.6M, in folder/run."""
    return ['--model', name, *SIZES[name], '-k', 'gt', '--data', data, '-str', 'S1', '-ste', 'S9', *CPU,
            '-c', folder / run, '-l', folder / f'{run}-log', *more]


@pytest.fixture(scope='module')
def trained(h36m_folder, tmp_path_factory):
    """Return a folder with a run of each toy, an epoch with validation; not to be written to."""
    folder = tmp_path_factory.mktemp('toys')
    with pytest.MonkeyPatch.context() as patch:
        for name, place in TOYS.items():
            patch.setitem(MODELS, name, place)
            assert run_ktpformer.main([str(f) for f in training(name, h36m_folder, folder, name, '-e', 1)]) == 0
    return folder


@pytest.fixture
def evaluate(run, trained, h36m_folder):
    """evaluate(name, *flags) -> what the program said of a toy's checkpoint, which names the model itself."""
    def main(name, *flags, data=('--data', h36m_folder)):
        status, out, err = run('-c', trained / name, '--evaluate', 'best.bin', *data, *CPU, *flags)
        assert (status, err) == (0, ''), err
        return out
    return main


# ---- train -------------------------------------------------------------------------------------------------------


@each
def test_a_toy_is_trained_by_its_own_recipe_and_validated(trained, name):
    saved = torch.load(trained / name / 'best.bin')
    assert saved['model'] == name
    stride, batch, root, seed = {'centre': (1, 64, 'predicted', 7), 'hypotheses': (9, 90, 'zero', 3),
                                 'lens': (1, 32, 'zero', 5)}[name]
    settings = saved['settings']
    assert (settings['stride'], settings['batch'], settings['root'], settings['seed']) == (stride, batch, root, seed)
    (line,) = epochs_of(trained / f'{name}-log')
    assert line['valid_mpjpe'] > 0
    assert (line['valid_mpjve'] is None) == (name != 'hypotheses')  # single frames have no velocity
    named = {key for key in line if key.startswith('valid_')} - {'valid_mpjpe', 'valid_mpjve'}
    assert named == ({'valid_first_mpjpe', 'valid_second_mpjpe'} if name == 'hypotheses' else set())


@pytest.mark.parametrize('name', ['centre', 'hypotheses', pytest.param('lens', marks=pytest.mark.slow)])
def test_a_killed_run_resumes_exactly(h36m_folder, tmp_path, name):
    """SIGKILL inside epochs, twice; dropout and drop path are on where the recipe has them."""
    def flags(run, *more):
        return training(name, h36m_folder, tmp_path, run, '-e', 2, *more)
    whole = Process(RUN, *flags('whole'))
    last, kills = tmp_path / 'killed' / 'last.bin', 0
    while True:
        before = last.stat().st_mtime_ns if last.exists() else 0
        process = Process(RUN, *flags('killed', '--save-every-steps', 2), *['--resume'] * bool(before))
        while kills < 2 and not process.ended() and (last.stat().st_mtime_ns if last.exists() else 0) == before:
            time.sleep(0.002)
        if kills == 2 or process.ended():
            break
        process.send(signal.SIGKILL)
        process.wait()
        kills += 1
    status, _, err = process.wait()
    assert (status, err) == (0, '')
    assert kills
    assert whole.wait()[0] == 0
    assert_same_run(tmp_path / 'whole', tmp_path / 'killed')


@pytest.mark.parametrize('name', ['centre', *(pytest.param(name, marks=pytest.mark.slow)
                                              for name in ('hypotheses', 'lens'))])
def test_two_processes_are_one_run(h36m_folder, tmp_path, name):
    """In unequal shares, and of a last step of one window one process gets none; dropout may depend on the rank."""
    more = {'centre': ['-b', 35, '--dropout', 0], 'hypotheses': ['-b', 63], 'lens': ['-b', 137]}[name]
    for ranks in (1, 2):
        status, _, err = run_alone(
            RUN, *training(name, h36m_folder, tmp_path, f'c{ranks}', '-e', 1, '-lr', 1e-4, *more, '--results',
                           tmp_path / f'r{ranks}.json'), ranks=ranks)
        assert status == 0, err
    (one,), (two,) = (epochs_of(tmp_path / f'c{ranks}-log') for ranks in (1, 2))
    assert two == {key: value if value is None else pytest.approx(value, rel=1e-4) for key, value in one.items()}
    a, b = (torch.load(tmp_path / f'c{ranks}' / 'last.bin')['model_pos'] for ranks in (1, 2))
    assert a.keys() == b.keys()
    # Adam follows the sign of a gradient that is nearly 0: some weights part by rounding; the rate is 1e-4 a step.
    apart = torch.cat([(b[key] - value).abs().flatten().float() for key, value in a.items()])
    assert apart.median() < 1e-6
    a, b = (json.loads((tmp_path / f'r{ranks}.json').read_text())['protocols']['exact']['average'] for ranks in (1, 2))
    assert b == pytest.approx(a, rel=1e-4)


def test_a_rest_of_one_window_is_trained_on(run, refused, h36m_folder, tmp_path):
    """960 windows in steps of 137 leave one, which no batch norm could be trained with."""
    flags = training('centre', h36m_folder, tmp_path, 'c', '-e', 1, '--no-eval')
    status, out, err = run(*flags, '-b', 137)
    assert (status, err) == (0, '')
    assert '960 windows an epoch, 137 a step' in out
    assert 'makes steps of 1 windows, and Toy centre net needs 2: raise -b' in refused(2, *flags, '-b', 1)


@each
def test_activation_checkpointing_changes_no_bit(run, trained, h36m_folder, tmp_path, name):
    assert run(*training(name, h36m_folder, tmp_path, 'c', '-e', 1, '--activation-checkpointing', '--no-eval'))[0] == 0
    a, b = (torch.load(folder / 'last.bin')['model_pos'] for folder in (trained / name, tmp_path / 'c'))
    assert all(torch.equal(value, b[key]) for key, value in a.items())


# ---- evaluate ----------------------------------------------------------------------------------------------------


@each
def test_evaluation_writes_table_json_predictions_and_plots(evaluate, tmp_path, name):
    out = evaluate(name, '--by-subject', '--results', tmp_path / 'r.json', '--export-predictions', tmp_path / 'p.npz',
                   '--plots', tmp_path / 'plots')
    results, rows = json.loads((tmp_path / 'r.json').read_text()), read_npz(tmp_path / 'p.npz')
    assert results['model'] == name
    assert len(list((tmp_path / 'plots').iterdir())) == 4
    blocks = {'predicted': results['protocols']}
    if name != 'hypotheses':
        columns = {'predicted': rows['prediction']}
    else:
        assert (results['predictions'], results['headline']) == (list(NAMES), NAMES[-1])
        blocks = {'first': results['protocols'], **{other: results[other] for other in NAMES[1:]}}
        columns = {name: rows[name] for name in NAMES}
        np.testing.assert_allclose(columns['mean'], (columns['first'] + columns['second']) / 2, atol=1e-6)
        assert np.abs(columns['first'] - columns['second']).max() > 0.01
        assert all(f'\n{kind} average, protocol exact' in out for kind in NAMES)
    for kind, block in blocks.items():
        assert list(block['exact']['subjects']) == ['S9']
        errors = 1000 * np.linalg.norm(columns[kind] - rows['truth'], axis=-1).mean(axis=-1)
        actions = np.array([take.split(' ')[0] for take in rows['action']])
        for action, figures in block['exact']['actions'].items():
            assert figures['mpjpe'] == pytest.approx(errors[actions == action].mean(), rel=1e-5)
    if name == 'lens':
        assert results['reads'] == {'predicted': "each camera's focal length and centre"}
        assert 'predicted: besides the keypoints it reads each camera' in out
        assert rows['reads'].tolist() == ["predicted: each camera's focal length and centre"]
    else:
        assert 'reads' not in results and 'reads' not in rows


@pytest.mark.parametrize('name', ['hypotheses', 'lens'])
def test_evaluation_on_another_data_set_and_causal(evaluate, tmp_path, name):
    out = evaluate(name, '-ste', 'S5', '-a', 'Walking', '--subset', 0.2, '--causal', '--results', tmp_path / 'r.json',
                   data=('-d', 'synthetic'))
    assert 'evaluated on synthetic' in out
    assert 'causal: each frame is the last of the window it comes from' in out
    assert 'latency on cpu' in out
    results = json.loads((tmp_path / 'r.json').read_text())
    paper, exact = (results['protocols'][protocol]['average'] for protocol in ('paper', 'exact'))
    assert paper['mpjpe'] == pytest.approx(exact['mpjpe'])  # every frame counts once


def test_causal_is_refused_for_a_model_that_answers_for_its_centre(refused, trained, h36m_folder, walk, tmp_path):
    flags = ['-c', trained / 'centre', '--evaluate', 'best.bin', '--causal', *CPU]
    assert ONLY_ITS_CENTRE in refused(2, *flags, '--data', h36m_folder)
    assert ONLY_ITS_CENTRE in refused(2, *flags, '--predict', walk, '--output', tmp_path / 'out.npz', '--image-size',
                                      1000, 1002)
    assert not (tmp_path / 'out.npz').exists()


@pytest.mark.parametrize('name', ['centre', 'hypotheses'])
def test_marked_frames_are_evaluated(run, tmp_path, name):
    write_files(tmp_path)
    data = ['-d', '3dhp', '--data', tmp_path, '-c', tmp_path / 'c', *CPU, '--results', tmp_path / 'r.json']
    status, out, err = run(*data, '--model', name, *SIZES[name], '-str', 'S1', '-ste', 'TS1,TS5', '-e', 1, '-l',
                           tmp_path / 'l')
    assert (status, err) == (0, '')
    assert 'average C, target centre' in out
    closing = json.loads((tmp_path / 'r.json').read_text())
    for target, flag in (('centre', []), ('all', ['--target', 'all']), ('last', ['--causal'])):
        status, out, err = run(*data, '--evaluate', 'best.bin', '-ste', 'TS1,TS5', *flag)
        if (name, target) == ('centre', 'last'):
            assert (status, ONLY_ITS_CENTRE in err) == (2, True)
            continue
        assert (status, err) == (0, '')
        results = json.loads((tmp_path / 'r.json').read_text())
        for kind in NAMES[1:] if name == 'hypotheses' else ():
            assert f'\n{kind} average C, target {target}' in out
            assert results[kind][target]['averages']['C']['mpjpe'] > 0
        figures = results['targets'][target]
        if target == 'centre':
            centre = figures
            assert figures == closing['targets']['centre']
        elif name == 'centre' and target == 'all':  # its windows have one answer: those of all frames hold the centres
            assert figures['averages']['C'] == pytest.approx(centre['averages']['C'])


def test_marked_frames_have_no_lenses(refused, trained, tmp_path):
    write_files(tmp_path)
    data = ['-d', '3dhp', '--data', tmp_path, '-c', tmp_path / 'c', *CPU]
    assert "Toy lens net reads each camera's focal length and centre, which 3dhp does not tell for S1" in \
        refused(2, *data, '--model', 'lens', '-str', 'S1', '-ste', 'TS1', '-l', tmp_path / 'l')
    assert 'was made for joints of layout h36m, but' in \
        refused(1, *data, '--evaluate', trained / 'lens' / 'best.bin', '-ste', 'TS1')


# ---- predict, render, inspect, help ------------------------------------------------------------------------------


@pytest.fixture
def walk(tmp_path):
    """Return a file of 20 frames of keypoints of a walk, seen by a camera of 1000 × 1002 pixels."""
    files.npy(tmp_path / 'walk.npy', clip(20)[1])
    return tmp_path / 'walk.npy'


@pytest.fixture
def lift(evaluate, walk, tmp_path):
    """lift(name, *flags) -> (poses (20, 17, 3), what the program said) of the walk."""
    def main(name, *flags, size=(1000, 1002)):
        out = evaluate(name, '--predict', walk, '--output', tmp_path / 'out.npz', '--image-size', *size, *flags,
                       data=())
        return read_npz(tmp_path / 'out.npz')['poses'], out
    return main


@pytest.mark.parametrize('name, causal', [('centre', False), ('hypotheses', False), ('hypotheses', True),
                                          ('lens', False), ('lens', True)])
def test_a_clip_is_lifted(lift, trained, name, causal):
    lens = LENS if name == 'lens' else []
    poses, out = lift(name, *lens, *['--causal'] * causal, '--zoom', 1)
    assert poses.shape == (20, 17, 3)
    assert np.isfinite(poses).all()
    windows = {'centre': '20 windows of 9', 'hypotheses': '3 windows of 9', 'lens': '20 windows of 1'}[name]
    assert causal or f'lifted 20 frames in {windows}' in out
    # The interface of three lines says the same; of three predictions the headline.
    lifter = load_lifter(trained / name / 'best.bin')
    got = lifter.lift_clip(clip(20)[1], size=(1000, 1002), causal=causal, intrinsics=tuple(lens[1:]) or None)
    np.testing.assert_allclose(got - got[:, :1], poses, atol=1e-5)  # --predict subtracts the model's own root


def test_a_model_that_reads_the_lens_is_not_used_without(refused, trained, walk, tmp_path):
    flags = ['-c', trained / 'lens', '--evaluate', 'best.bin', '--predict', walk, '--output', tmp_path / 'out.npz',
             '--image-size', 1000, 1002, *CPU]
    assert 'reads the lens of the camera: say --intrinsics FX FY CX CY in pixels' in refused(1, *flags)
    assert not (tmp_path / 'out.npz').exists()
    with pytest.raises(ValueError, match='reads the lens of the camera'):
        load_lifter(trained / 'lens' / 'best.bin').lift_clip(clip(3)[1], size=(1000, 1002))
    assert 'windows answer for 1 frame and must share fewer' in \
        refused(2, *flags, *LENS, '--overlap', 1)
    assert '--intrinsics and --fov are for --trajectory' in \
        refused(2, *flags, *LENS, '-c', trained / 'centre')


@pytest.mark.parametrize('zoom', [0.7, 1.6])
def test_the_lens_is_zoomed_with_the_person(lift, zoom):
    """The toy lifts rays, and these are the same however large the person is drawn on the screen."""
    poses, _ = lift('lens', *LENS, '--zoom', 1)
    zoomed, out = lift('lens', *LENS, '--zoom', zoom)
    assert f'scaled by {zoom:.2f}' in out
    np.testing.assert_allclose(zoomed, poses, atol=1e-4)
    far, out = lift('lens', *LENS, size=(3000, 3006))  # small in the picture: scaled by itself
    assert 'half-widths of the picture tall' in out
    np.testing.assert_allclose(far, poses, atol=1e-4)


@each
def test_a_sequence_is_drawn_and_exported(evaluate, tmp_path, name):
    out = evaluate(name, '--render', '--viz-subject', 'S11', '--viz-action', 'Sitting', '--viz-output',
                   tmp_path / 'film.gif', '--viz-limit', 3, '--viz-size', 1, '--viz-export', tmp_path / 'p.npz')
    with Image.open(tmp_path / 'film.gif') as film:
        assert film.n_frames == 3
    exported = read_npz(tmp_path / 'p.npz')
    assert exported['prediction'].shape == (18, 17, 3)
    labels = ['prediction', 'second', 'mean'] if name == 'hypotheses' else ['prediction']
    assert re.findall(r'^(\w+): [\d.]+ mm MPJPE over these frames', out, re.M) == labels


@each
def test_a_checkpoint_is_described(run, trained, name):
    status, out, err = run('-c', trained / name, '--inspect', 'best.bin')
    assert (status, err) == (0, '')
    assert f'model      {name}' in out
    assert "'channels': 16" in out


def test_help_shows_the_defaults_of_the_model(run):
    status, out, _ = run('--model', 'centre', '--help')
    out = ' '.join(out.split())
    assert status == 0
    for words in ('frames of a window (default 27)', 'channels of a token (default 64)',
                  'learning rate (default 0.001)', 'at which single values are dropped (default 0.1)',
                  'train up to this epoch (default 2)'):
        assert words in out


def test_a_second_model_is_drawn_beside_the_first(evaluate, trained, tmp_path):
    out = evaluate('centre', '--render', '--viz-subject', 'S11', '--viz-action', 'Sitting', '--viz-compare',
                   trained / 'hypotheses' / 'best.bin', '--viz-output', tmp_path / 'a.png', '--viz-size', 1)
    assert 'Toy centre net centre/best.bin: ' in out
    assert 'Toy hypotheses hypotheses/best.bin, mean: ' in out


@each
def test_a_refinement_stands_behind_a_toy(run, trained, h36m_folder, tmp_path, name):
    """It reads what the base needs, and leaves the base's own predictions and what these read as they are."""
    status, out, err = run('-k', 'gt', '--data', h36m_folder, '-str', 'S1', '-ste', 'S9', *CPU, '--refine', '--init',
                           trained / name / 'best.bin', '-e', 1, '-b', 90, '-c', tmp_path / 'c', '-l', tmp_path / 'l',
                           '--results', tmp_path / 'r.json')
    assert (status, err) == (0, '')
    results = json.loads((tmp_path / 'r.json').read_text())
    base = list(NAMES) if name == 'hypotheses' else ['predicted']
    assert results['predictions'] == [*base, 'refined']
    assert list(results['reads']) == ['predicted'] * (name == 'lens') + ['refined']
    assert '\nrefined average, protocol exact' in out
