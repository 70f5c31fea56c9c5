"""`vitalseal edge`: set up, run, look; every mistake is one line."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys

import pytest

from edge.config import load
from edge.database import Owner
from edge.identity import validity
from edge.key import create_key, load_key
from edge.outbox import Outbox
from edge.outbox_reader import OutboxReader
from edge.seal import Sealer
from edge.setup import SourceSpec, initialise
from edge.source import make_source
from ledger.entry import parse_entry
from ledger.keys import key_id
from ledger.messages import Reason
from ledger.note import NoteSigner
from tests.brokers import free_port
from tests.edge.conftest import SOURCE_ID, owner_of
from tests.edge.desk import Desk
from tests.edge.standin import ORIGIN, POLICY_TEXT, StandIn
from tests.edge.test_outbox import LIMITS, delivery
from vitalseal.cli import main
from vitalseal.errors import UserError

VITALSEAL = [sys.executable, "-m", "vitalseal"]


@pytest.fixture(autouse=True)
def _logging_as_before():
    """`run` sets logging up for its process, which here is pytest's."""
    root, room = logging.getLogger(), logging.getLogger("edge")
    before = (root.handlers[:], root.level, room.level)
    yield
    root.handlers[:], root.level = before[:2]
    room.setLevel(before[2])


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with a policy."""
    (tmp_path / "policy.txt").write_text(POLICY_TEXT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def init(*more, source="wrist=lines:path=wrist.ndjson,follow=false", broker="127.0.0.1:1883"):
    common = ["edge", "init", "--device", "dev-1", "--origin", ORIGIN, "--policy", "policy.txt", "--broker", broker]
    return main([*common, *(["--source", source] if source else []), *more])


def lines(count, start=0):
    return "".join(f'{{"kind":"steps","value":{at},"time":{at}}}\n' for at in range(start, start + count))


def status(capsys):
    capsys.readouterr()
    assert main(["edge", "status", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_init_writes_a_configuration_that_loads(place):
    """Key 0600, source id random, option types kept; the second init overwrites nothing."""
    assert init() == 0
    config = load(place / "edge.toml")
    assert (config.device, config.origin, config.broker.port) == ("dev-1", ORIGIN, 1883)
    assert config.sources[0].options == {"path": "wrist.ndjson", "follow": False}
    assert (place / "edge.key").stat().st_mode & 0o777 == 0o600
    before = (place / "edge.key").read_bytes()
    assert init() == 2
    assert (place / "edge.key").read_bytes() == before


def test_init_with_a_registrar_enrols(place):
    """The enrolment verifies, names the device's key, and lies there whole."""
    registrar = NoteSigner("registrar.example", b"registrar".ljust(32, b"\0"))
    (place / "registrar.key").write_text(registrar.skey() + "\n")
    (place / "registrar.key").chmod(0o600)
    assert init("--registrar", "registrar.key", "--enrolments", "enrolments") == 0
    enrolment = parse_entry((place / "enrolments" / "dev-1.enrol").read_bytes())
    enrolment.check()
    assert enrolment.public_key == load_key(place / "edge.key").public_key
    assert enrolment.registrar_key == registrar.verifier.public_key


