"""SIGTERM at moments that no one chose, in every command that writes: each output is whole, or not there."""

import json
import random
import signal
import time

import numpy as np
import pytest
import test_cmu
from PIL import Image
from processes import Process
from test_predict import clip

from common.storage.npz import read_npz


def frames_of(path):
    with Image.open(path) as image:
        image.seek(getattr(image, 'n_frames', 1) - 1)
        image.load()


READERS = {'.npz': read_npz, '.json': lambda path: json.loads(path.read_text()), '.csv': np.genfromtxt,
           '.gif': frames_of, '.png': frames_of}


@pytest.fixture
def commands(trained, h36m_folder, tmp_path):
    """Name -> (script, its command line), all of which write below tmp_path/out."""
    out = tmp_path / 'out'
    np.save(tmp_path / 'walk.npy', clip(40)[1])
    test_cmu.write_little_people(tmp_path / 'raw', frames=1500)
    lifts = ['-c', trained[0], '--evaluate', 'best.bin', '--device', 'cpu']
    data = ['-k', 'gt', '--data', h36m_folder]
    return {
        'evaluate': ('run_ktpformer.py', [*data, *lifts, '--results', out / 'a.json', '--export-predictions',
                                          out / 'a.npz']),
        'plots': ('run_ktpformer.py', [*data, *lifts, '--plots', out / 'plots']),
        'render': ('run_ktpformer.py', [*data, *lifts, '--render', '--viz-output', out / 'a.gif', '--viz-limit', 5,
                                        '--viz-size', 1, '--viz-export', out / 'a.npz']),
        'predict': ('run_ktpformer.py', [*lifts, '--predict', tmp_path / 'walk.npy', '--image-size', 1000, 1002,
                                         '--layout', 'h36m', '--output', out / 'a.npz', '--csv', out / 'a.csv']),
        'convert': ('data/prepare_data_cmu.py', [tmp_path / 'raw', '--data', out]),
    }


@pytest.mark.parametrize('times', [2, pytest.param(25, marks=pytest.mark.slow)])
@pytest.mark.parametrize('name', ['evaluate', 'predict', 'convert', *(pytest.param(
    name, marks=pytest.mark.slow) for name in ('plots', 'render'))])
def test_what_is_written_is_whole_or_absent(commands, tmp_path, name, times):
    chance, out = random.Random(0), tmp_path / 'out'
    script, flags = commands[name]
    out.mkdir()
    for _ in range(2):  # the first process of a session starts the server that forks the others
        begun = time.monotonic()
        status, _, err = Process(script, *flags).wait()
        took = time.monotonic() - begun
        assert status == 0, err
    whole = sorted(path.relative_to(out) for path in out.rglob('*') if path.is_file())
    assert whole
    stopped = 0
    for _ in range(times):
        for path in whole:
            (out / path).unlink()
        process = Process(script, *flags)
        time.sleep(chance.uniform(0.2, 1) * took)
        process.send(signal.SIGTERM)
        status, _, err = process.wait()
        assert status in (0, 143, -signal.SIGTERM), err
        assert err == '' or err.count('\n') == 1, err
        stopped += status != 0
        took *= 1 if status else 0.7  # the machine has become faster than it was
        left = sorted(path.relative_to(out) for path in out.rglob('*') if path.is_file())
        assert set(left) <= set(whole), 'half-written files'
        assert status or left == whole
        for path in left:
            READERS[path.suffix](out / path)
        for path in whole:
            (out / path).touch()
    assert stopped
