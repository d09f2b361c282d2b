#!/usr/bin/env python
"""Train and evaluate 2D-to-3D human pose lifting: parse, dispatch, exit status. Nothing runs at import."""

import os
import sys


def main(argv: list[str] | None = None) -> int:
    """Run one command line; returns the exit status: 0, 1 (files), 2 (flags), 130 (interrupted)."""
    args = None
    try:
        from common import arguments
        args = arguments.parse(argv)
        from common.engine import session  # torch is imported only for a command line that makes sense
        from common.errors import DivergedError, FileError, FlagError
        try:
            session.evaluate(args) if args.evaluate else session.train(args)
        except (DivergedError, FileError, FlagError) as error:
            return _fail(error, error.exit_status)
    except SystemExit as stop:  # argparse ends so, after its one line or the help
        return stop.code or 0
    except KeyboardInterrupt:
        kept = '' if args is None or args.evaluate else f'; finished epochs are in {args.checkpoint}/last.bin'
        return _fail(f'interrupted{kept}', 130)
    except BrokenPipeError:  # what read our output went away; nothing more can be said there
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _fail(f'{error.filename or "output"}: {error.strerror or error}', 1)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and 'memory' not in str(error):
            raise
        return _fail('this does not fit in memory: try a smaller -b, -f or -cs, or --subset', 1)
    return 0


def _fail(message, status: int) -> int:
    print(f'run_ktpformer.py: error: {message}', file=sys.stderr)
    return status


if __name__ == '__main__':
    sys.stdout.reconfigure(errors='backslashreplace')
    sys.exit(main())
