"""The ways a user's request can fail, each with the exit status that run_ktpformer.py ends with.

Every message is one sentence that says what is wrong, where, and what to do about it.
"""


class FlagError(ValueError):
    """The command line asks for what cannot be: a bad value, an unknown or empty selection. Exit status 2."""

    exit_status = 2


class DivergedError(ValueError):
    """Training or evaluation came to numbers that are not finite. Exit status 1."""

    exit_status = 1


class FileError(ValueError):
    """A file is missing, broken, inconsistent, does not fit, or cannot be written. Exit status 1."""

    exit_status = 1
