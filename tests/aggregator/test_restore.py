"""Restored from an old backup the log goes on as one log, or is frozen; nothing else may come of it."""

import dataclasses
import json
import shutil
import subprocess
import sys
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from aggregator.admission import Key
from aggregator.backup import DATA, MANIFEST
from aggregator.config import AggregatorConfig
from aggregator.desk_records import DeskRecords
from aggregator.enrolment import FOLDER
from aggregator.projection import Projection
from aggregator.registry import Registry
from aggregator.relocation import format_config
from aggregator.restore import restore
from aggregator.setup import initialise
from aggregator.succession import succeed
from aggregator.timeseries.embedded import EmbeddedStore
from ledger import merkle
from ledger.batch import Anchor, Header
from ledger.checkpoint import Checkpoint, parse_checkpoint
from ledger.entry import Opening, parse_entry
from ledger.envelope import format_envelope
from ledger.events import enrol
from ledger.tiles import TileReader
from ledger.writer.create import POLICY
from ledger.writer.files import read_file
from ledger.writer.local import FROZEN, GUARD
from ledger.writer.reader import PUBLIC, LocalReader
from ledger.writer.storage import StorageError
from tests.service.servers import serving
from vitalseal import config as configuration
from vitalseal.cli import main
from vitalseal.errors import UserError

from .devices import Device, registrar
from .estate import NAMES, ORIGIN, Estate, headers, quiet, submission


@pytest.fixture
def opened():
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def device():
    return Device("wrist-1", 1, ORIGIN)


@pytest.fixture
def estate(tmp_path, opened, device):
    """A log with witnesses, backed up when it had five batches published and one more committed."""
    return begun(Estate(tmp_path, opened), device)


def begun(estate, device):
    with estate.writing() as log:
        log.enrol(device)
        log.log(*[device.batch() for _ in range(5)])
        log.publish()
        log.log(device.batch())
    with closing(Registry(estate.data)) as registry:
        registry.add_device(device.key_id, Key(device.name, device.algorithm, device.signer.public_key))
    estate.back_up()
    return estate


def go_on(estate, device, batches=4, times=3):
    """So many checkpoints with so many batches come; what was published, checkpoint by checkpoint."""
    published = []
    with estate.writing() as log:
        for _ in range(times):
            log.log(*[device.batch() for _ in range(batches)])
            log.publish()
            published.append(log.writer.checkpoint)
    return published


def assert_one_log(estate, *checkpoints):
    """What is published now is sound, and each of the older checkpoints is its prefix."""
    checkpoint = estate.sound().checkpoint.checkpoint
    tree = TileReader(lambda path: read_file(estate.data / PUBLIC, path), checkpoint.size, checkpoint.root)
    for older in checkpoints:
        proof = tree.prove_consistency(older.size)
        merkle.check_consistency(older.size, checkpoint.size, older.root, checkpoint.root, proof)


def test_old_backup_is_brought_up_to_what_was_published_and_goes_on(estate, device):
    """Replayed from the public directory, cosigned by the same witnesses, every batch once; payloads come back."""
    published = go_on(estate, device)
    before = headers(estate.data)
    estate.lose()
    done = estate.restore(estate.mirror)
    assert (done.newest, done.missing, done.frozen, done.unnamed, done.silent) == (published[-1], 12, None, (), ())
    assert headers(estate.data) == before
    with estate.writing() as log:
        assert log.writer.checkpoint == published[-1]
        log.log(*[device.batch() for _ in range(3)])
        log.publish()
        places = log.storage.missing_payloads(device.key_id, 256)
        assert [place.seq for place in places] == list(range(17, 5, -1))
        for batch in device.sealed:
            kept = submission(format_envelope(batch))
            index, entry = log.storage.find(kept.place)
            assert entry == kept.entry
            log.storage.put_payload(index, kept.payload)
            assert log.storage.payload(index) == kept.payload
        assert log.storage.missing_payload_count() == 0
    assert headers(estate.data) == [batch.header for batch in device.sealed]
    assert_one_log(estate, *published)


def test_mirror_behind_a_url_is_as_good(estate, device):
    """The entries are read over HTTP."""
    published = go_on(estate, device)
    estate.lose()
    with serving(estate.mirror) as url:
        assert estate.restore(url).newest == published[-1]
    go_on(estate, device)
    assert_one_log(estate, *published)


