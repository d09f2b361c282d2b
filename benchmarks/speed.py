"""The speed of every part of the program in one command; the model is compared with the plain reference.

    python benchmarks/speed.py [--parts step evaluation ...] [--frames 27 81 243] [--windows 1 2 4] [--rounds 5]
        [--contestants fp32 bf16 ...] [--plots DIR]

Contestants take turns in separate processes, so that each has its own memory and peak: the reference in fp32, and ours
by precision (`fp32`, `tf32`, `bf16`), followed by `+compile` or `+checkpointing`, preceded by `2x` for two processes
that share the step. Ratios are medians over rounds of pairs that ran next to each other. Prints a line for each
comparison, then JSON; with --plots also draws cost against frames and windows.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')  # before torch is imported

import torch

from benchmarks.contestant import median
from common.commands.session import choose_device
from common.metrics import p_mpjpe
from common.models.computing import has_bf16_units
from common.storage.runlog import versions

HERE = Path(__file__).resolve().parent
JOINTS = 17
PARTS = ('step', 'evaluation', 'beside', 'p_mpjpe', 'start_up', 'rendering')
# About a thousand frames, and for 243 on CUDA the two thousand of the published step.
WINDOWS = {'cuda': {27: 37, 81: 12, 243: 8}, 'cpu': {27: 37, 81: 12, 243: 4}}


class Contestant:
    """A process that does pieces of work on request."""

    def __init__(self, name: str, frames: int, windows: int, sizes: list[str]):
        """Start the process and wait until it is ready.

        Args:
            name: `reference`, or one of ours as the module's docstring describes.
        """
        processes = 2 if name.startswith('2x') else 1
        precision, *options = name.removeprefix('2x').split('+')
        flags = [] if name == 'reference' else ['--precision', precision]
        flags += [{'compile': '--compile', 'checkpointing': '--activation-checkpointing'}[option] for option in options]
        start = [sys.executable] if processes == 1 else [
            sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node', '2', '--master_port', '29511']
        threads = {} if processes == 1 else {'OMP_NUM_THREADS': str(max(1, torch.get_num_threads() // 2))}
        side = 'reference' if name == 'reference' else 'ours'
        self.process = subprocess.Popen(
            [*start, str(HERE / 'contestant.py'), side, '-f', str(frames), *sizes, *flags, '--windows', str(windows)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | threads)
        self.answer()

    def answer(self) -> dict:
        """Wait for the next answer and return it."""
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f'{" ".join(self.process.args)} ended with {self.process.wait()}')
        return json.loads(line)

    def do(self, work: str) -> dict:
        """Have the work done once and return the answer."""
        self.process.stdin.write(work + '\n')
        self.process.stdin.flush()
        return self.answer()

    def end(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def compare(work: str, names: list[str], frames: int, windows: int, args) -> list[dict]:
    """Measure contestants; return a row for each: median seconds, ratio to the first, peak memory, arithmetic."""
    sizes = ['-cs', str(args.channels), '-dep', str(args.depth)]
    contestants = {name: Contestant(name, frames, windows, sizes) for name in names}
    for contestant in contestants.values():
        contestant.do(work)  # warms up; Adam's state exists from here on
    said = {name: [] for name in names}
    for _ in range(args.rounds):
        for name, contestant in contestants.items():
            said[name].append(contestant.do(work))
    for contestant in contestants.values():
        contestant.end()
    rows = []
    passes = {'step': 3, 'evaluation': 4}[work]  # forward is one, its gradient two; twice the windows, mirrored and not
    operations = passes * 2 * windows * multiplications(frames, args.channels, args.depth)
    for name in names:
        ratios = [a['seconds'] / b['seconds'] for a, b in zip(said[names[0]], said[name], strict=True)]
        seconds = statistics.median(answer['seconds'] for answer in said[name])
        peak = max(answer['gigabytes'] for answer in said[name])
        rows.append({'work': work, 'frames': frames, 'windows': windows, 'contestant': name, 'seconds': seconds,
                     'ratio': statistics.median(ratios), 'ratios': ratios, 'gigabytes': peak,
                     'of_reference_memory': peak / max(1e-9, *(answer['gigabytes'] for answer in said[names[0]])),
                     'tflops': operations / seconds / 1e12})
        print(f'{work:10} F={frames:<4} B={windows:<3} {name:14} {1000 * seconds:10.1f} ms   {rows[-1]["ratio"]:5.2f}x '
              f'({min(ratios):.2f} to {max(ratios):.2f})   {peak:6.2f} GB, {rows[-1]["of_reference_memory"]:.2f}x   '
              f'{rows[-1]["tflops"]:7.3f} TFLOP/s', flush=True)
    return rows


def multiplications(frames: int, channels: int, depth: int) -> int:
    """Return the multiply-adds of a window's forward pass, counting both graph products of a convolution as dense."""
    tokens, c = frames * JOINTS, channels
    linear = 2 * (depth + 1) * 8 * c * c
    attention = (depth + 1) * 2 * (JOINTS + frames) * c
    priors = (4 * c + 2 * JOINTS * c) + 2 * (2 * c * c + 2 * frames * c)
    return tokens * (linear + attention + priors + 3 * c)


