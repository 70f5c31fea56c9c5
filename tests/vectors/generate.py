"""Writes the test vectors of every format, from fixed keys and times: `generate.py [--check]`.

`--check` writes nothing and fails if a committed file is not what would be written. What each file holds is said in
README.md beside this program.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
sys.path.append(str(HERE.parents[1]))

from tests.vectors import (  # noqa: E402 - the line above makes them findable
    binary,
    completeness,
    edges,
    events,
    logs,
    mldsa,
    postquantum,
    proofs,
    signatures,
    status,
    texts,
    trusted,
)

FILES: dict[str, Callable[[], object]] = {
    "canonical": binary.canonical,
    "readings": binary.readings,
    "infos": binary.infos,
    "headers": binary.headers,
    "envelopes": binary.envelopes,
    "entries": lambda: [*binary.entries(), *events.entries()],
    **events.FILES,
    **logs.FILES,
    "keys": binary.keys,
    "signatures": signatures.signatures,
    "vkeys": texts.vkeys,
    "notes": texts.notes,
    "checkpoints": texts.checkpoints,
    "cosignatures": texts.cosignatures,
    "tiles": texts.tiles,
    "policies": texts.policies,
    "trust": texts.trust,
    "messages": binary.messages,
    "statuses": binary.statuses,
}


def generated() -> dict[str, bytes]:
    """Every file of the vectors but the prose, by its path below this folder."""
    files = {f"{name}.json": jsonlines(make()) for name, make in FILES.items()}
    leaves = (proofs, edges, postquantum, trusted)
    good, bad = ([case for room in leaves for case in make(room)] for make in (lambda r: r.good(), lambda r: r.bad()))
    files |= proofs.files_of("proofs", good, bad)
    files |= proofs.files_of("key-statuses", status.good(), status.bad())
    files |= proofs.files_of("completeness", completeness.good(), completeness.bad())
    return files | {mldsa.KEPT.name: mldsa.kept()}


def jsonlines(value: object) -> bytes:
    """JSON with one vector to a line, so that a change shows as one."""
    if isinstance(value, list):
        lines = ",\n".join("  " + json.dumps(item) for item in value)
        return f"[\n{lines}\n]\n".encode()
    return (json.dumps(value, indent=1) + "\n").encode()


def main() -> int:
    """Writes the files, or with --check names those that differ."""
    parser = argparse.ArgumentParser(description="Write the test vectors, or check that they are up to date.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file differs")
    check = parser.parse_args().check
    files = generated()
    kept = {*files, "README.md", ".gitattributes", *(path.name for path in HERE.glob("*.py"))}
    present = {
        path.relative_to(HERE).as_posix()
        for path in HERE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    wrong = [name for name, data in files.items() if not (HERE / name).is_file() or (HERE / name).read_bytes() != data]
    strange = sorted(present - kept)
    if check:
        for name in [*wrong, *strange]:
            sys.stderr.write(f"{HERE / name}: not what `python tests/vectors/generate.py` writes\n")
        return 1 if wrong or strange else 0
    for name in wrong:
        (HERE / name).parent.mkdir(parents=True, exist_ok=True)
        (HERE / name).write_bytes(files[name])
    for name in strange:
        (HERE / name).unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