def test_configuration_survives_odd_values(place):
    """What goes into TOML comes out again, whatever characters it has."""
    odd = 'a "b" \\ c\nd\x7f\u2028\tü = []'
    config = initialise(
        place / "deep" / "er" / "x.toml",
        device="dev-1",
        origin=ORIGIN,
        policy=place / "policy.txt",
        sources=[SourceSpec("s1", "lines", {"path": odd, "a key": [1, "x", True], "n": 1.5, "deep": {"x": odd}})],
    )
    assert config.sources[0].options == {"path": odd, "a key": [1, "x", True], "n": 1.5, "deep": {"x": odd}}
    assert config.directory == (place / "deep" / "er").resolve()
    assert config.policy == (place / "policy.txt").resolve()


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"source": "wrist"}, "NAME=TYPE"),
        ({"source": "wrist=lines:path"}, "not a key=value"),
        ({"source": "wrist=line:path=x"}, "known are lines"),
        ({"source": "wrist=lines:pat=x"}, "did you mean 'path'"),
        ({"source": "Wrist=lines:path=x"}, "name: 'Wrist'"),
        ({"source": "wrist=lines:path=x,description=Gürtel"}, "source 'wrist': description: not printable ASCII"),
        ({"broker": "nowhere"}, "HOST:PORT"),
        ({"broker": "host:99999"}, "port: 99999"),
        ({"more": ["--registrar", "x.key"]}, "go together"),
        ({"more": ["--device", "Bad Name"]}, "device name"),
        ({"more": ["--origin", "other.example/log"]}, "names no log"),
        ({"more": ["--policy", "nowhere.txt"]}, "nowhere.txt"),
    ],
)
def test_init_mistake_is_one_line_and_leaves_nothing(place, capsys, arguments, fault):
    """Exit 2, no traceback, no half-made agent."""
    more = arguments.pop("more", [])
    assert init(*more, **arguments) == 2
    said = capsys.readouterr().err
    assert fault in said
    assert said.count("\n") == 1
    assert sorted(path.name for path in place.iterdir()) == ["policy.txt"]


def test_run_mistakes_are_one_line(place, capsys):
    """Each names the file and what to do."""
    assert main(["edge", "run"]) == 2
    assert "no such configuration file" in capsys.readouterr().err
    init()
    (place / "edge.key").chmod(0o644)
    capsys.readouterr()
    assert main(["edge", "run"]) == 2
    assert "chmod 600" in capsys.readouterr().err
    (place / "edge.key").write_text("vitalseal-key-v1:ed25519:c2VjcmV0\n")
    (place / "edge.key").chmod(0o600)
    assert main(["edge", "run"]) == 2
    said = capsys.readouterr().err
    assert "32 bytes" in said
    assert "c2VjcmV0" not in said
    with (place / "edge.toml").open("a") as file:
        file.write("\n[brocker]\nport = 1\n")
    assert main(["edge", "run"]) == 2
    assert "did you mean 'broker'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("keep_days = -1", "keep_days"),
        ("[batching]\nmax_readings = 4096", "max_readings"),
        ("[batching]\nmax_bytes = 1", "max_bytes"),
        ("[batching]\nmax_age_s = 0", "max_age_s"),
        ("[batching]\ncommit_s = 2", "commit_s"),
        ("[broker]\nprotocol = '4'", "protocol"),
        ("[broker]\nkeepalive_s = 1", "keepalive_s"),
        ("[[sources]]\nname = 'a'\ntype = 'lines'\nid = 'AB'", "id"),
        ("[[sources]]\nname = 'a'\ntype = 'lines'\nid = '" + "00" * 17 + "'", "id"),
        (
            "[[sources]]\nname='a'\ntype='x'\nid='"
            + "0" * 16
            + "'\n[[sources]]\nname='a'\ntype='x'\nid='"
            + "1" * 16
            + "'",
            "two",
        ),
    ],
)
def test_value_that_cannot_work_is_named(place, text, fault):
    """Caught when the file is read, not when it matters."""
    common = f"device='d'\norigin='{ORIGIN}'\nkey='k'\npolicy='p'\ndata='data'\n"
    (place / "edge.toml").write_text(common + text)
    with pytest.raises(UserError, match=fault):
        load(place / "edge.toml")


def test_unwritable_data_directory_is_one_line(place, capsys):
    """The data directory cannot be made where a file is."""
    init()
    (place / "data").write_text("in the way")
    capsys.readouterr()
    assert main(["edge", "run"]) == 2
    assert str(place / "data") in capsys.readouterr().err.splitlines()[-1]


def test_key_is_never_overwritten(place):
    """A key that is lost cannot be made again."""
    create_key(place / "k")
    with pytest.raises(UserError, match="not overwritten"):
        create_key(place / "k")


def test_unknown_source_type_lists_the_known_ones(place):
    """The entry points are the list."""
    with pytest.raises(UserError, match=r"known are .*lines"):
        make_source("linse", name="a", source_id=bytes(8), options={}, directory=place)


