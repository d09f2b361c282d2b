"""A model as --export-model writes it, by onnxruntime and torch.export, against the model itself.

    python benchmarks/exported.py [CHECKPOINT | --fresh MODEL ...] [--windows 1 64] [--threads 1 2] [--rounds 5]
                                  [--seconds 1]

Each side lifts the same windows, with mirrored keypoints where the model is lifted so, in turns in one process that has
so many threads. All must first give the same poses. CHECKPOINT is the shipped lifter unless one is named; --fresh takes
models of the registry instead, of their published sizes and with random weights. Prints a line for each comparison,
then JSON; times are of one window, medians over rounds, and ratios medians over pairs that ran next to each other:
below 1, the file is faster.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')  # before torch is imported

import torch

from common.errors import DivergedError, FileError, FlagError
from common.models import MODELS, build_model, load_lifter, model_class
from common.models.computing import keep_freed_memory
from common.models.exported import (
    PT2,
    READS,
    TOLERANCE,
    Graph,
    Lift,
    check_packages,
    describe,
    export_model,
    read_pt2,
    windows_like,
)
from common.models.lifter import describe_model
from common.models.loading import LoadedLifter
from common.storage.checkpoint import PublicCheckpoint
from common.storage.runlog import versions

EAGER = 'the model'


def by_onnxruntime(path: Path, threads: int) -> Lift:
    """Return what lifts windows by a file of ONNX with so many threads, none of which spins while it waits."""
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    return lambda windows: torch.from_numpy(session.run(None, {READS: windows.numpy()})[0])


def fresh(name: str) -> LoadedLifter:
    """Return a model of its published size with random weights."""
    torch.manual_seed(0)
    body = model_class(name).body()
    return LoadedLifter(build_model(name, {}, body, body).eval(), name, {}, body, body, {}, 'with random weights',
                        PublicCheckpoint(Path(name), {}))


def sides_of(lifter: LoadedLifter, threads: int, folder: Path) -> dict[str, Lift]:
    """Return the sides by name: the model itself, and its two files."""
    root, flip = (lifter.settings.get(name, getattr(lifter.model.recipe, name)) for name in ('root', 'flip'))
    graph = Graph(lifter.model, lifter.layout, lifter.skeleton, root, flip).eval()
    for name in ('lifter.onnx', 'lifter.pt2'):
        _, difference = export_model(folder / name, lifter, root, flip)
        size = (folder / name).stat().st_size / 1e6
        print(f'{name}: {size:.1f} MB, {difference:.1e} from {EAGER} at most', flush=True)

    def eager(windows: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return graph.eager(windows)
    return {EAGER: eager, 'onnxruntime': by_onnxruntime(folder / 'lifter.onnx', threads),
            PT2: read_pt2(folder / 'lifter.pt2')}


def compare(lifter: LoadedLifter, threads: int, args: argparse.Namespace) -> list[dict]:
    """Return a row for each number of windows at once. Exits where a side gives other poses than the model."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        sides = sides_of(lifter, threads, Path(folder))
        for count in args.windows:
            windows = windows_like(describe(lifter, 'zero', True), count)
            expected = sides[EAGER](windows)
            for name, lift in sides.items():
                if not (lift(windows) - expected).abs().max() <= TOLERANCE * max(1, expected.abs().max()):
                    sys.exit(f'{name} gives other poses than {EAGER} for {count} windows')
            repeats = max(1, round(args.seconds / timed(sides[EAGER], windows, 1)))
            rows.append({'windows': count, 'threads': threads, **alternate(sides, windows, args.rounds, repeats)})
            print_row(rows[-1])
    return rows


def timed(lift: Lift, windows: torch.Tensor, repeats: int) -> float:
    """Return the seconds in which windows are lifted, the mean over some repetitions."""
    begun = time.perf_counter()
    for _ in range(repeats):
        lift(windows)
    return (time.perf_counter() - begun) / repeats


def alternate(sides: dict[str, Lift], windows: torch.Tensor, rounds: int,
              repeats: int) -> dict:
    """Return the median time of a window in milliseconds by side, and of each file over the model, in turns."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    ratios: dict[str, list[float]] = {name: [] for name in sides if name != EAGER}
    for _ in range(rounds):
        for name in ratios:  # next to each other
            pair = {one: timed(sides[one], windows, repeats) for one in (EAGER, name)}
            for one, seconds in pair.items():
                times[one].append(1000 * seconds / len(windows))
            ratios[name].append(pair[name] / pair[EAGER])
    return {'ms a window': {name: statistics.median(values) for name, values in times.items()},
            'over the model': {name: statistics.median(values) for name, values in ratios.items()},
            'spread': {name: [min(values), max(values)] for name, values in ratios.items()}}


def print_row(row: dict) -> None:
    """Print a comparison as a line."""
    times = ', '.join(f'{name} {value:.3f} ms' for name, value in row['ms a window'].items())
    ratios = ', '.join(f'{name} {value:.2f} ({row["spread"][name][0]:.2f} to {row["spread"][name][1]:.2f})'
                       for name, value in row['over the model'].items())
    print(f'{row["windows"]} at once, threads {row["threads"]}: {times}; over the model: {ratios}', flush=True)


def main() -> None:
    """Compare with each number of threads, in a process of its own, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', nargs='?', help='(default: the shipped lifter)')
    parser.add_argument('--fresh', nargs='+', choices=MODELS, default=[], metavar='MODEL')
    parser.add_argument('--windows', nargs='+', type=int, default=[1, 64])
    parser.add_argument('--threads', nargs='+', type=int, default=[1, 2])
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--seconds', type=float, default=1)
    args = parser.parse_args()
    if args.checkpoint and args.fresh:
        parser.error('CHECKPOINT or --fresh, not both')
    if len(args.threads) > 1:
        rest = [*([args.checkpoint] if args.checkpoint else []), *(['--fresh', *args.fresh] if args.fresh else []),
                '--windows', *map(str, args.windows), '--rounds', str(args.rounds), '--seconds', str(args.seconds)]
        for threads in args.threads:
            subprocess.run([sys.executable, __file__, *rest, '--threads', str(threads)], check=True,
                           env=os.environ | {'OMP_NUM_THREADS': str(threads)})
        return
    torch.set_num_threads(args.threads[0])
    keep_freed_memory(torch.device('cpu'))
    results = []
    try:
        check_packages(Path('lifter.onnx'))
        for load in [partial(fresh, name) for name in args.fresh] or [partial(load_lifter, args.checkpoint)]:
            lifter = load()
            print(describe_model(lifter.model), flush=True)
            results.append({'model': lifter.path.name, 'rows': compare(lifter, args.threads[0], args)})
    except (FileError, FlagError, DivergedError) as error:
        sys.exit(str(error))
    print(json.dumps({'results': results, 'versions': versions() | {'onnxruntime': version('onnxruntime')}}))


if __name__ == '__main__':
    main()