def test_backup_that_is_the_newest_needs_no_mirror(estate, device):
    """Every witness has seen what the backup has: nothing to replay, and what was committed is published."""
    estate.lose()
    done = estate.restore(None)
    assert (done.replayed, done.missing, done.frozen) == (0, 0, None)
    go_on(estate, device)
    assert_one_log(estate)
    assert headers(estate.data) == [batch.header for batch in device.sealed]


def test_batches_that_were_stored_and_never_published_are_logged_again(estate, device):
    """No device has a receipt for them, so they come again; another entry may have their index by then."""
    published = go_on(estate, device)
    lost = [device.batch() for _ in range(3)]
    with estate.writing() as log:
        first = log.log(*lost)
    estate.lose()
    estate.restore(estate.mirror)
    other = Device("wrist-2", 2, ORIGIN)
    with estate.writing() as log:
        assert log.storage.find(submission(lost[0]).place) is None
        log.enrol(other)
        again = log.log(other.batch(), *lost)
        log.publish()
    assert again > first
    logged = headers(estate.data)
    assert sorted(logged) == sorted(batch.header for each in (device, other) for batch in each.sealed)
    assert_one_log(estate, *published)


def test_device_that_is_anchored_to_a_forgotten_checkpoint_is_no_forger(estate, device):
    """Admission asks which checkpoints were signed; of those that were replayed over nobody knows."""
    published = go_on(estate, device)
    estate.lose()
    estate.restore(estate.mirror)
    device.anchor = Anchor(published[0].size, published[0].root)
    with estate.writing() as log:
        assert log.storage.checkpoint_root(published[0].size) == published[0].root
        log.log(device.batch())
        log.publish()
    assert_one_log(estate)


def test_checkpoint_that_one_witness_has_and_nobody_published_is_gone_on_from(estate, device, caplog):
    """Signed, cosigned by one, then the machine burned: its tiles are in the log directory, ahead of the checkpoint."""
    with estate.writing() as log:
        estate.take_away("regulator", "patients")
        log.log(*[device.batch() for _ in range(4)])
        assert not log.writer.publish()
        waiting = log.writer.waiting
    estate.bring_back("regulator", "patients")
    estate.lose()
    assert parse_size(estate.mirror) < waiting
    done = estate.restore(estate.mirror)
    assert (done.newest.size, done.frozen) == (waiting, None)
    go_on(estate, device)
    assert_one_log(estate, done.newest)


def parse_size(public):
    return parse_checkpoint("".join((public / "checkpoint").read_text().splitlines(keepends=True)[:3])).size


def test_log_is_frozen_where_no_mirror_reaches_what_the_witnesses_have(estate, device):
    """No log named, or one that ends before: nothing may be written any more, until a mirror is found."""
    shutil.copytree(estate.data / PUBLIC, estate.directory / "behind")
    published = go_on(estate, device)
    estate.lose()
    for place, says in [
        (None, f"has size {published[-1].size}, the backup 8 entries, and no log is named"),
        (estate.directory / "behind", f"has size {published[-1].size}, and the log that was named does not"),
    ]:
        done = estate.restore(place)
        assert says in done.frozen
        assert done.newest == published[-1]
        with pytest.raises(StorageError, match="this log is frozen"), estate.writing():
            pass
        assert len(headers(estate.data)) == 6
        shutil.rmtree(estate.data)
    assert estate.restore(estate.mirror).frozen is None
    go_on(estate, device)
    assert_one_log(estate, *published)


def test_frozen_log_is_told_backed_up_and_frozen_again(estate, device, capsys):
    """`status` says so, though nothing has run here; what was known of it when it was frozen goes with its backup."""
    published = go_on(estate, device)
    estate.lose()
    estate.restore(None)
    assert main(["aggregator", "status", "--config", str(estate.config)]) == 2
    assert f"first.example/log is FROZEN at size {published[-1].size}" in capsys.readouterr().err
    shutil.rmtree(estate.backup)
    estate.back_up()
    shutil.rmtree(estate.data)
    done = estate.restore(None)
    assert "whoever was asked when the log was frozen has size 20" in done.frozen
    assert done.newest == published[-1]
    shutil.rmtree(estate.data)
    assert estate.restore(estate.mirror).frozen is None
    go_on(estate, device)
    assert_one_log(estate, *published)


def test_configuration_may_lie_in_the_data_directory(estate, device):
    """It gets there with everything else, so that nothing is left behind by a restore that was killed."""
    published = go_on(estate, device)
    estate.lose()
    estate.config = estate.data / "aggregator.toml"
    assert estate.restore(estate.mirror).newest == published[-1]
    assert configuration.load(estate.config, AggregatorConfig).data == estate.data


