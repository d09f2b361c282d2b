"""A seeded fuzzer of the whole program: whatever it is given, it does its work or says in one line why it does not.

Each input is made from a seed alone. What must hold of every one stands in `Prober.__call__`; the seed and the command
line are part of the message when it does not. A seed of a failure is run alone by

    FUZZ_SEEDS=123 pytest tests/test_fuzz.py -n 0 -k flags     (or 100-200)
"""

import copy
import hashlib
import json
import os
import random
import re
import resource
import shlex
import shutil
import signal
import time
import traceback
from pathlib import Path

import keypoint_files as files
import numpy as np
import pytest
import torch
from test_predict import clip
from test_resumed import VALUES

import run_ktpformer
from common.config import all_flags
from common.storage.contents import DIGEST
from common.storage.npz import read_npz

SECONDS, MEMORY = 20, 2 << 20  # of one input, the second in KiB
MANY = '9' * 5000
# What may stand where a flag wants a number, a name or a file.
NUMBERS = ('0', '1', '2', '3', '9', '27', '-1', '-0', '0.5', '1e-3', '1e308', '1e-308', '1e400', 'nan', '-inf', '1_0',
           '٣', '0x10', ' 7', '1\n2', '2147483648', '1000000', '9223372036854775808', '9' * 400, MANY, '', 'x')
TEXTS = ('', ' ', 'x', 'S1', 'S9', 'S9,S11', 'S1,S1', ',', '*', 'Walking', 'Sitting', 'Directions 1', 'gt', '..', '.',
         '/', 'a/b', 'a\nrun_ktpformer.py: error: forged', '\x1b[2J', 'é', '\udcff', '\U0001f600', 'x' * 300,
         'x' * 5000, '-1', '--', '-', '%s', '{}', "'", 'coco', 'h36m', 'body25')
SOURCES = ('best.bin', 'last.bin', 'c/best.bin', 'in.npy', 'in.json', 'in.npz', 'data/data_3d_h36m.npz', 'film.gif',
           'none.bin', 'pipe', 'data', '/dev/null', '/dev/zero', 'loop', 'empty', 'text', 'folder')
OUTPUTS = ('out.json', 'out.npz', 'out.npy', 'out.csv', 'out.gif', 'out.png', 'out.mat', 'out', '.npz', 'no/out.npz',
           'out\udcff.npz', 'x' * 251 + '.npz', 'x' * 300 + '.npz')
# Fields whose large values mean much work, and nothing else; torch.compile takes minutes.
WORK = {'epochs': ('1', '2', '0', '-1', 'x', MANY, '1.5', ''), 'compile': None,
        'dataset': ('h36m', 'custom', 'cmu', '3dhp', 'humaneva15', 'x', '')}
FIELDS = [(section, name, flag) for section, name, flag in all_flags() if WORK.get(name, ()) is not None]


class Hang(BaseException):
    """Raised in the middle of a run that takes too long; nothing catches it."""


