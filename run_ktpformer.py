#!/usr/bin/env python
"""Train and evaluate 2D-to-3D human pose lifting: parse, dispatch, exit status. Nothing runs at import."""

import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from common.config import Config

# Threads that spin while they wait take the cores of whoever else works on the machine. Read when torch is imported.
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')

TOO_LARGE = 'this does not fit in memory: try a smaller -b, -f or -cs, or --subset'


def main(argv: list[str] | None = None) -> int:
    """Run one command line; return the exit status: 0, 1 (files), 2 (flags), 130 (SIGINT), 143 (SIGTERM)."""
    from common.errors import out_of_memory
    from common.storage.ending import EXIT_STATUS, Terminated, terminable
    try:
        with terminable():
            return _run(argv)
    except Terminated:
        return _fail('stopped by SIGTERM', EXIT_STATUS)
    except SystemExit as stop:  # argparse ends so, after its one line or the help
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:  # outside training, which takes the signal itself
        return _fail('interrupted', 130)
    except BrokenPipeError:  # what read our output went away; nothing more can be said there
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _fail(f'{error.filename or "output"}: {error.strerror or error}', 1)
    except MemoryError:
        return _fail(TOO_LARGE, 1)
    except ImportError as error:  # of a library that does not fit in what ulimit or a container leaves
        if 'failed to map segment' in str(error) or 'annot allocate memory' in str(error):
            return _fail('there is too little memory for torch: raise the limit (ulimit -v)', 1)
        raise
    except RuntimeError as error:
        if out_of_memory(error):
            return _fail(TOO_LARGE, 1)
        if _count('WORLD_SIZE', 1) > 1:  # what a collective raises when a rank is gone
            return _fail(f'the other processes are gone or failed: {str(error).splitlines()[0]}', 1)
        raise


def _count(name: str, default: int) -> int:
    """Return a number of torchrun's from the environment; the default where it is none."""
    try:
        return int(os.environ.get(name, default))
    except ValueError:
        return default


def _run(argv: list[str] | None) -> int:
    """Parse and dispatch; return the exit status, having said why it is not 0."""
    from common import threads
    from common.cli import parser
    from common.errors import ContractError, DivergedError, FileError, FlagError
    from common.training.signals import Stopped
    config = parser.parse(argv)
    try:
        check_data_is_there(config)
        threads.limit()
        from common import commands  # torch is imported only for a command line that makes sense
        commands.run(config)
    except Stopped as stopped:
        left = stopped.left or f'{config.run.checkpoint}/last.bin holds every step so far, continue with --resume'
        return _fail(f'stopped by {stopped}; {left}', stopped.exit_status)
    except (ContractError, DivergedError, FileError, FlagError) as error:
        return _fail(error, error.exit_status)
    return 0


def check_data_is_there(config: 'Config') -> None:
    """Raise FileError for a training file that is missing, before seconds are spent on importing torch."""
    from common.config import TRAIN
    from common.datasets import check_files
    alone = _count('WORLD_SIZE', 1) == 1  # several processes agree on it once they have met
    if alone and config.command == TRAIN and not (config.train.resume or config.train.init):
        check_files(config.data.dataset, Path(config.data.folder), config.data.keypoints)


def _fail(message: object, status: int) -> int:
    """Print one line on stderr; return the status."""
    from common.storage.files import one_line
    rank = _count('RANK', 0)
    line = one_line(message, 2000)  # names from files can hold line breaks and codes that terminals obey
    print(f'run_ktpformer.py: error: {f"rank {rank}: " if rank else ""}{line}', file=sys.stderr, flush=True)
    return status


def command() -> int:
    """Run the command line of this process, in a terminal of any encoding; return the exit status."""
    from common.storage.ending import keep_standard_streams
    keep_standard_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='backslashreplace')
    return main()


if __name__ == '__main__':
    sys.exit(command())
