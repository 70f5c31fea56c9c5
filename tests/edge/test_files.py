"""Small files: whole or not there, whatever killed their writer."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from edge import files
from vitalseal.errors import UserError

# Kills itself in the function of `os` that is named, before that does anything; in `unlink`, once the file is there.
KILLED = textwrap.dedent(
    """
    import os, pathlib, signal, sys
    from edge import files
    path, name = pathlib.Path(sys.argv[1]), sys.argv[2]
    real = getattr(os, name)
    def last(*args, **others):
        if name != "unlink" or path.exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **others)
    setattr(os, name, last)
    files.write_new(path, b"secret", mode=0o600)
    """
)


@pytest.mark.parametrize(("killed_in", "there"), [("open", False), ("fsync", False), ("link", False), ("unlink", True)])
def test_write_new_killed_leaves_the_file_whole_or_not_at_all(tmp_path, killed_in, there):
    """An empty key file would be neither a key nor free for one."""
    path = tmp_path / "edge.key"
    child = subprocess.run([sys.executable, "-c", KILLED, str(path), killed_in], check=False)
    assert child.returncode == -signal.SIGKILL
    if there:
        assert path.read_bytes() == b"secret"
    else:
        files.write_new(path, b"another", mode=0o600)
        assert path.read_bytes() == b"another"


def test_left_over_file_of_a_killed_writer_is_never_written_into(tmp_path):
    """It may be a second name of the finished file, and process ids come again (in a container, always)."""
    path = tmp_path / "edge.key"
    path.write_bytes(b"secret")
    left_over = tmp_path / f".edge.key.{os.getpid()}.tmp"
    left_over.hardlink_to(path)
    with pytest.raises(UserError, match="not overwritten"):
        files.write_new(path, b"another")
    assert path.read_bytes() == b"secret"
    assert list(tmp_path.iterdir()) == [path]


def test_write_new_has_the_mode_from_the_first_byte_on(tmp_path):
    """A secret is nobody else's at any moment; nothing else stays in the directory."""
    path = tmp_path / "edge.key"
    files.write_new(path, b"secret", mode=0o600)
    assert (path.stat().st_mode & 0o777, path.stat().st_nlink) == (0o600, 1)
    assert list(tmp_path.iterdir()) == [path]
