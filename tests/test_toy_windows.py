"""Windows of models that answer for some of their frames: training, both test protocols, live footage, memory."""

import naive
import numpy as np
import pytest
import torch
from processes import ROOT, run_alone
from test_sampler import LENGTHS, naive_mirror
from toys.centre import CentreConfig, CentreNet

from common.distributed import World
from common.evaluation.sums import tally, validation_figures
from common.models.lifter import Lifter
from common.models.lifting import lift_store, predictions
from common.sampler import TestWindows, WindowSampler
from common.sequences import Sequence
from common.skeleton import H36M
from common.store import SequenceStore

MIDDLE = range(3, 6)  # of nine frames


@pytest.fixture
def sequences():
    random = np.random.default_rng(0)
    return [Sequence('S1', f'Walking {i}', i % 4, random.normal(size=(n, 17, 2)).astype(np.float32),
                     random.normal(size=(n, 17, 3)).astype(np.float32)) for i, n in enumerate(LENGTHS)]


def store_of(sequences):
    return SequenceStore(sequences, H36M, H36M, torch.device('cpu'))


class Echo(Lifter):
    """Says of a frame what it sees there, and as z how high the first keypoint is in the window's first frame."""

    def __init__(self, frames, answers):
        self.extent = frames, answers
        super().__init__(None)

    def window(self, config):
        return self.extent

    def forward(self, keypoints):
        seen = keypoints[:, self.answers.start:self.answers.stop]
        return torch.cat([seen, keypoints[:, :1, :1, 1:].expand(*seen.shape[:3], 1)], dim=-1)


def echo(sequence, start, frames, answers):
    """Return what Echo says of a window, for loops: (A, 17, 3)."""
    read = naive.take(sequence.keypoints, start, frames)
    return np.stack([np.concatenate([read[a], np.full((17, 1), read[0, 0, 1])], axis=-1) for a in answers])


@pytest.fixture
def centre():
    torch.manual_seed(0)
    return CentreNet(CentreConfig(9, 16), H36M, H36M).eval()


# ---- training ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('answers', [range(4, 5), range(0, 1), range(8, 9), MIDDLE, range(2, 4)], ids=str)
def test_training_windows_tile_by_their_answers(sequences, answers):
    """Two epochs against loops. With one answer: a window for every frame of every sequence."""
    sampler = WindowSampler(store_of(sequences), 9, True, seed=1234, answers=answers)
    windows = naive.epoch_windows(LENGTHS, len(answers))
    if len(answers) == 1:
        assert windows == [(s, t, flip) for s, T in enumerate(LENGTHS) for flip in (False, True) for t in range(T)]
    assert len(sampler) == len(windows)
    for draw in (0, 1):
        expected = iter([windows[i] for i in naive.epoch_order(len(windows), draw)])
        for step in sampler.epoch(draw, batch=4):
            for x, y in zip(step.batch.keypoints.numpy(), step.batch.poses.numpy(), strict=True):
                index, target, flip = next(expected)
                want_x = naive.take(sequences[index].keypoints, target - answers.start, 9)
                want_y = naive.take(sequences[index].poses, target, len(answers))
                np.testing.assert_array_equal(x, naive_mirror(want_x, H36M) if flip else want_x)
                np.testing.assert_array_equal(y, naive_mirror(want_y, H36M) if flip else want_y)
        assert next(expected, None) is None


def test_a_rest_that_is_too_short_joins_the_step_before(sequences):
    """A batch norm that sees one position of each window cannot be trained with a single window."""
    store, windows = store_of(sequences), 2 * sum(LENGTHS)
    plain, merged = (WindowSampler(store, 9, True, 1234, answers=range(4, 5), fewest=fewest) for fewest in (1, 2))
    assert windows % 29 == 1 and windows % 28 == 6
    for batch, sizes in ((29, [29] * 4 + [30]), (28, [28] * 5 + [6]), (windows, [windows])):
        steps = list(merged.epoch(0, batch))
        assert [step.whole for step in steps] == [len(step.batch.poses) for step in steps] == sizes
        assert merged.steps(batch) == len(sizes)
        whole, again = (torch.cat([step.batch.keypoints for step in sampler.epoch(0, batch)])
                        for sampler in (plain, merged))
        assert torch.equal(whole, again)
    assert [step.whole for step in plain.epoch(0, 29)] == [29] * 5 + [1]
    assert [step.whole for step in merged.epoch(0, 29, World(1, 2).share, first_step=4)] == [30]


