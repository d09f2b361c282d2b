"""One run at a time in a folder, whatever becomes of the process that holds it."""

import os
import subprocess
import sys

import pytest
from processes import ROOT

from common.errors import FileError
from common.storage.lock import NAME, locked

HOLD = """
import sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from common.storage.lock import locked
with locked(Path(sys.argv[1])):
    print('held', flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of a folder."""
    process = subprocess.Popen([sys.executable, '-c', HOLD.format(root=str(ROOT)), str(tmp_path / 'c')],
                               stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == 'held\n'
    yield process
    process.kill()
    process.communicate()


def test_a_second_one_is_told_who_holds_it(holder, tmp_path):
    with pytest.raises(FileError, match=f'is in use by another run .process {holder.pid} on '), locked(tmp_path / 'c'):
        pass


def test_a_killed_process_leaves_the_folder_free(holder, tmp_path):
    holder.kill()
    holder.wait()
    with locked(tmp_path / 'c'):
        assert f'process {os.getpid()} on ' in (tmp_path / 'c' / NAME).read_text()
    assert not (tmp_path / 'c' / NAME).exists()
    with locked(tmp_path / 'c'):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(FileError, match='cannot use the checkpoint folder'), locked(tmp_path / 'file' / 'c'):
        pass


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path):
    """A folder may come from somebody else, and the link lead to anything."""
    (tmp_path / 'victim').write_text('of value')
    (tmp_path / 'c').mkdir()
    (tmp_path / 'c' / NAME).symlink_to(tmp_path / 'victim')
    with pytest.raises(FileError, match='cannot use the checkpoint folder'), locked(tmp_path / 'c'):
        pass
    assert (tmp_path / 'victim').read_text() == 'of value'