def large_product(device: torch.device, precision: str) -> float:
    """Measure TFLOP/s of a large matrix product of random factors, the second transposed like a layer's weight."""
    size = 8192 if device.type == 'cuda' else 2048
    a, b = torch.randn(2, size, size, device=device, dtype=torch.bfloat16 if precision == 'bf16' else torch.float32)
    torch.set_float32_matmul_precision('high' if precision == 'tf32' else 'highest')
    seconds = median(lambda: torch.nn.functional.linear(a, b), device, rounds=5)
    torch.set_float32_matmul_precision('highest')
    return 2 * size**3 / seconds / 1e12


def beside(frames: int, windows: int, args) -> dict:
    """Measure the share of a step that is neither model nor optimizer."""
    contestant = Contestant(args.contestants[-1], frames, windows, ['-cs', str(args.channels), '-dep', str(args.depth)])
    step = statistics.median([contestant.do('step')['seconds'] for _ in range(args.rounds + 1)][1:])
    parts = contestant.do('parts')['parts']
    contestant.end()
    share = sum(parts.values()) / step
    print(f'beside     F={frames:<4} B={windows:<3} {args.contestants[-1]:14} {1000 * sum(parts.values()):10.2f} ms of '
          f'{1000 * step:.1f} ms: {100 * share:.2f} %')
    return {'frames': frames, 'windows': windows, 'step': step, 'parts': parts, 'share': share}


def poses_a_second(device: torch.device, rounds: int) -> dict:
    """Measure P-MPJPE on 65,536 poses of 17 joints."""
    predicted, target = torch.randn(2, 65536, JOINTS, 3, device=device)
    seconds = median(lambda: p_mpjpe(predicted, target), device, rounds)
    print(f'p_mpjpe    {len(target) / seconds:,.0f} poses/s')
    return {'poses_a_second': len(target) / seconds}


def other(script: str, *flags: str) -> dict:
    """Run another benchmark and return its results."""
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, str(HERE / script), *flags], stdout=subprocess.PIPE, text=True, check=True)
    print(f'{script} {" ".join(flags)}: {time.perf_counter() - begun:.0f} s')
    return json.loads(done.stdout)


