"""This program against an earlier version of itself: steps, evaluation, memory and start-up, in turns.

    python benchmarks/earlier.py CHECKOUT [--parts work start-up] [--frames 27 243] [--rounds 7] [--channels 512]
                                 [--depth 7] [--precision fp32]

CHECKOUT is another clone of this repository, at the commit to compare with. Both sides run in processes of their own
that take turns, with the same threads and allocator; figures are medians, ratios are those of each turn. A ratio
above 1 means that this version is faster, or takes more memory.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault('OMP_WAIT_POLICY', 'passive')  # for both sides: before torch is imported
HERE = Path(__file__).resolve().parents[1]
WINDOWS = {27: 4, 81: 2, 243: 1}
# Commands whose CPU time is compared: help, and a run of a few steps without evaluation.
COMMANDS = {'--help': ['--help'],
            'first steps': ['-d', 'synthetic', '--subset', '0.02', '-f', '9', '-cs', '16', '-dep', '1', '-e', '1',
                            '--no-eval', '--device', 'cpu', '--overwrite']}


class Side:
    """The contestant of one checkout, in a process that waits for work."""

    def __init__(self, root: Path, frames: int, sizes: list[str]):
        command = [sys.executable, str(root / 'benchmarks' / 'contestant.py'), 'ours', '-f', str(frames), '--windows',
                   str(WINDOWS.get(frames, 1)), *sizes]
        self.process = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process.stdout.readline()  # it is ready

    def do(self, work: str) -> dict:
        """Have the work done once and return the answer: seconds, gigabytes."""
        self.process.stdin.write(work + '\n')
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def turns(roots: list[Path], frames: int, work: str, rounds: int, sizes: list[str]) -> dict:
    """Return medians and ratios of one kind of work, the earlier version first."""
    sides = [Side(root, frames, sizes) for root in roots]
    for side in sides:
        side.do(work)  # warms up
    answers = [[side.do(work) for side in sides] for _ in range(rounds)]
    for side in sides:
        side.end()
    ratios = [earlier['seconds'] / ours['seconds'] for earlier, ours in answers]
    seconds = [statistics.median(answer[i]['seconds'] for answer in answers) for i in range(2)]
    memory = [max(answer[i]['gigabytes'] for answer in answers) for i in range(2)]
    print(f'{work:11} F={frames:<4} {1000 * seconds[0]:9.1f} -> {1000 * seconds[1]:9.1f} ms   '
          f'{statistics.median(ratios):.3f}x ({min(ratios):.2f} to {max(ratios):.2f})   memory '
          f'{memory[1] / max(memory[0], 1e-9):.3f}x', flush=True)
    return {'work': work, 'frames': frames, 'seconds': seconds, 'ratio': statistics.median(ratios), 'ratios': ratios,
            'gigabytes': memory}


def start_up(roots: list[Path], name: str, rounds: int) -> dict:
    """Return medians of the CPU time of a whole command, the earlier version first."""
    seconds: list[list[float]] = [[], []]
    for _ in range(rounds):
        for side, root in enumerate(roots):
            with tempfile.TemporaryDirectory() as folder:
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                subprocess.run([sys.executable, 'run_ktpformer.py', *COMMANDS[name], *(
                    [] if name == '--help' else ['-c', f'{folder}/c', '-l', f'{folder}/l'])], cwd=root, check=True,
                    stdout=subprocess.DEVNULL)
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds[side].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    medians = [statistics.median(values) for values in seconds]
    print(f'{name:11} {medians[0]:.2f} -> {medians[1]:.2f} s of CPU time', flush=True)
    return {'command': name, 'seconds': medians}


def main() -> None:
    """Compare with the checkout named on the command line and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('checkout', type=Path, help='another clone of this repository')
    parser.add_argument('--parts', nargs='+', choices=('work', 'start-up'), default=['work', 'start-up'])
    parser.add_argument('--frames', type=int, nargs='+', default=[27, 243])
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--channels', type=int, default=512)
    parser.add_argument('--depth', type=int, default=7)
    parser.add_argument('--precision', default='fp32')
    args = parser.parse_args()
    roots = [args.checkout.resolve(), HERE]
    sizes = ['-cs', str(args.channels), '-dep', str(args.depth), '--precision', args.precision]
    results: dict = {'command': sys.argv}
    if 'work' in args.parts:
        results['work'] = [turns(roots, frames, work, args.rounds, sizes) for frames in args.frames
                           for work in ('step', 'evaluation')]
    if 'start-up' in args.parts:
        results['start_up'] = [start_up(roots, name, min(args.rounds, 5)) for name in COMMANDS]
    print(json.dumps(results))


if __name__ == '__main__':
    main()