def test_status_before_the_first_run_says_so(place, capsys):
    """No outbox is no traceback."""
    init()
    assert main(["edge", "status"]) == 2
    assert "not there" in capsys.readouterr().err


def test_status_of_a_restored_outbox_says_what_to_do(place, capsys):
    """The log holds other batches behind an old copy; waiting mends nothing, so status must not look harmless."""
    init()
    config = load(place / "edge.toml")
    config.data.mkdir()
    owner = owner_of(place, load_key(config.key), config.device)
    with contextlib.closing(Outbox(config.outbox_file, owner)) as outbox:
        outbox.register(SOURCE_ID, "a test")
        outbox.accept([delivery(0, 3)])
        outbox.seal_next(LIMITS, Sealer(load_key(config.key), ORIGIN))
    assert status(capsys)["outdated"] is False
    with contextlib.closing(Outbox(config.outbox_file, owner)) as outbox:
        outbox.record_reject((0, 0), Reason.EQUIVOCATION, "another header holds this place")
    assert status(capsys)["outdated"] is True
    assert main(["edge", "status"]) == 0
    said = capsys.readouterr().out
    assert "an older copy" in said
    assert "vitalseal edge recover --config edge.toml" in said


def test_recover_explains_before_it_does_anything(place, capsys):
    """Without --yes: what it is for, exit 2, the outbox as it was; with it: the next epoch."""
    init()
    config = load(place / "edge.toml")
    key = key_id(1, load_key(config.key).public_key)
    config.data.mkdir()
    owner = Owner(config.device, config.origin, key, config.key)
    with contextlib.closing(Outbox(config.outbox_file, owner)) as outbox:
        before = outbox.next_place()
    assert main(["edge", "recover"]) == 2
    assert "add --yes" in capsys.readouterr().err
    with contextlib.closing(Outbox(config.outbox_file, owner)) as outbox:
        assert outbox.next_place() == before == (0, 0)
    assert main(["edge", "recover", "--yes"]) == 2
    assert "has not refused it as outdated" in capsys.readouterr().err
    assert main(["edge", "recover", "--yes", "--force"]) == 0
    assert "epoch 1 begins" in capsys.readouterr().out


def test_status_without_the_key_still_tells_the_rest(place, capsys):
    """A token that is not plugged in, a key file that is away: a state, and the key's id from the outbox."""
    init()
    config = load(place / "edge.toml")
    config.data.mkdir()
    key = key_id(1, load_key(config.key).public_key)
    Outbox(config.outbox_file, Owner(config.device, config.origin, key, config.key)).close()
    config.key.unlink()
    report = status(capsys)
    assert report["key_id"] == key.hex()
    assert report["states"][0] == f"key: key {config.key}: No such file or directory"


@pytest.mark.parametrize("seconds", ["-1", "0", "x", "nan", "1e9"])
def test_rotate_waits_for_a_time_that_makes_sense(place, capsys, seconds):
    """And begins nothing otherwise."""
    init()
    with pytest.raises(SystemExit) as caught:
        main(["edge", "rotate", "--wait", seconds])
    assert caught.value.code == 2
    assert "is not from 1 to 86400 seconds" in capsys.readouterr().err


def test_recover_without_an_outbox_says_that_none_is_needed(place, capsys):
    """Starting the agent makes one."""
    init()
    assert main(["edge", "recover", "--yes"]) == 2
    assert "not there" in capsys.readouterr().err


def test_rotate_without_a_desk_says_where_it_comes_from(place, capsys):
    """A gateway that was set up by hand has nobody to ask."""
    init()
    assert main(["edge", "rotate"]) == 2
    assert "edge enroll" in capsys.readouterr().err


def test_status_says_when_the_certificate_ends(place, capsys):
    """For people in days, for scripts in Unix seconds."""
    with Desk(place) as desk:
        assert main(["edge", "enroll", desk.token()]) == 0
    config = load(place / "edge.toml")
    config.data.mkdir()
    owner = Owner(config.device, config.origin, key_id(1, load_key(config.key).public_key), config.key)
    Outbox(config.outbox_file, owner).close()
    ends = validity(config.broker.tls.certificate).ends
    assert status(capsys)["certificate_ends_s"] == ends
    assert main(["edge", "status"]) == 0
    assert "certificate    ends on 20" in capsys.readouterr().out