class Prober:
    """Runs command lines in a folder of their own, and asserts what holds of all of them."""

    def __init__(self, place: Path, folder: Path, capture, monkeypatch):
        self.place, self.folder, self.capture, self.monkeypatch = place, folder, capture, monkeypatch
        self.statuses: dict[int, int] = {0: 0, 1: 0, 2: 0}

    def fresh(self) -> Path:
        """Return the folder of the next input, with all that the inputs of its kind read in it."""
        os.chdir(self.place)
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.place, self.folder, symlinks=True)
        os.mkfifo(self.folder / 'pipe')
        os.chdir(self.folder)
        return self.folder

    def __call__(self, seed, argv, told='', outputs=OUTPUTS, keeps=True):
        """Run one command line in the folder; return (status, stdout).

        Args:
            told: what else made the input, for messages.
            outputs: names of files that must not be there where the status is not 0.
            keeps: whether all files that were there must stay as they are where the status is not 0.
        """
        argv = [str(part) for part in argv]
        about = f'seed {seed}: {shlex.join(map(short, argv))!r} {told}'
        before = digests(self.folder)
        highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begun = time.monotonic()
        status, raised = self._run(argv)
        if 'FUZZ_TIMES' in os.environ:
            with open(os.environ['FUZZ_TIMES'], 'a') as file:
                file.write(f'{time.monotonic() - begun:.2f} {status} {about!r}\n')
        out, err = self.capture.readouterr()
        assert raised is None, f'{about}\n{raised}'
        assert status in self.statuses, f'{about}: status {status}, {err}'
        self.statuses[status] += 1
        assert 'Traceback' not in out + err, f'{about}\n{err}'
        assert len(err.splitlines()) == (status != 0), f'{about}: status {status}, stderr {err!r}'
        assert len(err) < 2200 and err.rstrip('\n').isprintable(), f'{about}: {err[:3000]!r}'
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < highest + MEMORY, f'{about}: much memory'
        after = digests(self.folder)
        hidden = [name for name in after.keys() - before.keys()
                  if Path(name).name.startswith('.') and Path(name).name not in outputs]
        assert not hidden, f'{about}: left {hidden}'
        if status and keeps:
            made = [name for name in outputs if name in after and name not in before]
            assert not made, f'{about}: status {status}, but wrote {made}'
            changed = [name for name in before if before[name] != after.get(name)]
            assert not changed, f'{about}: status {status}, but changed {changed}'
        return status, out, err

    def _run(self, argv):
        """Return the exit status, and what main raised, as text, or None."""
        def stop(*_):
            raise Hang
        old = signal.signal(signal.SIGALRM, stop)
        signal.alarm(SECONDS)
        try:
            return run_ktpformer.main(argv), None
        except Hang:
            return None, f'ran for more than {SECONDS} s:\n{traceback.format_exc()[-2000:]}'
        except BaseException:
            return None, traceback.format_exc()[-3000:]
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, old)


def short(token):
    """Return a part of a command line as messages show it."""
    return token if len(token) < 80 else f'{token[:20]}({len(token)} letters){token[-20:]}'


def digests(folder):
    """Return {name: digest} of the regular files below a folder."""
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            if path.is_file():
                found[os.path.relpath(path, folder)] = hashlib.md5(path.read_bytes()).digest()
    return found


@pytest.fixture(scope='module')
def place(h36m_folder, trained, tmp_path_factory):
    """A folder with a data set, a run's checkpoints, keypoints and odd files, which each input gets a copy of."""
    place = tmp_path_factory.mktemp('place')
    shutil.copytree(h36m_folder, place / 'data')
    (place / 'c').mkdir()
    for name in ('best.bin', 'last.bin'):  # without the save before, from which --resume would train on
        shutil.copy(trained[0] / name, place / 'c')
    _, pixels = clip(12)
    keypoints = files.with_scores(pixels)
    np.save(place / 'in.npy', pixels)
    np.savez(place / 'in.npz', keypoints=keypoints, size=(1000, 1002), fps=25)
    files.alphapose(place / 'in.json', files.in_layout(pixels, files.COCO))
    (place / 'empty').touch()
    (place / 'text').write_text('hello\n')
    (place / 'folder').mkdir()
    os.symlink('loop', place / 'loop')
    return place