def test_log_is_frozen_where_the_mirror_has_other_entries(estate, device):
    """One byte of one entry: the root is not the one that was signed."""
    go_on(estate, device)
    estate.lose()
    bundle = next((estate.mirror / "tile" / "entries").rglob("*.p/20"))
    data = bundle.read_bytes()
    bundle.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    done = estate.restore(estate.mirror)
    assert "do not lead to the root" in done.frozen
    assert (estate.data / FROZEN).exists()
    assert len(headers(estate.data)) == 6


def test_without_a_quorum_of_witnesses_nothing_is_restored(estate, device):
    """Two of three are away: nobody can say what was signed, so nothing is written, not even that it is frozen."""
    go_on(estate, device)
    estate.lose()
    estate.break_off("regulator", "patients")
    with pytest.raises(UserError, match="no quorum of witnesses answers: regulator"):
        estate.restore(estate.mirror)
    assert not estate.data.exists()


def test_restore_that_is_killed_anywhere_is_done_again(estate, device):
    """Until the last rename there is nothing under the target's name, whatever step it was."""
    published = go_on(estate, device)
    estate.lose()

    class KilledError(Exception):
        pass

    def killed_at(step):
        steps = iter(range(step, -1, -1))

        def progress(*_):
            if not next(steps):
                raise KilledError

        return progress

    step = 0
    while True:
        try:
            restore(estate.backup, estate.data, estate.config, str(estate.mirror), killed_at(step))
            break
        except KilledError:
            assert not estate.data.exists()
        step += 1
    assert step > 5
    go_on(estate, device)
    assert_one_log(estate, *published)


def test_copy_that_is_simply_put_back_is_refused(estate, device):
    """Without `restore`: by the public checkpoint, by the witnesses if that is old too, and by the guard."""
    old_public = estate.directory / "old-public"
    shutil.copytree(estate.data / PUBLIC, old_public)
    guard = (estate.data / GUARD).read_bytes()
    go_on(estate, device)
    newer_guard = (estate.data / GUARD).read_bytes()
    estate.lose()
    shutil.copytree(estate.backup / DATA, estate.data)
    (estate.data / GUARD).write_bytes(guard)
    shutil.copytree(estate.mirror, estate.data / PUBLIC)
    refused(estate, "the published checkpoint of size 20 is ahead of the database at 7")
    shutil.rmtree(estate.data / PUBLIC)
    shutil.copytree(old_public, estate.data / PUBLIC)
    refused(estate, "has cosigned size 20, and the database holds a log of size 7")
    (estate.data / GUARD).write_bytes(newer_guard)
    refused(estate, "the guard of size 20 is ahead of the database at 7")


def refused(estate, says):
    with pytest.raises(StorageError, match=says), estate.writing():
        pass


def test_guard_on_another_volume_is_believed(tmp_path, opened, device):
    """It survived, and says that more was signed: without a mirror the log is frozen, with one it goes on."""
    volume = tmp_path / "volume"
    volume.mkdir()
    estate = begun(Estate(tmp_path, opened, (), guard=volume / "guard"), device)
    published = go_on(estate, device)
    estate.lose()
    done = estate.restore(None)
    assert f"the guard {volume / 'guard'} has size 20" in done.frozen
    shutil.rmtree(estate.data)
    assert estate.restore(estate.mirror).frozen is None
    go_on(estate, device)
    assert_one_log(estate, *published)
    (volume / "guard").write_text(Checkpoint("other.example/log", 0, bytes(32)).text())
    shutil.rmtree(estate.data)
    with pytest.raises(UserError, match=r"is the guard of the log 'other.example/log'"):
        estate.restore(estate.mirror)


def test_log_without_witnesses_needs_a_public_log_to_say_what_was_signed(tmp_path, opened, device):
    """Nobody is left to ask: frozen. With the public log it goes on from there."""
    estate = begun(Estate(tmp_path, opened, ()), device)
    published = go_on(estate, device)
    estate.lose()
    assert "there is no witness, no guard and no public log" in estate.restore(None).frozen
    shutil.rmtree(estate.data)
    assert estate.restore(estate.mirror).newest == published[-1]
    go_on(estate, device)
    assert_one_log(estate, *published)


