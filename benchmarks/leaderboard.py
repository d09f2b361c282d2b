"""One table of all models: trained alike on open motion, tested by one protocol, with what they cost.

    python benchmarks/leaderboard.py --data DIR [--only NAME ...] [--keypoints noisy gt] [--seeds 3] [--again]
    python benchmarks/leaderboard.py --speed [--only NAME ...]
    python benchmarks/leaderboard.py --table

DIR holds the motion of CMU, as data/prepare_data_cmu.py writes it. The first command trains what is missing and tests
it: small models, of 2 to 4 million multiply-adds a frame, each for about 3 minutes of one core, by its recipe `best`
(--recipe), on all training subjects. Nothing is chosen by the test subjects: the last epoch is tested, by the protocol
`exact`, with mirrored keypoints, and with the root both as the model is published and set to 0. The second measures
parameters, multiply-adds and speed on this machine, with nothing else running. A line of JSON goes to --log for each
run, and what is there is not made again, so that it can be done in pieces, or by several machines; with --again, runs
are made and logged again, as `again`, and --table tells both. The third prints the tables and commands of
docs/results.md and draws its picture. None of it ranks models on Human3.6M: the models are small, the motion is CMU's,
the detections are noise.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')  # before torch is imported

from benchmarks.recipes import by_recipe
from benchmarks.runs import LOGS, PICTURES, about, add, average_of, mean_and_spread, program, read

LOG, PICTURE = LOGS / 'leaderboard.jsonl', PICTURES / 'leaderboard.png'
WINDOWS = ['-f', '27']
ALL_JOINTS = ['--joints', 'h36m']  # where a model is published for 16 of them: every row is the mean of 17


@dataclass(frozen=True)
class Row:
    """A row: sizes of 2 to 4 million multiply-adds a frame, and what makes its training take 3 minutes of one core."""

    sizes: list[str]
    training: list[str]


ROWS = {
    'martinez': Row(['-dep', '1'], ['-e', '8']),
    'graformer': Row(['-cs', '48'], ['-e', '2', *ALL_JOINTS]),
    'mgcn': Row(['-cs', '96'], ['-e', '2']),
    'mgcn16': Row(['-cs', '96'], ['-e', '6', *ALL_JOINTS]),
    'htnet': Row(['-cs', '48', '-dep', '1'], ['-e', '2']),
    'videopose3d': Row([*WINDOWS, '-cs', '384'], ['-s', '32', '-e', '9']),
    'strided': Row([*WINDOWS, '-cs', '48', '--hidden', '96'], ['--window-step', '2', '-e', '2']),
    'pstmo': Row([*WINDOWS, '-cs', '48', '--hidden', '96'], ['--window-step', '2', '-e', '2']),
    'mhformer': Row([*WINDOWS, '-cs', '16', '--hidden', '32', '-dep', '2'], ['--window-step', '4', '-e', '2']),
    'stcformer': Row([*WINDOWS, '-cs', '16', '-dep', '1'], ['--window-step', '4', '-e', '2']),
    'stcformer_3dhp': Row([*WINDOWS, '-cs', '16', '-dep', '1'], ['--window-step', '4', '-e', '3']),
    'mixste': Row([*WINDOWS, '-cs', '64', '-dep', '2'], ['-e', '2']),
    'd3dp': Row(['--diffusion', *WINDOWS, '-cs', '64', '-dep', '2'], ['-e', '2']),
    'ktpformer': Row([*WINDOWS, '-cs', '64', '-dep', '1'], ['-e', '2']),
    'dstformer': Row([*WINDOWS, '-cs', '64', '-dep', '1'], ['--window-step', '27', '-e', '4']),
    'motionagformer': Row([*WINDOWS, '-cs', '32', '-dep', '3'], ['--window-step', '27', '-e', '3']),
}
MODELS = {'d3dp': 'mixste'}  # of the rows that are not called after their model
# A single hypothesis: choosing among several by the answer would not be a test, and their mean costs as many passes.
SAMPLING = {'d3dp': ['--hypotheses', '1', '--iterations', '5']}
COLUMNS = (('published', 'mpjpe'), ('zero', 'mpjpe'), ('zero', 'p_mpjpe'), ('zero', 'mpjve'))  # root and metric
SPEED_FRAMES, SPEED_ROUNDS, SINGLE = 2048, 5, 100
NAMES_APART = 3.2  # mm in the picture


# ---- runs -------------------------------------------------------------------------------------------------------


def model_of(row: str) -> str:
    """Return the model of a row."""
    return MODELS.get(row, row)


def training_flags(row: str, keypoints: str, seed: int) -> list[str]:
    """Return the command line of a row's training, but for the folders."""
    return ['--model', model_of(row), '--recipe', 'best', '-d', 'cmu', '-k', keypoints, *ROWS[row].sizes,
            *ROWS[row].training, '--no-eval', '--seed', str(seed)]