@pytest.fixture
def probe(place, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield Prober(place, tmp_path / 'f', capfd, monkeypatch)
    os.chdir(tmp_path)


def seeds(fast, slow):
    """Return parametrization over seeds: some always, many more in slow tests; those alone that FUZZ_SEEDS names."""
    if 'FUZZ_SEEDS' in os.environ:
        first, _, last = os.environ['FUZZ_SEEDS'].partition('-')
        chosen = range(int(first), int(last or first) + 1)
        return pytest.mark.parametrize('numbers', [pytest.param(chosen, id='chosen')])
    return pytest.mark.parametrize('numbers', [
        pytest.param(range(fast), id='some'),
        pytest.param(range(fast, slow), id='many', marks=pytest.mark.slow)])


def each(numbers, check):
    """Call check(seed, its random numbers) for all seeds, and fail at the end with what the first failures were."""
    failed = []
    for seed in numbers:
        try:
            check(seed, random.Random(seed))
        except AssertionError as error:
            failed.append(f'---- seed {seed}\n{str(error)[:4000]}')
    assert not failed, f'{len(failed)} of {len(numbers)} inputs:\n' + '\n'.join(failed[:20])


# ---- flags ------------------------------------------------------------------------------------------------------

DATA = ['-d', 'h36m', '-k', 'gt', '--data', 'data']
LIFTS = ['-c', 'c', '--evaluate', 'best.bin', '--device', 'cpu']
COMMANDS = {
    'train': [*DATA, '-str', 'S1', '-e', '1', '-f', '9', '-cs', '16', '-dep', '1', '-b', '90', '-s', '9',
              '--device', 'cpu', '-c', 'new', '-l', 'log'],
    'resume': ['--data', 'data', '-e', '3', '--device', 'cpu', '-c', 'c', '-l', 'log', '-r'],
    'evaluate': [*DATA, *LIFTS], 'check_data': [*DATA, '--check-data'], 'inspect': ['-c', 'c', '--inspect', 'best.bin'],
    'render': [*DATA, *LIFTS, '--render', '--viz-output', 'out.gif', '--viz-size', '1', '--viz-limit', '2'],
    'predict': [*LIFTS, '--predict', 'in.npy', '--output', 'out.npz', '--image-size', '1000', '1002'],
}


def value(chance, section, name, flag):
    """Return one value for a flag: of its kind more often than not."""
    if name in WORK:
        return chance.choice(WORK[name])
    if flag.choices and chance.random() < 0.8:
        return chance.choice(list(flag.choices))
    metavar = flag.metavar if isinstance(flag.metavar, str) else 'N'
    pool = NUMBERS
    if 'FILE' in metavar or metavar in ('DIR', 'INPUT'):
        pool = chance.choice((SOURCES, OUTPUTS, OUTPUTS))
    elif metavar in ('NAME', 'A,B') or flag.choices:
        pool = TEXTS
    if chance.random() < 0.1:
        pool = chance.choice((NUMBERS, TEXTS, SOURCES, OUTPUTS))
    return chance.choice(pool)


def spelled(chance, section, name, flag):
    """Return a flag with its values, now and then too many or too few."""
    many = {None: 1, '?': chance.randrange(2)}.get(flag.nargs, flag.nargs) if flag.kind == 'value' else 0
    if chance.random() < 0.03:
        many += chance.choice((-1, 1))
    tokens = [chance.choice(flag.names), *(value(chance, section, name, flag) for _ in range(max(0, many)))]
    return ['='.join(tokens[:2]), *tokens[2:]] if len(tokens) > 1 and chance.random() < 0.05 else tokens


def command_line(chance):
    """Return the flags of one input: those of a command with some more, fewer or other ones."""
    command = chance.choice(list(COMMANDS))
    argv = list(COMMANDS[command])
    mine = [entry for entry in FIELDS if {'resume': 'train'}.get(command, command) in entry[2].commands]
    for _ in range(chance.choice((1, 1, 2, 3, 6))):
        argv += spelled(chance, *chance.choice(mine if chance.random() < 0.85 else FIELDS))
    if chance.random() < 0.1:
        del argv[chance.randrange(len(argv))]
    if chance.random() < 0.1:
        argv.insert(chance.randrange(len(argv) + 1), chance.choice(TEXTS))
    return argv


@seeds(60, 4000)
def test_any_mix_of_flags_ends_well(probe, numbers):
    def check(seed, chance):
        probe.fresh()
        argv = command_line(chance)
        probe(seed, argv, keeps='-r' not in argv and '--resume' not in argv)
    each(numbers, check)
    assert len(numbers) == 1 or all(probe.statuses.values()), probe.statuses


# ---- npz --------------------------------------------------------------------------------------------------------


def figures(probe, seed, *flags, told=''):
    """Return (status, the figures of both protocols or None, stderr) of an evaluation in the folder."""
    status, _, err = probe(seed, [*COMMANDS['evaluate'], '--results', 'out.json', *flags], told)
    if status:
        return status, None, err
    content = json.loads(Path('out.json').read_text())
    return status, json.dumps(without_times(content), sort_keys=True), err


def without_times(value):
    """Return figures without what differs from one run to the next."""
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items()
                if not re.search('time|date|second|latency|argv|version|command|checkpoint', str(key))}
    return [without_times(item) for item in value] if isinstance(value, list) else value


