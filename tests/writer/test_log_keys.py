"""The log's own keys: two that sign, those that signed before, and nobody else's."""

from pathlib import Path

import pytest

from ledger.note import ED25519_NOTE, ML_DSA_44, NoteSigner, parse_note
from ledger.writer.create import KEYS, POLICY, POLICY_PQ, create_log, load_log_keys, retire_key, write_key
from ledger.writer.local import LocalStorage
from ledger.writer.reader import PUBLIC
from ledger.writer.storage import StorageError

from .logs import ORIGIN, fsck, grown, open_writer


@pytest.fixture
def data(tmp_path: Path) -> Path:
    create_log(tmp_path / "data", ORIGIN)
    return tmp_path / "data"


def rotate_keys(data: Path) -> None:
    """Both keys of the log are retired, two new ones sign, and the policies name all four."""
    old = [signer.verifier for signer in load_log_keys(data).signers]
    for type_, name in ((ED25519_NOTE, POLICY), (ML_DSA_44, POLICY_PQ)):
        new = NoteSigner(ORIGIN, bytes([type_, len(list((data / KEYS).iterdir()))]) * 16, type_)
        write_key(data, new)
        (data / name).write_text(f"log {new.verifier}\n" + (data / name).read_text())
    for key in old:
        retire_key(data, key)


def test_log_goes_on_under_new_keys(data: Path) -> None:
    """What the retired keys signed is still this log's at every start, and what follows is signed by the new ones."""
    grown(data, 300)
    for at in range(1, 3):
        before = {signer.verifier.id for signer in load_log_keys(data).signers}
        rotate_keys(data)
        keys = load_log_keys(data)
        assert len(keys.retired) == 2 * at
        with LocalStorage(data) as storage:
            assert not open_writer(storage, data).publish()
        assert signed_by(data) == before
        grown(data, 10)
        assert signed_by(data) == {signer.verifier.id for signer in keys.signers}
        assert fsck(data) == 300 + 10 * at


def signed_by(data: Path) -> set[bytes]:
    return {line.key_id for line in parse_note((data / PUBLIC / "checkpoint").read_bytes()).signatures}


def test_start_refuses_what_a_forgotten_key_signed(data: Path) -> None:
    """A key that is retired is kept, because without it the log's own past looks like a stranger's."""
    grown(data, 3)
    rotate_keys(data)
    for path in (data / KEYS).glob("log-*.retired"):
        path.unlink()
    with LocalStorage(data) as storage, pytest.raises(StorageError, match="not this log's: no signature by a known"):
        open_writer(storage, data)


def test_log_without_keys_is_none(tmp_path: Path) -> None:
    """A directory in which nothing can sign is said not to be an aggregator's."""
    with pytest.raises(StorageError, match=r"there is no log-\*.key; is .* an aggregator's data"):
        load_log_keys(tmp_path)


def test_start_refuses_another_key(data: Path, tmp_path: Path) -> None:
    """A log goes on under the key that it was published with."""
    grown(data, 3)
    create_log(tmp_path / "other", ORIGIN)
    with LocalStorage(data) as storage, pytest.raises(StorageError, match="not this log's"):
        open_writer(storage, tmp_path / "other")


def test_private_keys_are_for_their_owner_only(data: Path) -> None:
    """No other account can sign for the log."""
    modes = {path.name: path.stat().st_mode & 0o777 for path in (data / KEYS).iterdir()}
    names = {f"log-{signer.verifier.id.hex()}.key" for signer in load_log_keys(data).signers}
    assert modes == dict.fromkeys([*names, "registrar.key"], 0o600)
    assert len(names) == 2


def test_log_key_that_others_may_read_is_refused(data: Path) -> None:
    """A private key with a public mode is one that someone may have copied, whichever of the two it is."""
    for path in sorted((data / KEYS).glob("log-*.key")):
        path.chmod(0o644)
        with pytest.raises(StorageError, match=f"chmod 600 {path}"):
            load_log_keys(data)
        path.chmod(0o600)
    assert [signer.verifier.type for signer in load_log_keys(data).signers] == [ED25519_NOTE, ML_DSA_44]
