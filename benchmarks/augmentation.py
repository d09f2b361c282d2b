"""What random virtual cameras and a detector's noise buy in training, for a test by the fixed cameras of a file.

    python benchmarks/augmentation.py --data DIR [--log FILE] [--seeds 3] [-- FLAG ...]

Every variant trains VideoPose3D by its recipe `best` on CMU, with some training subjects held out, and is tested on
those alone, by the noisy keypoints of the file, whatever it was trained on: the test subjects are not looked at. Flags
behind `--` are those of every training. A line of JSON a run goes to --log; what is in it already is not run again.
Prints the mean and the standard deviation over seeds, and the difference from the first variant, seed by seed.
"""

import argparse
import sys
import tempfile
from pathlib import Path

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.recipes import HELD_OUT, report, search
from benchmarks.runs import LOGS, average_of, program

LOG = LOGS / 'augmentation.jsonl'
MODEL = 'videopose3d'
VARIANTS = {
    'noisy keypoints of the file': ['-k', 'noisy'],
    'exact keypoints of the file': ['-k', 'gt'],
    'exact keypoints, noise': ['-k', 'gt', '--noise', 'detector'],
    'noisy keypoints, noise': ['-k', 'noisy', '--noise', 'detector'],
    'random views': ['-k', 'noisy', '--views', 'random'],
    'random views, noise': ['-k', 'noisy', '--views', 'random', '--noise', 'detector'],
}


def training_flags(variant: str, more: list[str]) -> list[str]:
    """Return the command line of a variant's training, but for the seed and the folders."""
    return ['--model', MODEL, '--recipe', 'best', '-d', 'cmu', *VARIANTS[variant], '--subjects-valid', HELD_OUT,
            '--select', 'last', *more]


def run(flags: list[str], data: Path) -> dict:
    """Train once; return seconds and the error on the held-out subjects, by the protocol `exact` with mirroring."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, 'results.json')
        seconds, _ = program([*flags, '--data', str(data), '-c', f'{folder}/c', '-l', f'{folder}/l'])
        program(['--evaluate', f'{folder}/c/last.bin', '-d', 'cmu', '-k', 'noisy', '--data', str(data),
                 '-ste', HELD_OUT, '--views', 'file', '--noise', 'none', '--protocol', 'exact',
                 '--test-time-augmentation', '--results', str(results)])
        return {'seconds': seconds, 'held_out': average_of(results)}


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', type=Path, required=True)
    parser.add_argument('--log', type=Path, default=LOG)
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('flags', nargs='*')
    args = parser.parse_args()
    variants = {variant: training_flags(variant, args.flags) for variant in VARIANTS}
    runs = search(args.log, MODEL, variants, args.seeds, 'held_out', lambda flags: run(flags, args.data))
    for metric, name in (('mpjpe', 'MPJPE'), ('p_mpjpe', 'P-MPJPE')):
        report(runs, f'{name} with noisy keypoints', lambda entry, metric=metric: entry['held_out'][metric])


if __name__ == '__main__':
    main()
