"""Flags that would do nothing beside what a checkpoint or a recipe says are refused."""

import pytest
import torch

import run_ktpformer

TINY = ['-d', 'synthetic', '--device', 'cpu']
MARTINEZ = [*TINY, '--model', 'martinez', '-cs', '8', '-dep', '2', '--subset', '0.02']


@pytest.fixture(scope='module')
def untested(tmp_path_factory):
    """Return the folder of a run that does not look at its test subjects."""
    folder = tmp_path_factory.mktemp('untested')
    assert run_ktpformer.main([*MARTINEZ, '-e', '1', '--no-eval', '-c', f'{folder}', '-l', f'{folder}/l']) == 0
    return folder


@pytest.mark.parametrize('flags', [['--subjects-valid', 'S4'], ['--select', 'last'], ['--protocol', 'exact'],
                                   ['--by-subject'], ['--results', 'r.json'], ['--plots', 'p']], ids=' '.join)
def test_a_resumed_run_without_evaluation_takes_no_flag_of_it(untested, refused, flags):
    line = refused(2, *TINY, '-c', untested, '--resume', '-e', 2, *flags)
    assert f'{flags[0]} needs the evaluation that the resumed run leaves out: say --eval' in line


@pytest.mark.parametrize('recipe', [['--schedule', 'cosine'], ['--recipe', 'best']], ids=' '.join)
@pytest.mark.parametrize('flags', [['-lrd', '0.9'], ['--lr-decay-steps', '5'], ['--lr-drop-every', '2'],
                                   ['--lr-drop', '0.1']], ids=' '.join)
def test_a_cosine_has_no_use_for_a_decay(refused, tmp_path, recipe, flags):
    line = refused(2, *TINY, *recipe, *flags, '-c', tmp_path / 'c')
    assert f'{flags[0]} is for a rate that decays, and this one falls by a cosine' in line
    assert not (tmp_path / 'c').exists()


def test_a_drop_says_when(refused, tmp_path):
    assert '--lr-drop needs --lr-drop-every N' in refused(2, *TINY, '--lr-drop', 0.1, '-c', tmp_path / 'c')


def test_the_keypoints_of_a_file_get_no_noise_at_test(untested, refused):
    line = refused(2, *TINY, '-c', untested, '--evaluate', 'last.bin', '--noise', 'detector')
    assert '--noise detector is for training, and for --views random' in line


def test_keypoints_of_a_file_are_not_those_of_virtual_cameras(untested, refused):
    line = refused(2, *TINY, '-c', untested, '--evaluate', 'last.bin', '--views', 'random', '-k', 'gt')
    assert '-k gt names the keypoints of a file, and these are seen by virtual cameras' in line


def test_a_size_that_a_file_does_not_tell_is_its_default(untested, refused, tmp_path):
    saved = torch.load(untested / 'last.bin', weights_only=True)
    del saved['config']['depth']
    saved.pop('digest', None)
    torch.save(saved, tmp_path / 'old.bin')
    line = refused(1, *TINY, '--evaluate', tmp_path / 'old.bin', '-dep', 5)
    assert 'was made with depth 2, which -dep 5 contradicts' in line


def test_the_command_for_the_table_says_how_it_was_made_and_that_a_cosine_is_another(run, tmp_path):
    flags = [*TINY, '--model', 'ktpformer', '-f', 9, '-cs', 16, '-dep', 1, '--subset', 0.02, '--schedule', 'cosine',
             '-ste', 'S5', '-a', 'Walking', '-c', tmp_path / 'a run', '-l', tmp_path / 'l']
    assert run(*flags, '-e', 1)[0] == 0
    status, out, err = run(*flags, '-e', 2, '--resume', '--target', 'overlap', '--overlap', 3, '--by-subject')
    assert (status, err) == (0, '')
    assert 'the rate now falls to 0 at epoch 2, not 1' in out
    said = f"-c '{tmp_path}/a run' --data data --evaluate best.bin --target overlap --overlap 3 --by-subject\n"
    assert f'again with: python run_ktpformer.py {said}' in out


def test_who_is_tested_is_not_trained_on_unless_that_is_said(run, tmp_path):
    flags = [*MARTINEZ, '-e', 1, '-l', tmp_path / 'l']
    status, out, err = run(*flags, '-ste', 'S2', '-c', tmp_path / 'a')
    assert (status, err) == (0, '')
    trained, = (line for line in out.splitlines() if line.startswith('training: subjects '))
    assert 'S2' not in trained and 'S1,' in trained and 'trained on and tested' not in out
    status, out, _ = run(*flags, '-str', 'S1,S2', '-ste', 'S2', '-c', tmp_path / 'b')
    assert status == 0
    assert 'S2: trained on and tested, so that figures tell nothing of people not seen' in out
