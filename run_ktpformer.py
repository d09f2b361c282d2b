#!/usr/bin/env python
"""Train and evaluate 2D-to-3D human pose lifting: parse, build, dispatch. Nothing runs at import."""

import sys

from common import arguments


def main(argv: list[str] | None = None) -> int:
    """Run one command line; returns the exit status: 0, 1 (files), 2 (flags), 130 (interrupted)."""
    try:
        args = arguments.parse(argv)
    except SystemExit as stop:  # argparse ends so, after its one line or the help
        return stop.code or 0
    from common.engine import session  # torch is imported only for a command line that makes sense
    from common.errors import FileError, FlagError
    try:
        session.evaluate(args) if args.evaluate else session.train(args)
    except (FileError, FlagError) as error:
        print(f'run_ktpformer.py: error: {error}', file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print('run_ktpformer.py: interrupted; the last finished epoch is in last.bin', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
