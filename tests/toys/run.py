"""Run the program with the toy models in its registry: for processes that tests start, kill and pair."""

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

import run_ktpformer  # noqa: E402
from common.models import MODELS  # noqa: E402
from toys import TOYS  # noqa: E402

if __name__ == '__main__':
    MODELS.update(TOYS)
    sys.exit(run_ktpformer.main())