def run(row: str, keypoints: str, seed: int, data: Path) -> dict:
    """Train and test a row once and return its line of the log."""
    flags = training_flags(row, keypoints, seed)
    with tempfile.TemporaryDirectory() as folder:
        seconds, memory = program([*flags, '--data', str(data), '-c', f'{folder}/c', '-l', f'{folder}/l'])
        errors = {}
        for root in ('published', 'zero'):
            results = Path(folder, f'{root}.json')
            program(['--evaluate', f'{folder}/c/last.bin', '-d', 'cmu', '-k', keypoints, '--data', str(data),
                     '--protocol', 'exact', '--test-time-augmentation', *SAMPLING.get(row, []),
                     *(['--root', 'zero'] if root == 'zero' else []), '--results', str(results)])
            errors[root] = average_of(results)
    return {'row': row, 'keypoints': keypoints, 'seed': seed, 'flags': flags, 'recipe': by_recipe(flags),
            'errors': errors, 'minutes': seconds / 60, 'gigabytes': memory, **about()}


# ---- speed ------------------------------------------------------------------------------------------------------


def speed(row: str) -> dict:
    """Measure a row's model with fresh weights: parameters, multiply-adds, and frames a second without mirroring."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from benchmarks.zoo import random_store
    from common.cli.parser import parse
    from common.commands.list_models import multiply_adds
    from common.models import build_model, computing
    from common.models.lifting import predictions, windows_for
    from common.sampler import TestWindows
    from common.skeleton import H36M
    given = parse(['--model', model_of(row), *ROWS[row].sizes]).model
    store = random_store([('S1', 'Walking', 0)], [SPEED_FRAMES], H36M, torch.device('cpu'))
    sizes = given.sizes() | ({'diffusion': True} if given.diffusion else {})
    model = build_model(model_of(row), sizes, H36M, H36M).eval()
    computing.set_up(model, store.device, compiled=False)
    if model.samples:
        model.hypotheses, model.iterations = 1, 5
    single = TestWindows.of(store, model.frames, target='last', answers=model.answers, spacing=model.spacing)

    def lift(windows: TestWindows) -> float:
        begun = time.perf_counter()
        list(predictions(model, store, windows, flip=False).values())
        return time.perf_counter() - begun
    windows = windows_for(model, store)
    lift(windows)
    batched = statistics.median(lift(windows) for _ in range(SPEED_ROUNDS))
    one = statistics.median([lift(single.one(index)) for index in range(SINGLE)][SINGLE // 10:])
    if model.samples:  # multiply_adds counts one pass of a model that reads keypoints alone
        with FlopCounterMode(display=False) as counter:
            lift(single.one(0))
        macs = counter.get_total_flops() / 2 / len(model.answers)
    else:
        macs = multiply_adds(model, len(H36M))
    parameters = sum(weight.numel() for weight in model.parameters())
    return {'row': row, 'sizes': ROWS[row].sizes, 'parameters': parameters, 'frames': model.frames,
            'batched': SPEED_FRAMES / batched, 'one_at_a_time': 1 / one,
            'macs': macs, **about(), 'threads': torch.get_num_threads()}


# ---- table ------------------------------------------------------------------------------------------------------


def known_of(lines: list[dict], keypoints: str) -> tuple[dict[str, list[dict]], dict[str, dict]]:
    """Return the runs of each row with these keypoints, without those made again, and what each row costs.

    Runs by other flags than today's do not count, and of several with one seed the first does.
    """
    runs: dict[str, dict[int, dict]] = defaultdict(dict)
    for line in lines:
        if line.get('keypoints') == keypoints and not line.get('again') and of_today(line):
            runs[line['row']].setdefault(line['seed'], line)
    return {row: list(seeds.values()) for row, seeds in runs.items()}, {
        line['row']: line for line in lines if 'macs' in line and line['sizes'] == ROWS[line['row']].sizes}


def of_today(line: dict) -> bool:
    """Return whether a run of the log was made by the flags that its row has today, and what its recipe says today."""
    return line['row'] in ROWS and line['flags'] == training_flags(line['row'], line['keypoints'], line['seed']) \
        and line['recipe'] == by_recipe(line['flags'])


def table(lines: list[dict], keypoints: str) -> str:
    """Return the table of one kind of keypoints, the lowest error first."""
    runs, costs = known_of(lines, keypoints)

    def errors(row: str, root: str, metric: str) -> list[float]:
        return [line['errors'][root][metric] for line in runs[row]]
    rows = sorted(runs, key=lambda row: statistics.mean(errors(row, 'zero', 'mpjpe')))
    text = ['| `--only` | MPJPE, root as published | root at 0 | P-MPJPE | MPJVE | seeds | parameters | M multiply-adds'
            ' a frame | frames/s | one at a time | minutes | GB |', '|' + '---|' * 12]
    for row in rows:
        cost, of = costs.get(row), runs[row]
        figures = ['–'] * 4 if cost is None else [
            f'{cost["parameters"] / 1e3:,.0f} k', f'{cost["macs"] / 1e6:.2f}', f'{cost["batched"]:,.0f}',
            f'{cost["one_at_a_time"]:,.0f}']
        seen = [mean_and_spread(errors(row, *what)) for what in COLUMNS]
        cells = [f'`{row}`', *seen, str(len(of)), *figures, f'{statistics.median(line["minutes"] for line in of):.1f}',
                 f'{max(line["gigabytes"] for line in of):.2f}']
        text.append(f'| {" | ".join(cells)} |')
    return '\n'.join(text)


def commands() -> str:
    """Return the command that trains each row with noisy keypoints and seed 0."""
    return '\n'.join(f'python run_ktpformer.py {" ".join(training_flags(row, "noisy", 0))}' for row in ROWS)


def repeats(lines: list[dict]) -> str:
    """Return how runs that were made again compare with the first ones of the same seeds."""
    def error(line: dict) -> float:
        return line['errors']['zero']['mpjpe']
    text = []
    for line in lines:
        if line.get('again') and of_today(line):
            row, keypoints, seed = line['row'], line['keypoints'], line['seed']
            text += [f'`{row}`, {keypoints}, seed {seed}: {error(first):.2f}, made again {error(line):.2f}'
                     for first in known_of(lines, keypoints)[0][row] if first['seed'] == seed]
    return '\n'.join(text)


def draw(lines: list[dict], keypoints: str, path: Path) -> None:
    """Draw the error against multiply-adds a frame, and against frames a second, batched and one at a time."""
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter
    runs, costs = known_of(lines, keypoints)
    figure, axes = plt.subplots(1, 3, figsize=(15, 5), sharey=True, layout='constrained')
    panels = (('macs', 'million multiply-adds a frame', 1e-6),
              ('batched', 'thousand frames a second, many at once', 1e-3),
              ('one_at_a_time', 'frames a second, one at a time', 1))
    mean = {row: statistics.mean(line['errors']['zero']['mpjpe'] for line in of) for row, of in runs.items()}
    for axis, (what, label, unit) in zip(axes, panels, strict=True):
        shown = sorted(runs.keys() & costs.keys(), key=lambda row: mean[row])
        name_at = 0.0  # names stand in a column, one above the other, however near their points are
        for row in shown:
            x, of = unit * costs[row][what], [line['errors']['zero']['mpjpe'] for line in runs[row]]
            error = statistics.stdev(of) if len(of) > 1 else 0
            axis.errorbar(x, mean[row], error, fmt='o', markersize=5, capsize=3, color='#0072B2')
            name_at = max(mean[row], name_at + NAMES_APART)
            axis.annotate(row, (x, mean[row]), (1.02, name_at), fontsize=8, va='center',
                          textcoords=axis.get_yaxis_transform(),
                          arrowprops={'arrowstyle': '-', 'lw': 0.4, 'color': 'grey', 'shrinkB': 4, 'relpos': (0, 0.5)})
        axis.set(xlabel=label, xscale='log')
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter('{x:,g}')
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.margins(x=0.1)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(f'test MPJPE, root at 0, {keypoints} keypoints (mm)')
    figure.savefig(path, dpi=80)
    plt.close(figure)


def keep_up(log: Path, data: Path, rows: Iterable[str], kinds: Iterable[str], seeds: int, again: bool) -> None:
    """Train and test what the log lacks, seed by seed, so that one that is stopped has whole rounds.

    Args:
        data: the folder of the motion.
        kinds: of keypoints.
        again: make runs that are logged once more, and log them so.
    """
    for keypoints, seed, row in product(kinds, range(seeds), rows):
        done = {(line['row'], line['keypoints'], line['seed']) for line in read(log)  # others may add to it meanwhile
                if 'errors' in line and of_today(line) and bool(line.get('again')) == again}
        if (row, keypoints, seed) in done:
            continue
        line = run(row, keypoints, seed, data) | ({'again': True} if again else {})
        add(log, line)
        print(f'{row}, {keypoints}, seed {seed}: {line["errors"]["zero"]["mpjpe"]:.1f} mm, {line["minutes"]:.1f} min',
              file=sys.stderr)


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', type=Path)
    parser.add_argument('--log', type=Path, default=LOG)
    parser.add_argument('--only', nargs='+', choices=ROWS, default=list(ROWS))
    parser.add_argument('--keypoints', nargs='+', choices=('noisy', 'gt'), default=['noisy', 'gt'])
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--again', action='store_true', help='make runs that are logged once more')
    parser.add_argument('--speed', action='store_true', help='measure what the models cost')
    parser.add_argument('--table', action='store_true', help='print the table and draw its picture')
    args = parser.parse_args()
    if not (args.data or args.speed or args.table):
        parser.error('--data DIR trains, --speed measures, --table prints')
    if args.data:
        keep_up(args.log, args.data, args.only, args.keypoints, args.seeds, args.again)
    if args.speed:
        for row in args.only:
            add(args.log, speed(row))
    if args.table:
        lines = read(args.log)
        if not any('errors' in line for line in lines):
            parser.error(f'{args.log} holds no run')
        for keypoints in args.keypoints:
            print(f'{keypoints}:\n\n{table(lines, keypoints)}\n')
        print(f'{repeats(lines)}\n\n{commands()}')
        draw(lines, args.keypoints[0], PICTURE)


if __name__ == '__main__':
    main()
