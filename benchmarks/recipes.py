"""The search for a recipe: what each change of the training flags buys, over several seeds, at equal epochs.

    python benchmarks/recipes.py --data DIR --log FILE [--model videopose3d] [--seeds 3] [--epochs 8]
                                 [--only A B ... --test] [-- FLAG ...]

Every variant trains on CMU (`-d cmu -k noisy`) with some training subjects held out, whose error after the last epoch
is what counts: the test subjects are never looked at. Flags behind `--` are those of every run, such as its sizes. A
line of JSON a run goes to --log; what is in it already is not run again, so that a search goes on where it stopped.
Prints the mean and the standard deviation over seeds of each variant, and its difference from the first, seed by seed.
--test trains on all training subjects and tells the error on the test subjects, for what has been chosen before.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
HELD_OUT = '07,16,39'  # of the training subjects: walks, jumps and slow walks
CHOSEN = 'cosine, AdamW, dropout 0.1'
VARIANTS = {
    'published': [],
    'cosine': ['--schedule', 'cosine'],
    'cosine, warm-up': ['--schedule', 'cosine', '--warmup', '100'],
    'cosine, twice the rate': ['--schedule', 'cosine', '--warmup', '100', '-lr', '2e-3'],
    'cosine, AdamW': ['--schedule', 'cosine', '--warmup', '100', '-lr', '2e-3', '--optimizer', 'adamw'],
    'average of weights': ['--ema', '0.99'],
    'no dropout': ['--dropout', '0'],
    'dropout 0.1': ['--dropout', '0.1'],
    CHOSEN: ['--schedule', 'cosine', '--warmup', '100', '-lr', '2e-3', '--optimizer', 'adamw',
                                   '--dropout', '0.1'],
    'cosine, AdamW, dropout 0.1, average': ['--schedule', 'cosine', '--warmup', '100', '-lr', '2e-3', '--optimizer',
                                            'adamw', '--dropout', '0.1', '--ema', '0.99'],
}


def run(flags: list[str]) -> dict:
    """Train once and return what the last line of its metrics says, with the seconds of all epochs together."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / 'run_ktpformer.py'), *flags, '-c', f'{folder}/c', '-l', f'{folder}/l']
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr.strip())
        (metrics,) = Path(folder).glob('l/*/metrics.jsonl')
        lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    return {'valid_mpjpe': lines[-1]['valid_mpjpe'], 'seconds': sum(line['seconds'] for line in lines)}


def known(log: Path) -> dict[tuple, dict]:
    """Return the runs of a log: (model, variant, seed, flags) -> figures."""
    lines = log.read_text().splitlines() if log.exists() else []
    entries = [json.loads(line) for line in lines]
    return {(entry['model'], entry['variant'], entry['seed'], tuple(entry['flags'])): entry for entry in entries}


def report(runs: dict[str, list[dict]]) -> None:
    """Print a row a variant: runs by variant, in the order of their seeds."""
    first = next(iter(runs))
    print('| variant | MPJPE, mm | against the first, seed by seed | minutes |\n|---|---|---|---|')
    base = np.array([entry['valid_mpjpe'] for entry in runs[first]])
    for name, entries in runs.items():
        errors = np.array([entry['valid_mpjpe'] for entry in entries])
        gain = errors - base[:len(errors)]
        minutes = np.mean([entry['seconds'] for entry in entries]) / 60
        print(f'| {name} | {errors.mean():.2f} ± {errors.std(ddof=1):.2f} | {gain.mean():+.2f} ± '
              f'{gain.std(ddof=1):.2f} | {minutes:.2f} |')


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', type=Path, required=True)
    parser.add_argument('--log', type=Path, required=True)
    parser.add_argument('--model', default='videopose3d')
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--epochs', type=int, default=8)
    parser.add_argument('--only', nargs='+')
    parser.add_argument('--test', action='store_true')
    parser.add_argument('flags', nargs='*')
    args = parser.parse_args()
    os.environ.setdefault('OMP_WAIT_POLICY', 'passive')
    variants = VARIANTS | {f'{CHOSEN}, half of the epochs': [*VARIANTS[CHOSEN], '-e', str(args.epochs // 2)]}
    names = args.only or list(VARIANTS)
    every = ['--model', args.model, '-d', 'cmu', '-k', 'noisy', '--data', str(args.data),
             *([] if args.test else ['--subjects-valid', HELD_OUT]), '-e', str(args.epochs), *args.flags]
    done = known(args.log)
    for seed in range(args.seeds):  # seed by seed, so that a search that is stopped has whole rows
        for name in names:
            flags = [*every, *variants[name], '--seed', str(seed)]
            if (args.model, name, seed, tuple(flags)) in done:
                continue
            entry = {'model': args.model, 'variant': name, 'seed': seed, 'flags': flags, **run(flags)}
            done[args.model, name, seed, tuple(flags)] = entry
            with open(args.log, 'a', encoding='utf-8') as log:
                log.write(json.dumps(entry) + '\n')
            print(f'{name}, seed {seed}: {entry["valid_mpjpe"]:.2f} mm, {entry["seconds"]:.0f} s', file=sys.stderr)
    report({name: [done[args.model, name, seed, (*every, *variants[name], '--seed', str(seed))]
                   for seed in range(args.seeds)] for name in names})


if __name__ == '__main__':
    main()
