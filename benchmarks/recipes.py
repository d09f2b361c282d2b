"""The search for a recipe: what each change of the training flags buys, over several seeds, at equal epochs.

    python benchmarks/recipes.py --data DIR --log FILE [--model videopose3d] [--seeds 3] [--epochs 8]
                                 [--only A B ... --test --curves PICTURE] [-- FLAG ...]

Every variant trains on CMU (`-d cmu -k noisy`) with some training subjects held out, whose error after the last epoch
is what counts: the test subjects are not looked at. Flags behind `--` are those of every run, such as its sizes. A
line of JSON a run goes to --log; what is in it already is not run again, so that a search goes on where it stopped.
Prints the mean and the standard deviation over seeds of each variant, and its difference from the first, seed by seed.
--test, for what has been chosen before, tells the error on the test subjects too, of the last epoch and by the protocol
`exact`. --curves draws the error on the held-out subjects against minutes.
"""

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.runs import LOGS, about, add, average_of, mean_and_spread, program, read
from common.cli.parser import parse
from common.models.recipes import values_of

LOG = LOGS / 'recipes.jsonl'
HELD_OUT = '07,16,39'  # of the training subjects: walks, jumps and slow walks
COSINE = ['--schedule', 'cosine', '--warmup', '100']
ADAMW = [*COSINE, '-lr', '2e-3', '--optimizer', 'adamw']
CHOSEN = [*COSINE, '-lr', '4e-3', '-b', '128']
SMALL = [*CHOSEN, '--optimizer', 'adamw']
# Of the models that have none of their own.
OTHERS = {
    'published': [],
    'cosine': COSINE,
    'cosine, AdamW, rate 1e-3': [*COSINE, '--optimizer', 'adamw', '-lr', '1e-3'],
    'cosine, AdamW, rate 2e-3, 256 frames': [*ADAMW, '-b', '256'],
    'cosine, AdamW, rate 4e-3, 128 frames': SMALL,
}
NO_DROP_PATH = OTHERS | {'cosine, AdamW, rate 4e-3, 128 frames, no drop path': [*SMALL, '--drop-path', '0']}
# Model -> variant -> flags. The first variant is what the others are compared with.
VARIANTS = {
    'videopose3d': {
        'published': [],
        'cosine': ['--schedule', 'cosine'],
        'cosine, warm-up': COSINE,
        'cosine, twice the rate': [*COSINE, '-lr', '2e-3'],
        'cosine, AdamW': ADAMW,
        'average of weights': ['--ema', '0.99'],
        'no dropout': ['--dropout', '0'],
        'dropout 0.1': ['--dropout', '0.1'],
        'cosine, AdamW, dropout 0.1': [*ADAMW, '--dropout', '0.1'],
        'cosine, AdamW, dropout 0.1, 16 windows': [*ADAMW, '--dropout', '0.1', '-b', '512'],
        'cosine, AdamW, dropout 0.1, 8 windows': [*ADAMW, '--dropout', '0.1', '-b', '256'],
        'cosine, AdamW, dropout 0.1, 8 windows, rate 4e-3': [*ADAMW, '--dropout', '0.1', '-b', '256', '-lr', '4e-3'],
        'cosine, AdamW, dropout 0.1, average': [*ADAMW, '--dropout', '0.1', '--ema', '0.99'],
    },
    'ktpformer': {
        'published': [],
        'rate 1e-3': ['-lr', '1e-3'],
        'cosine, rate 1e-3': [*COSINE, '-lr', '1e-3'],
        'cosine, rate 2e-3': [*COSINE, '-lr', '2e-3'],
        'cosine, rate 1e-3, 9 windows': [*COSINE, '-lr', '1e-3', '-b', '256'],
        'cosine, rate 2e-3, 9 windows': [*COSINE, '-lr', '2e-3', '-b', '256'],
        'cosine, rate 4e-3, 9 windows': [*COSINE, '-lr', '4e-3', '-b', '256'],
        'cosine, rate 1e-3, 4 windows': [*COSINE, '-lr', '1e-3', '-b', '128'],
        'cosine, rate 2e-3, 4 windows': [*COSINE, '-lr', '2e-3', '-b', '128'],
        'cosine, rate 4e-3, 4 windows': CHOSEN,
        'cosine, rate 8e-3, 4 windows': [*COSINE, '-lr', '8e-3', '-b', '128'],
        'chosen': CHOSEN,
        'chosen, loss plain': [*CHOSEN, '--objective', 'plain'],
        'chosen, loss MPJPE alone': [*CHOSEN, '--loss', 'mpjpe', '--objective', 'plain'],
        'chosen, no drop path': [*CHOSEN, '--drop-path', '0'],
        'chosen, loss plain, no drop path': [*CHOSEN, '--objective', 'plain', '--drop-path', '0'],
        'chosen, average of weights': [*CHOSEN, '--ema', '0.998'],
        'chosen, weight decay 0.01': [*CHOSEN, '--weight-decay', '0.01'],
        'chosen, no warm-up': [*CHOSEN, '--warmup', '0'],
        'chosen, no cosine': ['--warmup', '100', '-lr', '4e-3', '-b', '128'],
        'chosen, clip 1': [*CHOSEN, '--clip', '1'],
        'chosen, a window every 9 frames': [*CHOSEN, '--window-step', '9'],
        'best, rate 1e-3': ['--recipe', 'best', '-lr', '1e-3'],
        'best, rate 4e-3': ['--recipe', 'best', '-lr', '4e-3'],
    },
    'mixste': NO_DROP_PATH | {'cosine, AdamW, rate 4e-3, 128 frames, loss plain, no drop path':
                              [*SMALL, '--objective', 'plain', '--drop-path', '0']},
    **dict.fromkeys(('htnet', 'mhformer', 'stcformer', 'stcformer_3dhp'), NO_DROP_PATH),
}