@pytest.fixture
def sound(probe):
    """The figures of the undamaged files."""
    probe.fresh()
    status, expected, _ = figures(probe, 'none')
    assert status == 0 and 'MPJPE' in expected.upper()
    return expected


def damaged(chance, whole):
    """Return content with bits flipped, cut, with a part doubled, overwritten or of zeros."""
    data = bytearray(whole)
    at, length = chance.randrange(len(data)), chance.choice((1, 2, 8, 100))
    kind = chance.choice(('bit', 'bit', 'bit', 'bits', 'cut', 'double', 'noise', 'zeros', 'gone'))
    if kind in ('bit', 'bits'):
        for _ in range(1 if kind == 'bit' else 20):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif kind == 'cut':
        del data[at:]
    elif kind == 'double':
        data[at:at] = data[at:at + length]
    elif kind == 'gone':
        del data[at:at + length]
    else:
        data[at:at + length] = chance.randbytes(length) if kind == 'noise' else bytes(length)
    return bytes(data), f'{kind} at {at}'


@seeds(25, 1500)
def test_damaged_data_are_refused_or_what_they_were(probe, sound, numbers):
    def check(seed, chance):
        folder = probe.fresh()
        path = folder / 'data' / chance.choice(('data_3d_h36m.npz', 'data_2d_h36m_gt.npz'))
        content, told = damaged(chance, path.read_bytes())
        path.write_bytes(content)
        status, got, err = figures(probe, seed, told=f'{path.name} {told}')
        assert got in (None, sound), f'seed {seed}: {path.name} {told} changed the result'
        assert status == 0 or 'data' in err
    each(numbers, check)


ARRAYS = (
    lambda a: a[:0], lambda a: a[:, :0], lambda a: a[..., :0], lambda a: a[:1], lambda a: a[..., :1], lambda a: a[0],
    lambda a: a[None], lambda a: a.T, lambda a: a.astype(object), lambda a: a.astype('U'), lambda a: a.astype(complex),
    lambda a: a > 0, lambda a: a.astype(np.int8), lambda a: a.astype('>f4'), lambda a: a.astype(np.float16),
    lambda a: a.astype(np.longdouble), lambda a: a.astype('datetime64[s]'), lambda a: a * 1e38, lambda a: a * 0,
    lambda a: a * np.nan, lambda a: a.tolist(), lambda a: a.ravel(), lambda a: np.asfortranarray(a), lambda a: a[::-1],
    lambda a: np.concatenate([a, a], axis=-1), lambda a: np.concatenate([a, a], axis=-2), lambda a: a * 1000,
    lambda a: np.where(np.arange(a.shape[-1]) == 1, np.inf, a),
    lambda a: np.ascontiguousarray(a).view([('x', a.dtype)]), lambda a: np.array(None), lambda a: None,
)
KEYS = ('', 'S1', 'S9', 'a\nb', '\x1b[2J', 'x' * 10 ** 5, 5, None, ('a',), 'Directions 2', '\udcff')


@np.errstate(all='ignore')
def altered(chance, tree):
    """Return a tree of dicts, lists and arrays with something in it replaced, removed, added or renamed."""
    tree = copy.deepcopy(tree)
    root = part = {'': tree}
    key = ''
    while isinstance(part[key], (dict, list)) and len(part[key]) and chance.random() < 0.85:
        part = part[key]
        key = chance.choice(list(part) if isinstance(part, dict) else range(len(part)))
    kind = chance.choice(('value', 'array', 'array', 'key', 'gone', 'double'))
    if kind == 'array' and isinstance(part[key], np.ndarray) and part[key].ndim > 1:
        number = chance.randrange(len(ARRAYS))
        part[key], kind = ARRAYS[number](part[key]), f'array {number}'
    elif kind == 'gone' and part is not root:
        del part[key]
    elif kind == 'double' and isinstance(part, list):
        part.append(part[key])
    elif kind == 'key' and isinstance(part, dict) and part is not root:
        part[chance.choice(KEYS)] = part.pop(key)
    else:
        part[key], kind = chance.choice(ODD), 'value'
    return root[''], f'{kind} at {str(key)[:50]!r}'