# ---- test --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('answers', [range(4, 5), MIDDLE, range(5, 9)], ids=str)
def test_test_windows_tile_by_their_answers(sequences, answers):
    """Predictions of all windows against loops: every frame of a window is what the window saw."""
    store = store_of(sequences)
    windows = TestWindows.of(store, 9, answers=answers)
    predicted = predictions(Echo(9, answers), store, windows)['predicted'].numpy()
    expected, truth, first = [], [], []
    for sequence in sequences:
        covered = 0
        for target in naive.test_starts(len(sequence.keypoints), len(answers)):
            expected.append(echo(sequence, target - answers.start, 9, answers))
            truth.append(naive.take(sequence.poses, target, len(answers)))
            first.append([covered <= target + k < len(sequence.keypoints) for k in range(len(answers))])
            covered = target + len(answers)
    # Mirrored and back it says the same: the hip, whose height it tells, is on neither side.
    np.testing.assert_allclose(predicted, np.stack(expected), atol=1e-6)
    np.testing.assert_array_equal(store.poses[windows.rows], np.stack(truth))
    assert windows.first.tolist() == first
    assert windows.first.sum() == sum(LENGTHS)


def test_protocols_agree_on_models_of_one_frame_but_for_velocities(sequences, centre):
    store = store_of(sequences)
    windows = TestWindows.of(store, 9, answers=centre.answers)
    assert windows.rows[:, 0].tolist() == list(range(len(store)))
    predicted = predictions(centre, store, windows)['predicted']
    assert predicted.shape == (len(store), 1, 17, 3)
    totals = tally(predicted, store, windows)['S1', 'Walking']
    paper, exact = totals[..., 0] / totals[..., 1]  # (2 protocols, M) figures
    np.testing.assert_array_equal(paper[:-1], exact[:-1])
    assert paper[-1] != exact[-1]  # velocities: a sequence weighs its T frames, or its T - 1 pairs
    pairs = [np.linalg.norm(np.diff(part[:, 0].numpy(), axis=0) - np.diff(s.poses, axis=0), axis=-1).mean(axis=-1)
             for part, s in zip(predicted.split(LENGTHS), sequences, strict=True)]
    weighed = [(pair.mean(), length) for pair, length in zip(pairs, LENGTHS, strict=True) if len(pair)]
    assert paper[-1] == pytest.approx(sum(m * n for m, n in weighed) / sum(n for _, n in weighed), rel=1e-5)
    assert exact[-1] == pytest.approx(np.concatenate(pairs).mean(), rel=1e-5)
    assert validation_figures(predicted, store, windows)['mpjve'] is None


@pytest.mark.parametrize('target', ['centre', 'last'])
@pytest.mark.parametrize('answers', [range(4, 5), MIDDLE], ids=str)
def test_one_answer_is_taken_for_each_frame(sequences, target, answers):
    """The one in the middle of the answers, or the last one from a window that reads nothing later."""
    store = store_of(sequences)
    windows = TestWindows.of(store, 9, target=target, answers=answers)
    predicted = predictions(Echo(9, answers), store, windows)['predicted']
    assert predicted.shape == (len(store), 1, 17, 3)
    np.testing.assert_allclose(predicted[:, 0, :, :2], store.keypoints, atol=1e-6)
    index = 4 if target == 'centre' else answers[-1]
    first = [naive.take(s.keypoints, t - index, 9)[0, 0, 1] for s in sequences for t in range(len(s.keypoints))]
    np.testing.assert_allclose(predicted[:, 0, 0, 2], first, atol=1e-6)


