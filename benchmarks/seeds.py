"""The effect of precision on a trained model, compared with chance: K seeds, each trained in every precision.

    python benchmarks/seeds.py [--seeds 3] [--precisions fp32 bf16] [--folder DIR] -- FLAGS OF run_ktpformer.py

    python benchmarks/seeds.py -- -d cmu -k noisy -f 27 -cs 64 -dep 2 -b 256 -lr 1e-3 -lrd 0.9 -e 3

Every run goes through the program; its last epoch is then evaluated in every precision. Prints a table, then JSON:
MPJPE (paper protocol, mm) by seed and precision of training, mean and standard deviation over seeds, and its change
when evaluated in another precision. Results already in the folder are not computed again.

A CPU without units for bfloat16 takes eight times as long for its products. There, products in training are computed in
float32 from the rounded factors and then rounded, as such units do, except for the order of sums. Products in
evaluation, which inference mode does not split up, are the CPU's own.
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')  # before torch is imported

import run_ktpformer
from common.models.computing import has_bf16_units
from common.storage.runlog import versions

PRODUCTS = {torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default,
            torch.ops.aten.baddbmm.default}


class Float32Products(TorchDispatchMode):
    """A mode in which matrix products of bfloat16 tensors are computed in float32 and rounded."""

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        """Run an operation, products of bfloat16 in float32."""
        if operator in PRODUCTS and args[-1].dtype == torch.bfloat16:
            return operator(*(arg.float() for arg in args), **(kwargs or {})).bfloat16()
        return operator(*args, **(kwargs or {}))


def main() -> None:
    """Train and evaluate all runs and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seeds', type=int, default=3, help='how many, from 1 on')
    parser.add_argument('--precisions', nargs='+', default=['fp32', 'bf16'], metavar='NAME')
    parser.add_argument('--folder', type=Path, help='for checkpoints and figures; what it holds is not made again')
    parser.add_argument('flags', nargs='+', help='of run_ktpformer.py, behind --')
    args = parser.parse_args()
    if args.seeds < 2:
        parser.error('--seeds: a spread needs two at least')
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    with contextlib.ExitStack() as stack:
        if not has_bf16_units(device):
            stack.enter_context(Float32Products())
        folder = args.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        runs = {(seed, trained): one_run(folder / f'{trained}-{seed}', seed, trained, args.precisions, args.flags)
                for seed in range(1, args.seeds + 1) for trained in args.precisions}
    show(runs, args)


def one_run(folder: Path, seed: int, trained: str, precisions: list[str], flags: list[str]) -> dict[str, float]:
    """Train, unless that is done, and evaluate the last epoch; return MPJPE in mm by precision of evaluation."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = {}
    if not (folder / 'trained').exists():
        program(*flags, '--seed', seed, '--precision', trained, '-c', folder, '-l', folder / 'log', '--no-eval',
                '--overwrite')
        (folder / 'trained').touch()
    data = [flag for name in ('-d', '-k', '--data') if name in flags for flag in (name, flags[flags.index(name) + 1])]
    for evaluated in precisions:
        results = folder / f'in_{evaluated}.json'
        if not results.exists():
            program(*data, '-c', folder, '--evaluate', 'last.bin', '--precision', evaluated, '--results', results)
        figures[evaluated] = json.loads(results.read_text())['protocols']['paper']['average']['mpjpe']
    return figures


def program(*flags) -> None:
    """Run a command line of the program with its output on stderr; end the benchmark where it fails."""
    with contextlib.redirect_stdout(sys.stderr):
        if run_ktpformer.main([str(flag) for flag in flags]):
            sys.exit(1)


def show(runs: dict[tuple[int, str], dict[str, float]], args: argparse.Namespace) -> None:
    """Print the table, then the JSON."""
    summary = {}
    print(f'trained in  evaluated in {args.precisions[0]} by seed, mean ± std; change by evaluating in another one')
    for trained in args.precisions:
        own = [figures for (_, precision), figures in runs.items() if precision == trained]
        base = [figures[args.precisions[0]] for figures in own]
        changes = {other: [figures[other] - figures[args.precisions[0]] for figures in own]
                   for other in args.precisions[1:]}
        summary[trained] = {'mpjpe': base, 'mean': statistics.mean(base), 'std': statistics.stdev(base), **{
            f'evaluated_in_{other}': change for other, change in changes.items()}}
        print(f'{trained:10}  {" ".join(f"{x:.2f}" for x in base)}, {statistics.mean(base):.2f} ± '
              f'{statistics.stdev(base):.2f} mm; ' + '; '.join(f'{other}: {" ".join(f"{x:+.3f}" for x in change)} mm'
                                                               for other, change in changes.items()))
    print(json.dumps({'versions': versions(), 'flags': args.flags, 'trained_in': summary}, indent=1))


if __name__ == '__main__':
    main()
