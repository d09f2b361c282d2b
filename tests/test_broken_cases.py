"""The files and faults of `shared/cases/broken`: each is made by its own make.py, and ends as it should now.

make.py starts the program several times; here it runs in this process, and so does what it starts, unless it needs a
shell. Those which other tests hold:

    02 --overwrite loses the old run        test_outputs.test_overwrite_keeps_the_other_run_until_there_is_something_new
    03 outputs over checkpoints and data    test_outputs.test_nothing_that_is_read_is_written_over
    04 two runs in one folder            test_outputs.test_two_runs_in_one_folder_one_trains_and_the_other_says_who_does
    11 inflating bombs                      test_damage.test_an_archive_that_would_fill_the_memory_is_refused,
                                            test_matlab.test_variables_that_would_fill_the_memory_or_come_twice_are_refused,
                                            test_matlab.test_hdf5_that_reads_other_files_or_fills_the_memory_is_refused
    29 a full disk                          test_resume.test_a_full_disk_keeps_the_last_good_checkpoint,
                                            test_files.test_a_full_disk_is_named
    30 SIGTERM leaves temporaries           test_outputs.test_sigterm_outside_training_leaves_nothing_half_written
    31 optimizer states out of bounds       test_resumed.test_states_of_another_form_are_refused
    33 HDF5 with external storage           test_matlab.test_hdf5_that_reads_other_files_or_fills_the_memory_is_refused
"""

import contextlib
import importlib
import io
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from conftest import SHARED
from processes import ROOT

import run_ktpformer
from common.drawing.video import write_film
from common.storage.lock import locked

BROKEN = SHARED / 'cases' / 'broken'
pytestmark = pytest.mark.skipif(not BROKEN.is_dir(), reason=f'no {BROKEN}')


class Run(NamedTuple):
    """One start of a program: its flags, exit status and streams."""

    flags: list[str]
    returncode: int
    stdout: str
    stderr: str


class Made(NamedTuple):
    """What a make.py did: the runs in their order, its folder, and what it printed."""

    runs: list[Run]
    folder: Path
    told: str

    @property
    def refusals(self) -> list[str]:
        """Return what the runs that failed said."""
        return [run.stderr for run in self.runs if run.returncode]


@pytest.fixture
def make(tmp_path, monkeypatch):
    """make(name) -> Made: run the make.py of the case whose folder begins so, in a folder of its own."""
    runs, really = [], subprocess.run

    def start(argv, **options):
        script = next((str(part) for part in argv if str(part).startswith(str(ROOT)) and str(part).endswith('.py')), '')
        alone = argv[0] != 'bash' or argv[2] == ' exec "$@"'  # nothing of the shell is needed
        if not (script and alone and options.get('env', os.environ).items() <= os.environ.items()):
            done = really(argv, **options)
            if script:
                runs.append(Run(argv, done.returncode, done.stdout, done.stderr))
            return done
        flags = argv[argv.index(script) + 1:]
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), monkeypatch.context() as patch:
            patch.setattr(sys, 'argv', [script, *flags])
            status = program(script)(flags)
        runs.append(Run(flags, status, out.getvalue(), err.getvalue()))
        return runs[-1]

    def make(name):
        (case,) = BROKEN.glob(f'{name}-*')
        folder = tmp_path / name
        monkeypatch.setattr(subprocess, 'run', start)
        monkeypatch.setattr(sys, 'argv', [str(case / 'make.py'), str(folder)])
        monkeypatch.setattr(sys, 'path', [*sys.path])
        monkeypatch.setattr(sys, 'dont_write_bytecode', True)
        for variable in ('OMP_NUM_THREADS', 'PYTHONDONTWRITEBYTECODE'):
            monkeypatch.setenv(variable, '1')
        monkeypatch.setenv('PRODUCT', str(ROOT))
        monkeypatch.setenv('PY', sys.executable)
        monkeypatch.chdir(tmp_path)
        with contextlib.redirect_stdout(io.StringIO()) as told:
            runpy.run_path(str(case / 'make.py'), run_name='__main__')
        for run in runs:
            assert_ends_well(run)
        assert not [path for path in folder.rglob('.*') if path.name != '.npz']
        return Made(runs, folder, told.getvalue())
    return make


def program(script):
    """Return the main function of a script of the project."""
    path = Path(script).relative_to(ROOT)
    return run_ktpformer.main if path.name == 'run_ktpformer.py' else importlib.import_module(
        '.'.join(path.with_suffix('').parts)).main


def assert_ends_well(run):
    """Check that a run was one of success, or of one printable line."""
    if 'thread-local data: ABORT' in run.stderr:  # how glibc ends a process; no program can catch it
        return
    assert run.returncode in (0, 1, 2), run
    assert 'Traceback' not in run.stderr + run.stdout, run
    if 'exec 2>&-;' not in ' '.join(run.flags):
        assert len(run.stderr.splitlines()) == (run.returncode != 0), run
    assert run.stderr.rstrip('\n').isprintable() and len(run.stderr) < 2200, run.stderr[:3000]


def each_says(made, *expected):
    """Check what the last runs say: a part of the line of a refusal, or None for a run that goes well."""
    for run, words in zip(made.runs[-len(expected):], expected, strict=True):
        assert (run.returncode == 0) == (words is None), run
        assert words is None or words in run.stderr, run


def test_01_a_damaged_last_is_not_taken_as_sound(make):
    made = make('01')
    each_says(made, None, 'last.bin is not a readable checkpoint: it is damaged, as the sum of', None)
    assert 'last.bin is not a readable checkpoint' in made.runs[-1].stdout
    assert 'previous.bin, the save before it, is there: going' in made.runs[-1].stdout


