"""The time from npz files to the first training step, and from one step to the next.

    python benchmarks/data_path.py [--dataset h36m|3dhp] [--frames 27] [--channels 512] [--depth 7] [--rounds 5]

Makes a data set of Human3.6M's size from synthetic motion (390,000 training and 136,000 test frames, four cameras) in a
temporary folder, runs the program on it until the first step begins, and measures the share of an epoch that goes into
its windows. For MPI-INF-3DHP's size (131,592 training frames, eight cameras, float64 as converted) it measures only the
start. Prints JSON.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')  # before torch is imported

from benchmarks.trainer import make_trainer
from common import commands
from common.cli.parser import parse
from common.commands.session import choose_device
from common.datasets import load_dataset
from common.datasets.h36m import CAMERAS, SUBJECTS_TEST, SUBJECTS_TRAIN
from common.datasets.synthetic import ACTIONS, motion
from common.skeleton import H36M, H36M_OF_32, MPI_INF_3DHP, correspondence
from common.storage.npz import write_npz
from common.storage.runlog import versions
from common.store import SequenceStore
from common.training import loop as train
from data import prepare_data_3dhp

FRAMES_TRAIN, FRAMES_TEST, TAKES = 390_000, 136_000, 30  # takes of a subject


def main() -> None:
    """Run all measurements and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--dataset', choices=('h36m', '3dhp'), default='h36m', help='whose size the data has')
    parser.add_argument('--frames', type=int, default=27, help='frames of a window')
    parser.add_argument('--channels', type=int, default=512)
    parser.add_argument('--depth', type=int, default=7)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--first-step', metavar='DIR', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.first_step:
        first_step(args.dataset, Path(args.first_step), args.frames)
        return
    with tempfile.TemporaryDirectory() as folder:
        {'h36m': write_data, '3dhp': write_3dhp}[args.dataset](Path(folder))
        start_up = [start_until_first_step(args.dataset, folder, args.frames) for _ in range(3)]
        results = {
            'machine': platform.processor() or platform.machine(), 'threads': torch.get_num_threads(),
            'versions': versions(), 'dataset': args.dataset, 'frames': args.frames,
            'start_up_seconds': [s['seconds'] for s in start_up],
            'start_up_peak_gigabytes': max(s['gigabytes'] for s in start_up),
        }
        if args.dataset == 'h36m':
            results['windows'] = window_share(Path(folder), args.rounds, frames=args.frames, channels=args.channels,
                                              depth=args.depth)
    print(json.dumps(results, indent=1))


def write_data(folder: Path) -> None:
    """Write the npz files of `-d h36m -k gt` at full size: a synthetic motion per take, projected into four cameras."""
    random = np.random.default_rng(0)
    positions, detections = {}, {}
    for subjects, total in ((SUBJECTS_TRAIN, FRAMES_TRAIN), (SUBJECTS_TEST, FRAMES_TEST)):
        frames = total // (len(subjects) * TAKES)
        for subject in subjects:
            positions[subject], detections[subject] = {}, {}
            for take in range(TAKES):
                moved = motion(list(ACTIONS)[take % len(ACTIONS)], 1.0, frames, random)
                full = np.zeros((frames, 32, 3), np.float32)
                full[:, list(H36M_OF_32)] = moved
                positions[subject][f'Action{take // 2} {take % 2}'] = full
                detections[subject][f'Action{take // 2} {take % 2}'] = [
                    camera.project(moved).astype(np.float32) for camera in CAMERAS[subject]]
    write_npz(folder / 'data_3d_h36m.npz', positions_3d=positions)
    write_npz(folder / 'data_2d_h36m_gt.npz', positions_2d=detections, metadata={'layout_name': 'h36m'})