ODD = (*(odd for odd in VALUES if not isinstance(odd, torch.Tensor)), np.zeros(0), np.float32(3), np.zeros((5, 0, 2)),
       np.array('x'), np.array(['a', None], dtype=object), np.bool_(True), 10 ** 6)


@seeds(25, 1500)
def test_odd_data_end_well(probe, numbers):
    """Structure and types: trees of other keys, arrays of other shapes and dtypes, metadata that contradict them."""
    def check(seed, chance):
        folder = probe.fresh()
        path = folder / 'data' / chance.choice(('data_3d_h36m.npz', 'data_2d_h36m_gt.npz'))
        content, told = dict(read_npz(path)), []
        for _ in range(chance.choice((1, 1, 2))):
            member = chance.choice(list(content))
            content[member], what = altered(chance, content[member])
            told.append(f'{path.name} {member}: {what}')
        if chance.random() < 0.05:
            content = dict(zip(content, reversed(content.values()), strict=True))
        with np.errstate(all='ignore'):
            np.savez(path, **{name: np.array(part, dtype=object) if isinstance(part, (dict, list)) else part
                              for name, part in content.items()})
        check = chance.random() < 0.3
        probe(seed, COMMANDS['check_data' if check else 'evaluate'], told)
    each(numbers, check)


# ---- checkpoints ------------------------------------------------------------------------------------------------


@seeds(25, 2000)
def test_damaged_checkpoints_are_refused_or_what_they_were(probe, sound, numbers):
    def check(seed, chance):
        path = probe.fresh() / 'c' / 'best.bin'
        content, told = damaged(chance, path.read_bytes())
        path.write_bytes(content)
        _, got, _ = figures(probe, seed, told=told)
        assert got in (None, sound), f'seed {seed}: {told} changed the result'
    each(numbers, check)


FACTS = (*VALUES, torch.zeros(0, 3), torch.full((2,), float('nan')), torch.zeros(1).expand(50))


@seeds(25, 1500)
def test_forged_checkpoints_end_well(probe, numbers):
    """Any value in the place of any fact, with right sums and, of a file that says none, no digest of its weights."""
    whole = torch.load(probe.fresh() / 'c' / 'last.bin', weights_only=True)
    def check(seed, chance):
        folder, stored = probe.fresh(), {**whole}
        if chance.random() < 0.9:
            del stored[DIGEST]
        where, part, key = [], stored, chance.choice(list(stored))
        while isinstance(part[key], (dict, list)) and part[key] and chance.random() < 0.8:
            part[key] = copy.copy(part[key])
            part, where = part[key], [*where, key]
            key = chance.choice(list(part) if isinstance(part, dict) else range(len(part)))
        part[key] = chance.choice(FACTS)
        torch.save(stored, folder / 'c' / 'last.bin')
        argv = chance.choice(([*COMMANDS['resume'], 'last.bin'], ['-c', 'c', '--inspect', 'last.bin'],
                              [*DATA, '-c', 'c', '--evaluate', 'last.bin', '--device', 'cpu']))
        probe(seed, argv, f'{[*where, key]} = {str(part[key])[:80]}', keeps='-r' not in argv)
    each(numbers, check)


# ---- keypoints of detectors -------------------------------------------------------------------------------------

WRITERS = (files.alphapose, files.mmpose, files.mmpose_list, files.openpose, files.stgcn, files.coco_annotations,
           files.vitpose, files.pifpaf_lines)
JSON_VALUES = (None, True, -1, 0, 1e308, 10 ** 400, -5, 0.5, 'x\n\x1b', 'nan', '', [], {}, [[]], [None], [1, 2],
               {'x': 1}, 'é' * 300)


