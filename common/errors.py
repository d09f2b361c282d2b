"""The ways in which a user's request can fail, each with the exit status of run_ktpformer.py.

Every message is one sentence that says what is wrong, where, and what to do about it.
"""

# How torch and CUDA say that there is no memory left.
OUT_OF_MEMORY = ('out of memory', "can't allocate memory", 'not enough memory', 'std::bad_alloc')


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that there is no memory left."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError)
                                              and any(words in str(error) for words in OUT_OF_MEMORY))


class FlagError(ValueError):
    """The command line asks for the impossible: a bad value, an unknown or empty selection. Exit status 2."""

    exit_status = 2


class DivergedError(ValueError):
    """Training or evaluation produced numbers that are not finite. Exit status 1."""

    exit_status = 1


class FileError(ValueError):
    """A file is missing, broken, inconsistent, does not fit, or cannot be written. Exit status 1."""

    exit_status = 1


class ContractError(ValueError):
    """A model does not keep the contract of `common.models.lifter.Lifter`. Exit status 1."""

    exit_status = 1
