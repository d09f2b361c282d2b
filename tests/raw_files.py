"""Helpers of the converters' tests: damaging a file, and running a command that must refuse or succeed."""

import re


def refusal(capsys, main, *flags, status=1, says=()) -> str:
    """Run a converter's main(flags), which must end with `status`; return its one line on stderr, its only output.

    The line must hold the parts of `says`, a text or several; with --force a line of warning may come before.
    """
    assert main([str(flag) for flag in flags]) == status
    out, err = capsys.readouterr()
    if '--force' in flags and err.startswith('warning: '):
        err = err.partition('\n')[2]
    assert out == '' and err.count('\n') == 1, (out, err)
    assert re.match(r'prepare_data_\w+\.py: error: ', err), err
    for part in (says,) if isinstance(says, str) else says:
        assert part in err, err
    return err


def converted(capsys, main, *flags) -> tuple[str, str]:
    """Run a converter's main(flags), which must succeed; return (stdout, stderr)."""
    assert main([str(flag) for flag in flags]) == 0, capsys.readouterr().err
    return capsys.readouterr()


def truncate(path, kept=0.5) -> None:
    """Keep the first part of a file."""
    content = path.read_bytes()
    path.write_bytes(content[:int(len(content) * kept)])


def nothing_in(folder) -> bool:
    """Return True where neither a file nor part of one is in an output folder."""
    return not folder.exists() or not list(folder.iterdir())