def altered_json(chance, content):
    """Return JSON in which a value at a random node is another one, gone, doubled or of another level."""
    holder, key = {'': content}, ''
    while isinstance(holder[key], (dict, list)) and holder[key] and chance.random() < 0.85:
        holder = holder[key]
        key = chance.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    kind = chance.choice(('value', 'gone', 'double', 'deeper', 'key'))
    if kind == 'gone' and '' not in holder:
        del holder[key]
    elif kind == 'double' and isinstance(holder, list):
        holder.insert(key, holder[key])
    elif kind == 'deeper':
        holder[key] = [holder[key]]
    elif kind == 'key' and isinstance(holder, dict) and '' not in holder:
        holder[chance.choice(('x', 'people', 'keypoints', 'data', 'a\nb', ''))] = holder.pop(key)
    else:
        holder[key], kind = chance.choice(JSON_VALUES), 'value'
    return f'{kind} at {str(key)[:50]!r}'


@pytest.fixture(scope='module')
def detections(tmp_path_factory):
    """Contents of detectors' JSON files: (writer, content)."""
    folder, found = tmp_path_factory.mktemp('detections'), []
    pixels = files.in_layout(clip(12)[1], files.COCO)
    for write in WRITERS:
        path = folder / f'{write.__name__}.json'
        try:
            write(path, pixels)
        except (TypeError, IndexError):
            write(path, files.with_scores(pixels), (1000, 1002))
        path = next(iter(sorted(path.iterdir()))) if path.is_dir() else path
        found.append((write.__name__, path.read_text()))
    return found


LIFT = ['-c', 'c', '--evaluate', 'best.bin', '--device', 'cpu', '--output', 'out.npz']


@seeds(35, 2500)
def test_odd_keypoints_end_well(probe, detections, numbers):
    def check(seed, chance):
        folder = probe.fresh()
        name, text = chance.choice(detections)
        told = [name]
        if chance.random() < 0.2 or name == 'pifpaf_lines':
            content, what = damaged(chance, text.encode())
            (folder / 'in.json').write_bytes(content)
            told.append(what)
        else:
            content = {'': json.loads(text)}
            told += [altered_json(chance, content['']) for _ in range(chance.choice((1, 1, 2)))]
            (folder / 'in.json').write_text(json.dumps(content['']))
        flags = chance.choice(([], ['--image-size', '1000', '1002'], ['--image-size', '1000', '1002', '--as-is']))
        lift(probe, seed, [*LIFT, '--predict', 'in.json', *flags], told)
    each(numbers, check)


@seeds(25, 1500)
def test_odd_arrays_end_well(probe, numbers):
    def check(seed, chance):
        folder = probe.fresh()
        members = dict(np.load(folder / 'in.npz'))
        member = chance.choice(list(members))
        number = chance.randrange(len(ARRAYS))
        given, told = members[member], f'{member}: array {number}'
        with np.errstate(all='ignore'):
            members[member] = ARRAYS[number](given) if given.ndim > 1 else chance.choice(ODD)
        if chance.random() < 0.3 and isinstance(members['keypoints'], np.ndarray):
            np.save(folder / 'in.npy', members['keypoints'], allow_pickle=True)
            lift(probe, seed, [*LIFT, '--predict', 'in.npy', '--image-size', '1000', '1002'], f'npy, {told}')
            return
        np.savez(folder / 'in.npz', **{name: np.array(part, dtype=object) if isinstance(part, (dict, list)) else part
                                       for name, part in members.items()})
        if chance.random() < 0.3:
            content, what = damaged(chance, (folder / 'in.npz').read_bytes())
            (folder / 'in.npz').write_bytes(content)
            told += f', {what}'
        lift(probe, seed, [*LIFT, '--predict', 'in.npz'], told)
    each(numbers, check)


def lift(probe, seed, argv, told):
    """Lift keypoints; where that succeeds, poses are finite and as many as their frames."""
    status, _, _ = probe(seed, argv, told)
    if status == 0:
        written = read_npz(Path('out.npz'))
        assert np.isfinite(written['poses']).all(), f'seed {seed}: {told}'
        assert len(written['poses']) == len(written['frame']), f'seed {seed}: {told}'