def run(flags: list[str], test: bool) -> dict:
    """Train once and return errors on the held-out subjects by epoch, seconds, and of a test those of its subjects."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, 'results.json')
        seconds, _ = program([*flags, '-c', f'{folder}/c', '-l', f'{folder}/l', '--select', 'last',
                              '--results', str(results)])
        (metrics,) = Path(folder).glob('l/*/metrics.jsonl')
        epochs = [json.loads(line) for line in metrics.read_text().splitlines()]
        average = average_of(results)
    errors = [epoch['valid_mpjpe'] for epoch in epochs]
    return {'valid_mpjpe': errors[-1], 'epochs': errors, 'seconds': seconds,
            **({'test': average} if test else {})}


def by_recipe(flags: list[str]) -> dict[str, Any]:
    """Return the values that --recipe among the flags stands for today, which its name alone does not tell."""
    given = parse(flags)
    return values_of(given.train.recipe, str(given.model.model), given.model.channels)


def known(log: Path) -> dict[tuple, dict]:
    """Return the runs of a log, by what their recipes say today: (model, variant, seed, flags) -> figures."""
    return {(line['model'], line['variant'], line['seed'], tuple(line['flags'])): line for line in read(log)
            if line.get('recipe', {}) == by_recipe(line['flags'])}


def search(log: Path, model: str, variants: dict[str, list[str]], seeds: int, has: str,
           run: Callable[[list[str]], dict]) -> dict[str, list[dict]]:
    """Return the runs of each variant, in the order of their seeds: those of a log, and those that it lacks, made.

    Args:
        variants: name -> flags of its trainings, but for the seed.
        has: a figure without which a run of the log is made again.
        run: makes one by its flags and returns its figures.
    """
    done, runs = known(log), defaultdict(list)
    for seed in range(seeds):  # seed by seed, so that a search that is stopped has whole rows
        for name, of in variants.items():
            flags = [*of, '--seed', str(seed)]
            key = model, name, seed, tuple(flags)
            if has not in done.get(key, ()):
                done[key] = {'model': model, 'variant': name, 'seed': seed, 'flags': flags,
                             'recipe': by_recipe(flags), **run(flags), **about()}
                add(log, done[key])
                print(f'{name}, seed {seed}: {done[key][has]}', file=sys.stderr)
            runs[name].append(done[key])
    return runs


def report(runs: dict[str, list[dict]], title: str, error: Callable[[dict], float]) -> None:
    """Print a row a variant: runs by variant, in the order of their seeds."""
    first = next(iter(runs))
    print(f'\n| variant | {title}, mm | against the first, seed by seed | minutes |\n|---|---|---|---|')
    base = np.array([error(entry) for entry in runs[first]])
    for name, entries in runs.items():
        errors = np.array([error(entry) for entry in entries])
        seconds = [entry['seconds'] for entry in entries if 'seconds' in entry]
        minutes = f'{np.mean(seconds) / 60:.1f}' if seconds else '–'
        print(f'| {name} | {mean_and_spread(errors, 2)} | {mean_and_spread(errors - base[:len(errors)], 2)} | '
              f'{minutes} |')


def draw(runs: dict[str, list[dict]], path: Path) -> None:
    """Draw the held-out error of each variant against minutes of one core: the mean of its seeds, and all between."""
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    figure, axis = plt.subplots(figsize=(7, 4.5), layout='constrained')
    for name, entries in runs.items():
        errors = np.array([entry['epochs'] for entry in entries])
        minutes = np.linspace(0, np.mean([entry['seconds'] for entry in entries]) / 60, errors.shape[1] + 1)[1:]
        line, = axis.plot(minutes, errors.mean(axis=0), marker='o', markersize=3, label=name)
        axis.fill_between(minutes, errors.min(axis=0), errors.max(axis=0), color=line.get_color(), alpha=0.2)
    first = np.mean([entry['valid_mpjpe'] for entry in next(iter(runs.values()))])
    axis.axhline(first, color='black', linewidth=0.8, linestyle=':')
    axis.set(xlabel='minutes of one core', ylabel='MPJPE of held-out training subjects (mm)', xlim=(0, None))
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> None:
    """Run what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', type=Path, required=True)
    parser.add_argument('--log', type=Path, default=LOG)
    parser.add_argument('--model', default='videopose3d')
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--epochs', type=int, default=8)
    parser.add_argument('--only', nargs='+')
    parser.add_argument('--test', action='store_true')
    parser.add_argument('--curves', type=Path, help='a picture of errors against minutes')
    parser.add_argument('flags', nargs='*')
    args = parser.parse_args()
    recipes = {'best': ['--recipe', 'best'], 'fast': ['--recipe', 'fast', '-e', str(max(1, args.epochs // 4))]}
    variants = VARIANTS.get(args.model, OTHERS) | recipes
    names = args.only or list(variants)
    if unknown := set(names) - variants.keys():
        parser.error(f'--model {args.model} has no variant {", ".join(sorted(unknown))}: it has {", ".join(variants)}')
    every = ['--model', args.model, '-d', 'cmu', '-k', 'noisy', '--subjects-valid', HELD_OUT, '-e', str(args.epochs),
             *args.flags]
    runs = search(args.log, args.model, {name: [*every, *variants[name]] for name in names}, args.seeds,
                  'test' if args.test else 'valid_mpjpe',
                  lambda flags: run([*flags, '--data', str(args.data)], args.test))
    report(runs, 'held-out MPJPE', lambda entry: entry['valid_mpjpe'])
    if args.test:
        report(runs, 'test MPJPE', lambda entry: entry['test']['mpjpe'])
        report(runs, 'test P-MPJPE', lambda entry: entry['test']['p_mpjpe'])
    if args.curves:
        draw(runs, args.curves)


if __name__ == '__main__':
    main()