def test_successor_of_a_frozen_log_begins_where_it_was_last_seen(estate, device, tmp_path):
    """Its first entry names size and root of the newest checkpoint that a witness has; done again, nothing changes."""
    published = go_on(estate, device)
    estate.lose()
    estate.restore(None)
    initialise(tmp_path / "next.toml", tmp_path / "next", "next.example/log", "127.0.0.1", 1883)
    frozen, successor = (configuration.load(path, AggregatorConfig) for path in (estate.config, tmp_path / "next.toml"))
    for _ in range(2):
        end, writer = succeed(frozen, successor)
        assert (end, writer.checkpoint.size) == (published[-1], 1)
    with LocalReader(tmp_path / "next") as log:
        assert parse_entry(next(log.entries(0, 1))) == Opening(ORIGIN, published[-1].size, published[-1].root)
    with pytest.raises(UserError, match=r"is named first.example/log as well"):
        succeed(frozen, dataclasses.replace(frozen, data=renamed_copy(estate)))
    with pytest.raises(UserError, match="this log is not frozen"):
        succeed(successor, successor)


def renamed_copy(estate):
    copy = estate.directory / "same-name"
    shutil.copytree(estate.directory / "lost", copy)
    return copy


def test_key_whose_device_nobody_knows_is_named(estate, device):
    """Enrolled after the backup, the log has the key; its device's name is in the enrolment, where that is kept."""
    told, untold = Device("wrist-2", 2, ORIGIN), Device("wrist-3", 3, ORIGIN)
    (estate.data / FOLDER).mkdir()
    enrolment = enrol(told.signer, registrar(estate.data), ORIGIN)
    (estate.data / FOLDER / "wrist-2.enrol").write_bytes(enrolment.encode())
    shutil.rmtree(estate.backup)
    estate.back_up()
    with estate.writing() as log:
        log.enrol(told)
        log.enrol(untold)
        log.log(untold.batch())
        log.publish()
    estate.lose()
    assert estate.restore(estate.mirror).unnamed == (untold.key_id.hex(),)


def test_tokens_are_void_after_a_restore(estate, device):
    """One that was used up after the backup would be good again."""
    shutil.rmtree(estate.backup)
    with closing(DeskRecords(estate.data)) as records:
        records.add_token("wrist-2", bytes(16), datetime.now(UTC) + timedelta(days=1))
    estate.back_up()
    estate.lose()
    estate.restore(estate.mirror)
    with closing(DeskRecords(estate.data)) as records:
        assert records.token("wrist-2") is None


def test_restore_writes_over_nothing(estate, device):
    """A target with anything in it, a configuration that is another, a backup that was changed: nothing is touched."""
    with pytest.raises(UserError, match="is not empty"):
        estate.restore(None)
    estate.lose()
    estate.config.write_text("data = 'elsewhere'\n")
    with pytest.raises(UserError, match="is there already, and another one"):
        estate.restore(estate.mirror)
    estate.config.unlink()
    (estate.backup / DATA / POLICY).write_text("log nobody\n")
    with pytest.raises(UserError, match="is not as it was when the backup was made"):
        estate.restore(estate.mirror)
    assert not estate.data.exists()
    assert not estate.config.exists()


def test_public_log_that_is_none_is_told(estate, device, tmp_path, opened):
    """No checkpoint, another log's, a URL that nobody answers at: nothing is written."""
    estate.lose()
    (tmp_path / "empty").mkdir()
    stranger = Estate(tmp_path / "other", opened, ())
    with stranger.writing() as log:
        log.enrol(Device("wrist-9", 9, ORIGIN))
    for place, says in [
        (tmp_path / "empty", "there is no checkpoint"),
        (tmp_path / "missing", "is neither a directory nor an http"),
        (stranger.data / PUBLIC, "its checkpoint is not to be used: no signature by a known key"),
    ]:
        with pytest.raises(UserError, match=says):
            estate.restore(place)
    assert not estate.data.exists()


def test_restored_elsewhere_every_path_follows(estate, device, tmp_path):
    """The configuration and the broker's name what is in the new directory; what lay elsewhere stays there."""
    (estate.data / "broker").mkdir()
    (estate.data / "broker" / "mosquitto.conf").write_text(f"cafile {estate.data}/broker/ca.crt\n")
    (estate.data / "broker" / "state").mkdir()
    (estate.data / "broker" / "state").chmod(0o2770)
    (estate.data / "broker").chmod(0o755)
    shutil.rmtree(estate.backup)
    settings = dataclasses.replace(
        estate.settings, receipt_policy=estate.data / POLICY, guard=tmp_path / "volume" / "guard", interval_s=2.0
    )
    (tmp_path / "volume").mkdir()
    shutil.copy(estate.data / GUARD, tmp_path / "volume" / "guard")
    estate.settings = settings
    estate.config.write_text(format_config(settings))
    assert configuration.load(estate.config, AggregatorConfig) == settings
    estate.back_up()
    estate.lose()
    new, config = tmp_path / "new", tmp_path / "deep" / "new.toml"
    restore(estate.backup, new, config, str(estate.mirror), quiet)
    moved = configuration.load(config, AggregatorConfig)
    assert moved == dataclasses.replace(settings, data=new, receipt_policy=new / POLICY)
    assert (new / "broker" / "mosquitto.conf").read_text() == f"cafile {new}/broker/ca.crt\n"
    assert (new / "broker").stat().st_mode & 0o7777 == 0o755
    assert (new / "broker" / "state").stat().st_mode & 0o7777 == 0o2770
    assert (new / "keys").stat().st_mode & 0o777 == 0o700