def main() -> None:
    """Run all measurements and print the results."""
    device = choose_device('auto')
    ours = ['fp32', *['bf16'] * has_bf16_units(device)]
    if device.type == 'cuda':
        ours = ['fp32', 'tf32', 'tf32+compile', 'bf16', 'bf16+compile']
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--parts', nargs='+', default=PARTS, choices=PARTS)
    parser.add_argument('--frames', type=int, nargs='+', default=[27, 81, 243])
    parser.add_argument('--windows', type=int, nargs='+', help='of a step (default: by frames and device)')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--contestants', nargs='+', metavar='NAME', default=ours)
    parser.add_argument('--channels', type=int, default=512)
    parser.add_argument('--depth', type=int, default=7)
    parser.add_argument('--plots', type=Path, help='folder for cost.png')
    args = parser.parse_args()
    name = torch.cuda.get_device_name() if device.type == 'cuda' else f'CPU, {torch.backends.cpu.get_cpu_capability()}'
    results = {'device': name, 'threads': torch.get_num_threads(), 'versions': versions(), 'command': sys.argv,
               'rows': [], 'beside': [],
               'large_product_tflops': {name: large_product(device, name) for name in
                                        sorted({'fp32', *map(precision_of, args.contestants)})}}
    print(f'large matrix product: {results["large_product_tflops"]} TFLOP/s', flush=True)
    measure_model(results, args, device)
    if 'p_mpjpe' in args.parts:
        results |= poses_a_second(device, 4 * args.rounds)
    if 'start_up' in args.parts:
        results['start_up'] = other('data_path.py', '--rounds', '3', '--channels', '64', '--depth', '2')
    if 'rendering' in args.parts:
        results['rendering'] = other('rendering.py', '--frames', '300')
    print(json.dumps(results, indent=1))
    if args.plots:
        draw(results['rows'], args.plots)


def measure_model(results: dict, args: argparse.Namespace, device: torch.device) -> None:
    """Add to the results the rows of training steps and evaluations, and the parts of a step beside the model."""
    for frames in args.frames:
        for windows in args.windows or [WINDOWS[device.type].get(frames, 1)]:
            for work in ('step', 'evaluation'):
                if work in args.parts:
                    results['rows'] += compare(work, ['reference', *args.contestants], frames, windows, args)
            if 'beside' in args.parts:
                results['beside'].append(beside(frames, windows, args))
    for row in results['rows']:
        product = results['large_product_tflops'].get(precision_of(row['contestant']))
        row['of_large_product'] = product and row['tflops'] / product


def precision_of(contestant: str) -> str:
    """Return the precision in a contestant's name; the reference has fp32."""
    return 'fp32' if contestant == 'reference' else contestant.removeprefix('2x').split('+')[0]


def draw(rows: list[dict], folder: Path) -> None:
    """Plot milliseconds and memory of a training step against its frames into cost.png.

    There is a line for each contestant and length of window; the colour shows the length.
    """
    from matplotlib import pyplot as plt  # takes a second to import

    folder.mkdir(parents=True, exist_ok=True)
    figure, (time_axes, memory_axes) = plt.subplots(1, 2, figsize=(10, 4), layout='constrained')
    steps = [row for row in rows if row['work'] == 'step']
    lengths = sorted({row['frames'] for row in steps})
    for name, marker in zip(dict.fromkeys(row['contestant'] for row in steps), 'oD^svPX*', strict=False):
        for frames in lengths:
            line = [row for row in steps if (row['contestant'], row['frames']) == (name, frames)]
            across = [row['frames'] * row['windows'] for row in line]
            style = {'marker': marker, 'color': f'C{lengths.index(frames)}', 'label': f'{name}, F = {frames}',
                     'linestyle': '--' if name == 'reference' else '-'}
            time_axes.plot(across, [1000 * row['seconds'] / row['frames'] / row['windows'] for row in line], **style)
            memory_axes.plot(across, [row['gigabytes'] for row in line], **style)
    time_axes.set(xlabel='frames in a training step', ylabel='milliseconds a frame', ylim=(0, None))
    memory_axes.set(xlabel='frames in a training step', ylabel='peak memory, GB', ylim=(0, None))
    for axes in (time_axes, memory_axes):
        axes.grid(alpha=0.3)
    memory_axes.legend(frameon=False, fontsize=8)
    figure.savefig(folder / 'cost.png', dpi=100)


if __name__ == '__main__':
    main()
