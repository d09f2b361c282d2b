"""The commands of the program, a file each."""

import importlib
import os

import torch

from common import distributed
from common.commands.session import Session, choose_device
from common.config import CHECK_DATA, EXPORT_MODEL, INSPECT, LIST_MODELS, Config
from common.errors import ContractError, DivergedError, FileError, FlagError
from common.storage.ending import held_back


def run(config: Config) -> None:
    """Run the command that a configuration asks for.

    Raises FileError, FlagError, ContractError, DivergedError, and Stopped on a signal while training.
    """
    with held_back():  # matplotlib takes an import that was broken off for a package that is missing
        command = importlib.import_module(f'common.commands.{config.command}')
    if config.command in (CHECK_DATA, EXPORT_MODEL, INSPECT, LIST_MODELS):
        command.run(Session(config, torch.device('cpu'), distributed.ALONE, say))
        return
    device = choose_device(config.run.device)
    if config.run.deterministic:
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')  # read when cuBLAS starts
        torch.use_deterministic_algorithms(True)
    try:
        with distributed.join(device.type) as world:
            try:
                command.run(Session(config, device, world, say if world.first else _silent))
            except (ContractError, DivergedError, FileError, FlagError) as error:
                if world.said_by_first(str(error)):
                    raise SystemExit(error.exit_status) from None
                raise
    finally:
        if config.run.deterministic:  # saying False where nothing was said would import torch's compiler, in 2 s
            torch.use_deterministic_algorithms(False)


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def _silent(line: str) -> None:
    """Say nothing: the first process speaks for all."""
