"""A seeded fuzzer of the converters: damaged raw files are converted, or refused in one line with nothing written.

Formats without a checksum can hold other numbers than before, which nobody can tell; all else must hold. The seed of a
failure is run alone by FUZZ_SEEDS=123 pytest tests/test_fuzz_raw.py -n 0
"""

import os
import resource
import signal
import time

import pytest

pytest.importorskip('cdflib')
pytest.importorskip('scipy.io')
pytest.importorskip('h5py')

import test_cmu
import test_convert_2d
import test_convert_3dhp
import test_convert_h36m
import test_convert_humaneva
from raw_files import nothing_in
from test_fuzz import MEMORY, SECONDS, Hang, damaged, each, seeds

from data import prepare_data_2d, prepare_data_3dhp, prepare_data_cmu, prepare_data_h36m, prepare_data_humaneva


def cmu(folder):
    test_cmu.write_little_people(folder, frames=5)


def h36m(folder):
    test_convert_h36m.write_cdf(test_convert_h36m.place(folder, 'S1', 'Directions.cdf'), test_convert_h36m.pose(4))
    test_convert_h36m.write_cdf(test_convert_h36m.place(folder, 'S1', 'Eating.cdf'), test_convert_h36m.pose(2),
                                compressed=0)
    test_convert_h36m.write_mat(test_convert_h36m.place(folder, 'S11', 'Posing.cdf.mat'), test_convert_h36m.pose(3)[0])


def mpi_inf_3dhp(folder):
    test_convert_3dhp.write_training(folder, 'S1/Seq1', **test_convert_3dhp.training(5))
    test_convert_3dhp.write_evaluation(folder, 'mpi_inf_3dhp_test_set/TS5', **test_convert_3dhp.evaluation())


def humaneva(folder):
    test_convert_humaneva.write(folder, 'Train/S1/Walking_1', **test_convert_humaneva.take(6))
    test_convert_humaneva.write(folder, 'Validate/S1/Walking_1', **test_convert_humaneva.take(5))


def detections(folder):
    test_convert_2d.write(folder / 'clip.mp4.npz', test_convert_2d.moving(5), (1280, 720))


# What writes sound raw files into a folder, the converter of such files, and its flags.
KINDS = {'cmu': (cmu, prepare_data_cmu, []), 'h36m': (h36m, prepare_data_h36m, ['--force']),
         '3dhp': (mpi_inf_3dhp, prepare_data_3dhp, ['--force']),
         'humaneva': (humaneva, prepare_data_humaneva, ['--force']),
         '2d': (detections, prepare_data_2d, ['--name', 'mine'])}


@pytest.fixture
def convert(tmp_path, capfd):
    """convert(kind, folder, about) -> status, having checked what must hold of every run."""
    def main(kind, folder, about):
        out = tmp_path / 'out'
        _, converter, flags = KINDS[kind]
        highest, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()

        def stop(*_):
            raise Hang
        old = signal.signal(signal.SIGALRM, stop)
        signal.alarm(SECONDS)
        try:
            status = converter.main([str(folder), '--data', str(out), *flags])
        except Hang:
            raise AssertionError(f'{about}: ran for more than {time.monotonic() - begun:.0f} s') from None
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, old)
        said, err = capfd.readouterr()
        lines = [line for line in err.splitlines() if not line.startswith('warning: ')]
        assert status in (0, 1), f'{about}: status {status}, {err}'
        assert 'Traceback' not in said + err, f'{about}\n{err}'
        assert len(lines) == status and all(line.isprintable() for line in lines), f'{about}: stderr {err!r}'
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < highest + MEMORY, f'{about}: much memory'
        assert status == 0 or nothing_in(out), f'{about}: left {list(out.iterdir())}'
        assert not [name for name in os.listdir(tmp_path) if name.startswith('.')], about
        for path in out.iterdir() if out.exists() else ():
            path.unlink()
        return status
    return main


@pytest.mark.parametrize('kind', KINDS)
@seeds(60, 3000)
def test_damaged_raw_files_are_converted_or_refused(convert, tmp_path, kind, numbers):
    raw = tmp_path / 'raw'
    raw.mkdir()
    KINDS[kind][0](raw)
    assert convert(kind, raw, 'undamaged') == 0
    paths = sorted(path for path in raw.rglob('*') if path.is_file())

    def check(seed, chance):
        path = chance.choice(paths)
        whole = path.read_bytes()
        content, told = damaged(chance, whole)
        path.write_bytes(content)
        try:
            convert(kind, raw, f'seed {seed}: {path.name} {told}')
        finally:
            path.write_bytes(whole)
    each(numbers, check)