def test_files_that_cannot_be_given_to_whom_they_belonged_are_told(estate, device):
    """A user that this machine does not have; everything else is done."""
    path = estate.backup / MANIFEST
    table = json.loads(path.read_text())
    table["files"]["data/policy.txt"][3] = "nobody-of-this-name:none"
    path.write_text(json.dumps(table))
    estate.lose()
    assert not estate.restore(estate.mirror).given
    go_on(estate, device)
    assert_one_log(estate)


def test_readings_whose_payload_comes_back_later_are_projected_then(estate, device):
    """The view goes on without them, and has every reading once when the last payload is back, over restarts too."""
    go_on(estate, device)
    estate.lose()
    estate.restore(estate.mirror)
    with estate.writing() as log:
        log.log(device.batch())
        log.publish()
        shown = project(estate.data)
        assert len(shown) == 7 * 3
        for at, batch in enumerate(device.sealed):
            kept = submission(format_envelope(batch))
            index, _ = log.storage.find(kept.place)
            if log.storage.put_payload(index, kept.payload) and at % 4 == 0:
                shown = project(estate.data)
    refs = [item.ref for item in project(estate.data)]
    assert len(refs) == len(set(refs)) == len(device.sealed) * 3
    bodies = sorted(item.body for item in project(estate.data))
    assert bodies == sorted(body for batch in device.sealed for body in batch.readings)


def test_projection_that_runs_takes_what_comes_back(estate, device):
    """One process, one cursor: payloads that return behind it are projected at its next look, and once."""
    go_on(estate, device)
    estate.lose()
    estate.restore(estate.mirror)
    with estate.writing() as log, EmbeddedStore(estate.data) as store, closing(Projection(estate.data, store)) as view:
        view.catch_up()
        assert len(list(store.readings())) == 6 * 3
        kept = submission(format_envelope(device.sealed[9]))
        index, _ = log.storage.find(kept.place)
        log.storage.put_payload(index, kept.payload)
        assert view.catch_up() == 1
        assert view.catch_up() == 0
        assert store.batch(index).header == device.sealed[9].header
        note = store.batch(index).checkpoint
        assert Header.decode(device.sealed[9].header).seq == 9
        assert note == log.storage.first_covering(index).note


def project(data: Path):
    """What the store holds after a projection that has just been started."""
    with EmbeddedStore(data) as store, closing(Projection(data, store)) as view:
        view.catch_up()
        return list(store.readings())


def test_commands_say_what_was_done(estate, device, tmp_path, capsys):
    """`restore`, frozen and not, and `succeed`: one line for what is wrong, and what to do."""
    go_on(estate, device)
    estate.lose()

    def run(*words):
        code = main(["aggregator", *map(str, words)])
        said = capsys.readouterr()
        return code, said.out + said.err

    back = ("restore", "--from", estate.backup, "--data", estate.data, "--config", estate.config)
    code, said = run(*back)
    assert (code, len(said.splitlines())) == (2, 2)
    assert said.startswith(f"readings were opened with the keys {estate.keys}\n")
    assert "FROZEN at size 20" in said
    command = [sys.executable, "-m", "vitalseal", "aggregator", "run", "--config", str(estate.config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "this log is frozen" in done.stderr
    initialise(tmp_path / "next.toml", tmp_path / "next", "next.example/log", "127.0.0.1", 1883)
    code, said = run("succeed", "--config", estate.config, "--successor", tmp_path / "next.toml")
    assert code == 0
    assert said.startswith(f"{ORIGIN} was last seen at size 20")
    shutil.rmtree(estate.data)
    code, said = run(*back, "--log", estate.mirror)
    assert code == 0
    assert f"{ORIGIN} is at size 20 again, 12 entries of it from the log" in said
    assert "12 batches have no payload" in said
    assert NAMES[0] not in said