def test_help_says_what_each_argument_is_for(capsys):
    """Every command explains itself."""
    for command in ("init", "enroll", "run", "status", "rotate", "recover"):
        with pytest.raises(SystemExit) as caught:
            main(["edge", command, "--help"])
        assert caught.value.code == 0
        assert "--config" in capsys.readouterr().out


async def test_command_line_from_init_to_receipt(mosquitto, place, capsys):
    """init, run, status, as a person would: everything receipted, exit 0, and status says so."""
    init(broker=f"127.0.0.1:{mosquitto.port}")
    (place / "wrist.ndjson").write_text(lines(1000) + "not a line\n")
    async with StandIn(mosquitto, load_key(place / "edge.key")) as standin:
        run = await asyncio.create_subprocess_exec(
            *VITALSEAL, "edge", "run", "--exit-when-done", stderr=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(60):
            _, said = await run.communicate()
        assert (run.returncode, len(standin.readings)) == (0, 1000)
    assert b"Traceback" not in said
    report = status(capsys)
    assert (report["accepted"], report["receipted"], report["refused_input"]) == (1000, 1000, {"wrist": 1})
    assert (report["running"], report["connected"], report["oldest_unstored_s"]) == (False, False, None)
    assert main(["edge", "status"]) == 0
    assert "1000 readings in" in capsys.readouterr().out


async def test_killed_again_and_again_every_line_is_logged_once(mosquitto, place):
    """SIGKILL at eight moments, through the front door: each line is one leaf, in order, and no bytes ever differ."""
    init(source="wrist=lines:path=wrist.ndjson,poll_s=0.01", broker=f"127.0.0.1:{mosquitto.port}")
    path, written = place / "wrist.ndjson", 0
    async with StandIn(mosquitto, load_key(place / "edge.key")) as standin:
        # Two are certain, whatever was left over: 1500 lines are three live batches, and a backlog is more than one.
        for batches in (0, 1, 2, 1, 2, 1, 2, 2):
            with path.open("a") as file:
                file.write(lines(1500, written))
            written += 1500
            run = await asyncio.create_subprocess_exec(*VITALSEAL, "edge", "run", stderr=asyncio.subprocess.DEVNULL)
            enough = len(standin.envelopes) + batches
            await standin.until(lambda enough=enough: len(standin.envelopes) >= enough, 60)
            run.kill()
            await run.wait()
        await standin.until(lambda: not standin.statuses[-1].online, 60)  # the last one's will
        run = await asyncio.create_subprocess_exec(*VITALSEAL, "edge", "run", stderr=asyncio.subprocess.DEVNULL)
        # Online, because it may have nothing to deliver, and takes signals in good order only once it works.
        await standin.until(lambda: len(standin.readings) == written and standin.statuses[-1].online, 60)
        run.send_signal(signal.SIGTERM)
        assert await run.wait() == 0
        with OutboxReader(place / "data" / "outbox.db") as reader:
            bodies = list(reader.bodies())
        assert standin.readings == bodies
        assert len(bodies) == written
        assert all(len(set(sent)) == 1 for sent in standin.envelopes.values())


async def test_terminated_agent_exits_in_good_order_without_a_broker(place, capsys):
    """SIGTERM with nobody to deliver to: exit 0, readings in the outbox."""
    init(source="wrist=lines:path=wrist.ndjson", broker=f"127.0.0.1:{free_port()}")
    (place / "wrist.ndjson").write_text(lines(10))
    run = await asyncio.create_subprocess_exec(*VITALSEAL, "edge", "run", stderr=asyncio.subprocess.PIPE)
    async with asyncio.timeout(30):
        assert b"is away" in await run.stderr.readline()
        os.kill(run.pid, signal.SIGTERM)
        _, said = await run.communicate()
    assert (run.returncode, b"Traceback" in said) == (0, False)
    assert status(capsys)["accepted"] in (0, 10)
