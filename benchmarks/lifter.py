"""The errors of a lifter on people and cameras that it never saw, by joint, by camera pitch and by kind of motion.

    python benchmarks/lifter.py CHECKPOINT -d cmu --data DIR

CHECKPOINT was trained with --views random: its test has four virtual cameras for each take, one for each quarter of the
range of pitch. Prints the tables of docs/lifter.md, in millimetres over all test frames, and how many frames a second
are lifted on one core.
"""

import argparse
import contextlib
import io
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import run_ktpformer
from common import metrics
from common.datasets.virtual_views import CAMERAS
from common.models import load_lifter
from common.storage.npz import read_npz
from common.views import PITCH

FRAMES, ROUNDS = 1000, 5
METRICS = {'MPJPE': metrics.mpjpe, 'P-MPJPE': metrics.p_mpjpe, 'N-MPJPE': metrics.n_mpjpe}


def predictions(checkpoint: Path, dataset: str, folder: Path) -> dict:
    """Return the members of --export-predictions on the test of a data set."""
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / 'out.npz'
        with contextlib.redirect_stdout(io.StringIO()):
            status = run_ktpformer.main(['--evaluate', str(checkpoint), '-d', dataset, '--data', str(folder),
                                         '--export-predictions', str(output)])
        if status:
            raise SystemExit(status)
        return read_npz(output)


def table(title: str, rows: dict[str, np.ndarray], prediction: torch.Tensor, truth: torch.Tensor) -> None:
    """Print the figures of frames (N,) bool of predictions and truth (N, J, 3) metres, a row for each of `rows`."""
    print(f'\n| {title} | frames | {" | ".join(METRICS)} |\n|---|---|{"---|" * len(METRICS)}')
    for name, frames in rows.items():
        figures = [1000 * float(metric(prediction[frames], truth[frames]).mean()) for metric in METRICS.values()]
        print(f'| {name} | {int(frames.sum()):,} | {" | ".join(f"{figure:.1f}" for figure in figures)} |')


def speed(checkpoint: Path) -> float:
    """Return how many frames a second are lifted of a clip of FRAMES, mirrored as in evaluation, on one core."""
    torch.set_num_threads(1)
    lifter = load_lifter(checkpoint)
    keypoints = np.random.default_rng(0).uniform(0, 1000, (FRAMES, len(lifter.layout), 2))
    rates = []
    for _ in range(ROUNDS + 1):  # the first warms up
        began = time.perf_counter()
        lifter.lift_clip(keypoints, size=(1000, 1000))
        rates.append(FRAMES / (time.perf_counter() - began))
    return float(np.median(rates[1:]))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('checkpoint', type=Path)
    parser.add_argument('-d', '--dataset', default='cmu')
    parser.add_argument('--data', type=Path, required=True)
    args = parser.parse_args()
    found = predictions(args.checkpoint, args.dataset, args.data)
    prediction, truth = (torch.from_numpy(found[name]).double() for name in ('prediction', 'truth'))
    table('all', {'all': np.ones(len(truth), bool)}, prediction, truth)
    step = (PITCH[1] - PITCH[0]) / CAMERAS
    table('camera looks down by', {f'{PITCH[0] + camera * step:.0f}° to {PITCH[0] + (camera + 1) * step:.0f}°':
                                   found['camera'] == camera for camera in range(CAMERAS)}, prediction, truth)
    actions = np.array([action.rsplit(' ', 1)[0] for action in found['action']])
    table('motion', {f'{subject} {action}': (found['subject'] == subject) & (actions == action)
                     for subject, action in sorted(set(zip(found['subject'], actions, strict=True)))},
          prediction, truth)
    print(f'\nlifted on one core: {speed(args.checkpoint):,.0f} frames a second, median of {ROUNDS}')
    errors = 1000 * (prediction - truth).norm(dim=-1).mean(dim=0)
    print(f'\n| joint | {" | ".join(found["joints"])} |\n|---|{"---|" * len(errors)}')
    print(f'| mean error | {" | ".join(f"{error:.0f}" for error in errors)} |')


if __name__ == '__main__':
    main()
