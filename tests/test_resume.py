"""A run that is killed, stopped or broken off at any moment, and resumed, is the run that was never disturbed."""

import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import SMALL
from processes import ROOT, Process, run_alone

from common.storage import checkpoint
from common.training import loop as train

TIMINGS = ('seconds', 'frames_per_second')


def flags_in(folder: Path, data: Path, name: str, *more) -> list[str]:
    """Return the flags of a run of three epochs of twelve steps, drop path on, in folder/name."""
    return [str(f) for f in ('-k', 'gt', '--data', data, '-str', 'S1', '-ste', 'S9', *SMALL, '-e', 3,
                             '-c', folder / name, '-l', folder / f'{name}-log', *more)]


@pytest.fixture
def flags(h36m_folder, tmp_path):
    return partial(flags_in, tmp_path, h36m_folder)


def epochs_of(folder: Path) -> list[dict]:
    """Return the lines of the only run folder, without timings."""
    (run,) = folder.iterdir()
    lines = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMINGS} for line in lines]


def assert_same_run(a: Path, b: Path):
    """Compare two runs bit for bit: weights, optimizer state, position and records."""
    one, two = (torch.load(folder / 'last.bin', weights_only=True) for folder in (a, b))
    for key, value in one['model_pos'].items():
        assert torch.equal(value, two['model_pos'][key]), key
    assert one['optimizer']['state'].keys() == two['optimizer']['state'].keys()
    for index, state in one['optimizer']['state'].items():
        for key, value in state.items():
            assert torch.equal(value, two['optimizer']['state'][index][key]), (index, key)
    for key in ('epoch', 'step', 'loss_sum', 'base_lr', 'lr_since', 'first_epoch'):
        assert one[key] == two[key]
    assert one['best']['epoch'] == two['best']['epoch']
    assert epochs_of(a.parent / f'{a.name}-log') == epochs_of(b.parent / f'{b.name}-log')


@pytest.fixture(scope='module')
def undisturbed(h36m_folder, tmp_path_factory):
    """Return the checkpoint folder of an undisturbed run; not to be written to."""
    folder = tmp_path_factory.mktemp('undisturbed')
    status, _, err = run_alone('run_ktpformer.py', *flags_in(folder, h36m_folder, 'whole'))
    assert (status, err) == (0, '')
    return folder / 'whole'


@pytest.mark.parametrize('more', [pytest.param((), marks=pytest.mark.slow), ('--save-every-steps', '3')],
                         ids=['every epoch', 'every 3 steps'])
def test_a_run_killed_at_random_moments_resumes_exactly(flags, undisturbed, tmp_path, more):
    """SIGKILL, again and again, at moments that no one chose; each time `--resume` goes on."""
    chance = random.Random(0)
    kills = 0
    mine = tmp_path / 'killed'
    while True:
        resume = ['--resume'] if (mine / 'last.bin').exists() else []
        process = Process('run_ktpformer.py', *flags('killed', *more), *resume)
        # let it get somewhere first: it dies up to 0.3 s after it has written something new
        before = (mine / 'last.bin').stat().st_mtime_ns if resume else 0
        while kills < 4 and not process.ended():
            if (mine / 'last.bin').exists() and (mine / 'last.bin').stat().st_mtime_ns != before:
                break
            time.sleep(0.005)
        if kills < 4:
            time.sleep(chance.uniform(0, 0.3))
            process.send(signal.SIGKILL)
        status, _, err = process.wait()
        if status != -signal.SIGKILL:
            assert (status, err) == (0, '')
            break
        kills += 1
    assert kills >= 2
    assert_same_run(undisturbed, mine)