def write_3dhp(folder: Path) -> None:
    """Write the npz files of `-d 3dhp` at full size: millimetres in each camera's axes, float64, compressed."""
    random = np.random.default_rng(0)
    joints = correspondence(MPI_INF_3DHP, H36M).astype(np.float64)

    def view(moved: np.ndarray, angle: float) -> dict:
        turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
        poses = 1000 * (np.stack([moved[..., 0], 1 - moved[..., 2], moved[..., 1]], axis=-1) @ turn + [0, 0, 4])
        return {'data_2d': poses[..., :2] / poses[..., 2:] * 1500 + 1024, 'data_3d': poses}

    def moved(frames: int) -> np.ndarray:
        action = list(ACTIONS)[random.integers(len(ACTIONS))]
        return np.einsum('jk,fkc->fjc', joints, motion(action, 1.0, frames, random))

    train = {}
    for name, (frames, fps) in prepare_data_3dhp.TRAINING.items():
        poses = moved(frames)
        train[name] = [{str(camera): view(poses, 0.7 * camera) for camera in prepare_data_3dhp.CAMERAS}, fps]
    np.savez_compressed(folder / 'data_train_3dhp.npz', data=train)
    test = {name: view(moved(frames), 0) | {'valid': (np.arange(frames) < valid).astype(float)}
            for name, (frames, valid) in prepare_data_3dhp.TEST.items()}
    np.savez_compressed(folder / 'data_test_3dhp.npz', data=test)


def start_until_first_step(dataset: str, folder: str, frames: int) -> dict:
    """Measure the seconds from the start of a process to its first training step, and its peak memory."""
    begun = time.time()
    command = [sys.executable, __file__, '--first-step', folder, '--frames', str(frames), '--dataset', dataset]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    return {'seconds': round(told['at'] - begun, 2), 'gigabytes': round(told['kilobytes'] / 2**20, 2)}


class _FirstStep(Exception):
    """Raised where the first step would begin."""


def first_step(dataset: str, folder: Path, frames: int) -> None:
    """Train on the folder until the first batch is gathered, then print the time; runs in its own process."""
    def stop(*_):
        raise _FirstStep
    train.step_seed = stop  # the first thing a step asks for once it has its batch
    config = parse(['-d', dataset, '-k', 'gt', '--data', str(folder), '-f', str(frames), '--overwrite',
                            '-c', str(folder / 'checkpoint'), '-l', str(folder / 'log')])
    try:
        commands.run(config)
    except _FirstStep:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps({'at': time.time(), 'kilobytes': peak}))


def window_share(folder: Path, rounds: int, **config) -> dict:
    """Measure a training step of the default batch, the making of its windows, and the epoch's shuffle, seconds."""
    frames = config['frames']
    dataset = load_dataset('h36m', folder, 'gt')
    device = choose_device('auto')
    store = SequenceStore(dataset.sequences(SUBJECTS_TRAIN), H36M, H36M, device)
    trainer = make_trainer(['-f', str(frames), '-cs', str(config['channels']), '-dep', str(config['depth'])], store,
                           H36M)
    optimizer, sampler, windows = trainer.optimizer, trainer.sampler, trainer.recipe.windows
    steps = sampler.steps(windows)

    def synchronised() -> float:
        if device.type == 'cuda':
            torch.cuda.synchronize()
        return time.perf_counter()

    gathers, updates, shuffles = [], [], []
    for draw in range(rounds):
        begun = synchronised()
        batches = sampler.epoch(draw, windows)
        batch = next(batches)  # the shuffle happens here
        shuffles.append(synchronised() - begun)
        begun = synchronised()
        batch = next(batches)
        gathers.append(synchronised() - begun)
        begun = synchronised()
        trainer.gradient(batch, 1)
        optimizer.step()
        updates.append(synchronised() - begun)
    gather, update, shuffle = (statistics.median(x) for x in (gathers, updates, shuffles))
    epoch = steps * (gather + update) + shuffle
    return {'device': str(device), **config, 'windows': len(sampler), 'steps': steps,
            'shuffle_seconds': round(shuffle, 4), 'gather_seconds': round(gather, 5), 'step_seconds': round(update, 3),
            'share_of_epoch': round((steps * gather + shuffle) / epoch, 6)}


if __name__ == '__main__':
    main()
