"""What the tests of the converters share: a foreign file's bytes damaged, and the command that must refuse."""

import re


def refusal(capsys, main, *flags, status=1, says=()) -> str:
    """The one line on stderr of a converter's main(flags), which must end with `status` and print nothing else.

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
    """(stdout, stderr) of a converter's main(flags), which must succeed."""
    assert main([str(flag) for flag in flags]) == 0, capsys.readouterr().err
    return capsys.readouterr()


def truncate(path, kept=0.5) -> None:
    """Keep the first part of a file."""
    content = path.read_bytes()
    path.write_bytes(content[:int(len(content) * kept)])


def nothing_in(folder) -> bool:
    """Neither a file nor half of one was left in an output folder."""
    return not folder.exists() or not list(folder.iterdir())