@pytest.mark.parametrize('number, status', [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_the_step_and_the_run_resumes_there(flags, undisturbed, tmp_path, number, status):
    """The first signal saves at the end of the step, inside the epoch; the run then goes on from that very step."""
    process = Process('run_ktpformer.py', *flags('stopped'))
    while not (tmp_path / 'stopped' / 'last.bin').exists():
        time.sleep(0.005)
    process.send(number)
    got, _, err = process.wait()
    assert got == status, err
    assert err.strip().endswith('holds every step so far, continue with --resume')
    saved = torch.load(tmp_path / 'stopped' / 'last.bin', weights_only=True)
    assert saved['epoch'] < 3
    done, _, err = run_alone('run_ktpformer.py', *flags('stopped'), '--resume')
    assert (done, err) == (0, '')
    assert_same_run(undisturbed, tmp_path / 'stopped')


def test_a_second_signal_ends_at_once(tmp_path):
    code = ('import os, signal, time\nfrom common.training.signals import StopRequest\n'
            'with StopRequest() as stop:\n os.kill(os.getpid(), signal.SIGTERM)\n assert stop.signal == 15\n'
            ' os.kill(os.getpid(), signal.SIGINT)\n'
            ' time.sleep(1.1)\n os.kill(os.getpid(), signal.SIGINT)\n time.sleep(30)')
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT, timeout=20).returncode == 130


def test_recipes_beyond_the_published_one_resume_exactly(flags, tmp_path):
    recipe = ('--ema', '0.9', '--schedule', 'cosine', '--warmup', '20', '--clip', '0.5', '--window-step', '4')
    assert run_alone('run_ktpformer.py', *flags('whole', *recipe))[0] == 0
    process = Process('run_ktpformer.py', *flags('parts', *recipe))
    while not (tmp_path / 'parts' / 'last.bin').exists():
        time.sleep(0.005)
    process.send(signal.SIGTERM)
    process.wait()
    assert run_alone('run_ktpformer.py', *flags('parts', *recipe), '--resume')[0] == 0
    assert_same_run(tmp_path / 'whole', tmp_path / 'parts')


def test_resume_goes_on_in_the_run_folder_and_cuts_what_it_repeats(flags, run, tmp_path):
    assert run(*flags('run', '-cf', 1))[0] == 0
    before = epochs_of(tmp_path / 'run-log')
    shutil.copyfile(tmp_path / 'run' / 'epoch_1.bin', tmp_path / 'run' / 'last.bin')
    status, out, _ = run(*flags('run'), '--resume')
    assert status == 0
    assert 'continuing' in out
    assert epochs_of(tmp_path / 'run-log') == before
    (folder,) = (tmp_path / 'run-log').iterdir()
    assert json.loads((folder / 'resumed.jsonl').read_text())['epoch'] == 1


def test_a_damaged_last_falls_back_to_the_save_before(flags, run, refused, tmp_path):
    assert run(*flags('run'), '-e', 2)[0] == 0
    last = tmp_path / 'run' / 'last.bin'
    last.write_bytes(last.read_bytes()[:1000])
    status, out, err = run(*flags('run'), '--resume')
    assert (status, err) == (0, '')
    assert 'going on from' in out
    assert 'previous.bin, the save before it' in out
    assert torch.load(last)['epoch'] == 3
    for name in ('last.bin', 'previous.bin'):
        (tmp_path / 'run' / name).write_bytes(b'nothing')
    assert 'is not a readable checkpoint' in refused(1, *flags('run'), '--resume')


def test_resume_without_a_checkpoint_is_refused_and_past_the_end_evaluates(flags, run, refused, tmp_path):
    assert 'last.bin is neither in' in refused(1, *flags('run'), '--resume')
    assert not (tmp_path / 'run').exists()
    assert run(*flags('run'))[0] == 0
    for end in (3, 2):
        status, out, _ = run(*flags('run'), '--resume', '-e', end)
        assert status == 0
        assert 'nothing is left to train' in out
        assert 'average, protocol paper: MPJPE' in out


def test_init_takes_only_weights(flags, run, refused, tmp_path):
    assert run(*flags('first'))[0] == 0
    status, out, _ = run(*flags('second', '--init', tmp_path / 'first' / 'last.bin', '-lr', 1e-9, '-e', 1))
    assert status == 0
    assert 'starting from the weights of' in out
    a, b = (torch.load(tmp_path / name / 'last.bin') for name in ('first', 'second'))
    assert b['epoch'] == 1
    for key, value in a['model_pos'].items():
        if 'running' not in key and 'num_batches' not in key:
            torch.testing.assert_close(b['model_pos'][key], value, atol=1e-6, rtol=0)
    assert 'made with frames 9' in refused(1, *flags('third', '--init', tmp_path / 'first' / 'last.bin', '-f', 27))


def test_a_loss_that_is_not_finite_is_found_by_step_and_parameter(flags, refused, monkeypatch, tmp_path):
    """One NaN in the data, put there after loading: weights stay as they were before that step."""
    made = train.Trainer.__init__

    def poisoned(self, *args):
        made(self, *args)
        self.sampler.store.poses[17] = float('nan')
    monkeypatch.setattr(train.Trainer, '__init__', poisoned)
    line = refused(1, *flags('run', '--no-eval'))
    assert 'training diverged in epoch 1, step ' in line
    assert 'the first parameter with a gradient that is not finite is kpattention' in line
    assert not list((tmp_path / 'run').iterdir())


def test_the_optimizer_skips_from_the_bad_step_on(monkeypatch, flags, run, tmp_path):
    """The weights at the end of the epoch are those of the step before the bad one, though no one looked in between."""
    weights = []
    gradient = train.Trainer.gradient

    def watched(self, batch, epoch, *objective):
        weights.append(torch.cat([p.detach().flatten().clone() for p in self.model.parameters()]))
        loss = gradient(self, batch, epoch, *objective)
        return loss * float('nan') if batch.number == 4 else loss
    monkeypatch.setattr(train.Trainer, 'gradient', watched)
    assert run(*flags('run'))[0] == 1
    assert not torch.equal(weights[3], weights[4])
    assert all(torch.equal(weights[4], later) for later in weights[5:])
    assert len(weights) == 13  # twelve steps and the one done again to find the parameter


def test_resuming_deletes_no_checkpoint_in_the_folder(flags, run, trained, tmp_path):
    """Neither the file that is resumed nor any other epoch_N.bin, unless --overwrite says so."""
    (tmp_path / 'run').mkdir()
    state = torch.load(trained[0] / 'best.bin')['model_pos']
    torch.save({'epoch': 1, 'lr': 1e-3, 'model_pos': state}, tmp_path / 'run' / 'epoch_1.bin')
    (tmp_path / 'run' / 'epoch_77.bin').write_bytes(b'mine')
    assert run(*flags('run'), '-e', 2, '--resume', 'epoch_1.bin')[0] == 0
    assert {'epoch_1.bin', 'epoch_77.bin', 'last.bin'} <= {p.name for p in (tmp_path / 'run').iterdir()}


def test_the_best_survives_branches_and_resumes(flags, run, tmp_path):
    """Resumed into another folder with a ruinous rate, and resumed there again: the best is the first run's."""
    assert run(*flags('a'))[0] == 0
    best = torch.load(tmp_path / 'a' / 'best.bin')['metrics']
    assert run(*flags('b'), '-r', tmp_path / 'a' / 'last.bin', '-e', 4, '-lr', 0.3)[0] == 0
    assert run(*flags('b'), '-r', '-e', 5)[0] == 0
    assert torch.load(tmp_path / 'b' / 'best.bin')['metrics'] == best
    assert torch.load(tmp_path / 'b' / 'last.bin')['best'] == best


def test_other_windows_cannot_finish_an_epoch(flags, run, refused, tmp_path):
    assert run(*flags('run', '--save-every-steps', 5, '--no-eval'), '-e', 1)[0] == 0
    saved = torch.load(tmp_path / 'run' / 'last.bin')
    torch.save(saved | {'step': 5, 'epoch': 0}, tmp_path / 'run' / 'last.bin')
    assert 'lies inside an epoch, at step 5: batch cannot change' in refused(2, *flags('run'), '--resume', '-b', 180)
    assert 'needs the evaluation that the resumed run leaves out' in \
        refused(2, *flags('run'), '--resume', '--results', tmp_path / 'r.json')


def test_a_full_disk_keeps_the_last_good_checkpoint(flags, tmp_path):
    """A file-size limit stands for a full disk: one line, exit status 1, what was saved before stays readable."""
    assert run_alone('run_ktpformer.py', *flags('run'), '-e', '1')[0] == 0
    good = (tmp_path / 'run' / 'last.bin').read_bytes()
    assert len(good) > 100_000
    process = Process('run_ktpformer.py', *flags('run'), '--resume')
    resource.prlimit(process.pids[0], resource.RLIMIT_FSIZE, (100_000, 100_000))
    status, _, err = process.wait()
    assert status == 1
    assert len(err.strip().splitlines()) == 1, err
    assert 'cannot write' in err
    assert (tmp_path / 'run' / 'last.bin').read_bytes() == good
    assert checkpoint.load(tmp_path / 'run' / 'last.bin').epoch == 1
    assert not [p.name for p in (tmp_path / 'run').iterdir() if p.name.startswith('.')]


def test_a_run_writes_curves_summary_and_training_error(flags, run, tmp_path):
    status, out, _ = run(*flags('run', '--export-training-curves', '--eval-train'))
    assert status == 0
    (folder,) = (tmp_path / 'run-log').iterdir()
    assert (folder / 'curves.png').read_bytes().startswith(b'\x89PNG')
    assert all(m['train_mpjpe'] > 0 for m in epochs_of(tmp_path / 'run-log'))
    assert 'finished: best epoch' in out
    assert 'peak memory' in out
    assert f'again with: python run_ktpformer.py -c {tmp_path / "run"}' in out


def test_a_clean_validation_split_picks_the_best(h36m_folder, run, refused, tmp_path):
    base = ['-k', 'gt', '--data', h36m_folder, *SMALL, '-e', 1, '-c', tmp_path / 'c', '-l', tmp_path / 'l']
    status, out, _ = run(*base, '-str', 'S1', '-ste', 'S11', '--subjects-valid', 'S9')
    assert status == 0
    assert 'the best on the validation subjects S9' in out
    assert 'evaluated on h36m, keypoints gt, subjects S11' in out
    assert '--subjects-valid S1 is a training subject too' in \
        refused(2, *base, '-str', 'S1', '--subjects-valid', 'S1', '--overwrite')


def test_select_last_closes_with_the_last_epoch(flags, run):
    status, out, _ = run(*flags('run', '--select', 'last'))
    assert status == 0
    assert 'last.bin: epoch 3; again with' in out


def test_the_average_is_what_is_evaluated_and_saved(flags, run, tmp_path):
    """With a decay of nearly nothing the average is the last weights; with one near 1 it stays at the first ones."""
    assert run(*flags('plain'))[0] == 0
    assert run(*flags('fast', '--ema', '1e-9'))[0] == 0
    plain, fast = (torch.load(tmp_path / name / 'last.bin') for name in ('plain', 'fast'))
    for key, value in plain['model_pos'].items():
        torch.testing.assert_close(fast['model_pos'][key], value, rtol=1e-4, atol=1e-6)
        assert torch.equal(fast['training_state'][key], value)
    assert run(*flags('slow', '--ema', '0.999999'))[0] == 0
    slow = torch.load(tmp_path / 'slow' / 'last.bin')
    assert slow['metrics']['valid_mpjpe'] > plain['metrics']['valid_mpjpe']
    assert run(*flags('slow')[:4], '-c', tmp_path / 'slow', '--evaluate', 'last.bin')[0] == 0


def test_inspect_describes_ours_public_and_foreign_files(flags, run, trained, tmp_path):
    status, out, _ = run('-c', trained[0], '--inspect', 'best.bin')
    assert status == 0
    for words in ('a checkpoint of this program', "'frames': 9", 'h36m, 17 joints: hip, right_hip', 'gt of h36m',
                  'valid_mpjpe', torch.__version__, "'seed': 1234"):
        assert words in out
    state = torch.load(trained[0] / 'best.bin')['model_pos']
    torch.save({'epoch': 5, 'lr': 1e-4, 'model_pos': state}, tmp_path / 'public.bin')
    status, out, _ = run('--inspect', tmp_path / 'public.bin')
    assert status == 0
    assert 'inferred from its shapes' in out
    torch.save({'w': torch.zeros(3)}, tmp_path / 'other.bin')
    status, out, _ = run('--inspect', tmp_path / 'other.bin')
    assert "weights that are not KTPFormer's" in out