def test_live_footage_is_lifted_without_what_comes_later(sequences, centre):
    """Keypoints after a frame change nothing up to it; those of the frame itself do."""
    def lifted(keypoints):
        store = store_of([Sequence('', '', 0, keypoints, None)])
        windows = TestWindows.of(store, 9, target='last', answers=centre.answers)
        return predictions(centre, store, windows)['predicted'][:, 0]
    keypoints = sequences[2].keypoints
    before = lifted(keypoints)
    for frame in (0, 3, 20, 38):
        changed = keypoints.copy()
        changed[frame + 1:] += 1
        after = lifted(changed)
        assert torch.equal(after[:frame + 1], before[:frame + 1])
        assert (after[frame + 1:] - before[frame + 1:]).abs().amax(dim=(1, 2)).min() > 1e-4


class Loaded:
    """Have what `lift_store` asks of a loaded model."""

    def __init__(self, model):
        self.model = model


@pytest.mark.parametrize('overlap', [None, 0, 2])
def test_clips_are_tiled_and_blended_by_answers(sequences, overlap):
    """Echo says the same of a frame in whichever window it is, but for what it says of the window."""
    store = store_of([Sequence('', '', 0, sequences[2].keypoints, None)])
    predicted, windows = lift_store(Loaded(Echo(9, MIDDLE)), store, 'predicted', overlap)
    np.testing.assert_allclose(predicted['predicted'][..., :2], sequences[2].keypoints, atol=1e-6)
    begins = (windows.start + MIDDLE.start).tolist()
    assert begins[0] == 0 and begins[-1] == 40 - 3
    assert set(np.diff(begins)) <= {3 - (overlap or 0), 1}
    with pytest.raises(ValueError, match='windows answer for 3 frames and must share fewer'):
        lift_store(Loaded(Echo(9, MIDDLE)), store, 'predicted', 3)


def test_a_process_without_windows_takes_part(sequences, centre):
    store = store_of(sequences[:1])
    windows = TestWindows.of(store, 9, World(1, 2), answers=centre.answers)
    assert len(windows) == 0
    assert predictions(centre, store, windows)['predicted'].shape == (0, 1, 17, 3)


# ---- memory ------------------------------------------------------------------------------------------------------

MEMORY = """
import resource, sys
import numpy as np, torch
sys.path[:0] = [{root!r}, {root!r} + '/tests']
from types import SimpleNamespace
from common.models.lifter import Lifter
from common.models.lifting import predictions
from common.sampler import TestWindows
from common.sequences import Sequence
from common.skeleton import H36M
from common.store import SequenceStore

class Flat(Lifter):
    def window(self, config):
        return 351, range(*config)

    def forward(self, keypoints):
        return keypoints[:, self.answers.start:self.answers.stop].repeat(1, 1, 1, 2)[..., :3]

frames = {frames}
keypoints = np.zeros((frames, 17, 2), np.float32)
store = SequenceStore([Sequence('S1', 'Walking', 0, keypoints, None)], H36M, H36M, torch.device('cpu'))
model = Flat({answers})
windows = TestWindows.of(store, 351, target={target!r}, answers=model.answers)
predictions(model, store, windows.one(0))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert predictions(model, store, windows)['predicted'].shape == (frames, 1, 17, 3)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.parametrize('frames, most', [(2000, 50), pytest.param(20_000, 200, marks=pytest.mark.slow)])
@pytest.mark.parametrize('answers, target', [((175, 176), 'all'), ((0, 351), 'centre'), ((0, 351), 'last')],
                         ids=['one answer', 'the centre of all', 'the last of all'])
def test_long_windows_need_memory_for_what_is_taken_alone(tmp_path, answers, target, frames, most):
    """2,000 windows of 351 frames hold 143 MB of poses, of which 0.4 MB are taken, and 95 MB of keypoints."""
    script = tmp_path / 'memory.py'
    script.write_text(MEMORY.format(root=str(ROOT), frames=frames, answers=answers, target=target))
    status, out, err = run_alone(script)
    assert (status, err) == (0, '')
    assert float(out) < most, f'{float(out):.0f} MB'