def test_05_a_resume_beside_a_running_run_is_refused(trained, h36m_folder, refused, tmp_path):
    with locked(tmp_path / 'c'):
        for path in trained[0].iterdir():
            (tmp_path / 'c' / path.name).write_bytes(path.read_bytes())
        line = refused(1, '-c', tmp_path / 'c', '-l', tmp_path, '--data', h36m_folder, '-r', '-e', 3, '--device', 'cpu')
        assert f'is in use by another run (process {os.getpid()} on ' in line
    assert {path.name for path in (tmp_path / 'c').iterdir()} == {path.name for path in trained[0].iterdir()}


def test_06_an_output_called_by_its_suffix_or_a_link_is_written(make):
    made = make('06')
    each_says(made, None, None)
    for name in ('.npz', 'blob'):
        assert np.load(made.folder / name)['poses'].shape == (30, 17, 3)
    assert (made.folder / 'out.npz').is_symlink()


def test_07_other_data_inside_an_epoch_are_noticed(make):
    each_says(make('07'), 'data')


def test_08_a_checkpoint_does_not_say_where_to_write(make):
    made = make('08')
    assert [path.name for path in (made.folder / 'victim').iterdir()] == ['metrics.jsonl']
    assert (made.folder / 'victim' / 'metrics.jsonl').read_text() == '{"epoch": 1}\n{"epoch": 9, "mine": 1}\n'


@pytest.mark.parametrize('name', ['09', '10'])
def test_09_10_small_files_that_fill_the_memory_are_refused(make, name):
    (run,) = make(name).runs
    assert run.returncode == 1 and 'data_3d_h36m.npz is not a readable npz file' in run.stdout


def test_13_sizes_that_no_memory_holds_are_refused_at_once(make):
    assert all(run.returncode for run in make('13').runs)


def test_14_pipes_are_not_read(make):
    data, converter = make('14').runs
    assert data.returncode == 1 and 'data_3d_h36m.npz: it is not a regular file' in data.stdout
    assert converter.returncode == 1 and 'a.npz' in converter.stderr


def test_15_odd_lines_in_metrics_do_not_end_a_run(make):
    assert [run.returncode for run in make('15').runs[-5:]] == [0] * 5


@pytest.mark.parametrize('kind', ['codec', 1400, 1700])
def test_16_a_cut_video_and_an_unknown_codec_are_refused(trained, h36m_folder, refused, tmp_path, kind):
    pytest.importorskip('av')
    write_film(tmp_path / 'v.mp4', (np.full((100, 100, 3), 10 * k, np.uint8) for k in range(14)), 50)
    whole = (tmp_path / 'v.mp4').read_bytes()
    cut = whole.replace(b'avc1', b'xvc1') if kind == 'codec' else whole[:kind * len(whole) // 2048]
    (tmp_path / 'x.mp4').write_bytes(cut)
    line = refused(1, '-c', trained[0], '--evaluate', 'best.bin', '--data', h36m_folder, '--device', 'cpu', '--render',
                   '--viz-output', tmp_path / 'o.gif', '--viz-size', 1, '--viz-video', tmp_path / 'x.mp4')
    assert 'x.mp4 is not a readable video' in line or 'x.mp4 has no frames' in line
    assert not (tmp_path / 'o.gif').exists()


def test_17_fields_that_cannot_be_are_refused(make):
    made = make('17')
    assert all(run.returncode == 1 and 'x.bin ' in run.stderr for run in made.runs[1:]), made.runs


def test_19_cameras_of_impossible_sizes_are_refused(make):
    for run, words in zip(make('19').runs, ('width', 'orientation'), strict=True):
        assert run.returncode == 1 and words in run.stdout + run.stderr


def test_20_log_folders_that_tensorboard_cannot_name_are_refused(make):
    made = make('20')
    each_says(made, *['its name is not UTF-8; choose another -l'] * 2)
    assert not (made.folder / os.fsdecode(b'l\xff')).exists()


@pytest.mark.slow
def test_21_closed_streams_end_nothing(make):
    made = make('21')
    assert [run.returncode for run in made.runs[:3]] == [0, 0, made.runs[3].returncode]
    assert (made.folder / 'ck' / 'last.bin').exists()


def test_23_outputs_that_cannot_be_are_told_before_the_work(make):
    made = make('23')
    each_says(made, 'fifo: it is not a regular file', '/dev/full: it is not a regular file', 'dangling', 'loop', None)
    assert not any('average' in run.stdout for run in made.runs[-5:-1])
    assert (made.folder / 't.out').read_bytes().startswith(b'\x89PNG')


def test_24_a_clip_whose_name_is_not_utf8_is_told(make):
    each_says(make('24'), 'has a name that is not UTF-8 or cannot be printed: rename it')


@pytest.mark.slow
def test_25_little_memory_is_told(make):
    each_says(make('25'), '', '', '', "RANK='x'", 'MASTER_ADDR')


def test_26_names_from_files_stay_on_one_short_line(make):
    made = make('26')
    assert max(map(len, made.refusals)) < 1000
    assert len(made.refusals) >= 7


def test_28_two_members_of_one_name_are_refused(make):
    each_says(make('28'), 'it has two members positions_3d')


def test_32_words_that_nothing_knows_are_refused(make):
    words = ('loss', 'objective', 'schedule', 'select', 'precision')
    each_says(make('32'), *(f'its setting {name} is' for name in words),
              'maximize is True', 'it is damaged, as its weights')
