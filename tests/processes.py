"""Running scripts in processes forked from one that has imported torch, so that they start at once."""

import contextlib
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
FORKS = multiprocessing.get_context('forkserver')
FORKS.set_forkserver_preload(['common.commands', 'torch.distributed', 'torch.utils.tensorboard'])


def run_script(script: str, argv: list[str], environment: dict[str, str], streams: list[str]) -> None:
    """Run a script as __main__ in a forked process, with standard output and error going to files."""
    for stream, path in zip((sys.stdout, sys.stderr), streams, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream.fileno())
    os.chdir(ROOT)
    os.environ.update(environment)
    sys.argv = [script, *argv]
    runpy.run_path(script, run_name='__main__')


class Process:
    """A running script; with several ranks, a process for each, which find each other as those of torchrun do.

    Attributes:
        pids: of its processes, the first rank first.
    """

    def __init__(self, script: Path | str, *argv, ranks: int = 1):
        self.folder = tempfile.TemporaryDirectory()
        environments = [{}]
        if ranks > 1:
            shared = {'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(free_port()), 'WORLD_SIZE': str(ranks)}
            environments = [{**shared, 'RANK': str(n), 'LOCAL_RANK': str(n)} for n in range(ranks)]
        self.processes = []
        for rank, environment in enumerate(environments):
            streams = [f'{self.folder.name}/{name}{rank}' for name in ('out', 'err')]
            self.processes.append(FORKS.Process(target=run_script, args=(
                str(script), [str(part) for part in argv], environment, streams)))
            self.processes[-1].start()
        self.pids = [process.pid for process in self.processes]

    def ended(self) -> bool:
        """Return True once one of its processes has ended."""
        return any(not process.is_alive() for process in self.processes)

    def send(self, number: int) -> None:
        """Send a signal to each of its processes that still runs."""
        for pid in self.pids:
            # the fork server reaps a process a moment before `is_alive` learns that it has ended
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def wait(self, seconds: float = 120) -> tuple[int, str, str]:
        """Return the exit status of the first that failed (negative for a signal), standard output and error of all."""
        for process in self.processes:
            process.join(seconds)
        if any(process.is_alive() for process in self.processes):
            self.send(signal.SIGKILL)
            raise TimeoutError(f'{self.processes} ran for more than {seconds} seconds')
        statuses = [process.exitcode for process in self.processes]
        out, err = (''.join(Path(self.folder.name, f'{name}{rank}').read_text() for rank in range(len(statuses)))
                    for name in ('out', 'err'))
        self.folder.cleanup()
        return next((status for status in statuses if status), 0), out, err


def run_alone(script: Path | str, *argv, ranks: int = 1) -> tuple[int, str, str]:
    """Run a script to its end; return exit status, standard output and standard error."""
    return Process(script, *argv, ranks=ranks).wait()


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]
