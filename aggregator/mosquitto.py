"""What a Mosquitto broker is given: its configuration, the list of who may use which topic, and the word to read again.

    <data>/broker/mosquitto.conf     complete:  mosquitto -c <data>/broker/mosquitto.conf
    <data>/broker/acl                rewritten whole when a device's keys end, or begin again
    <data>/broker/state/             Mosquitto's own: its database and process id

Checked with Mosquitto 2.0.11. There a list of revoked certificates, read again, keeps new connections out and leaves
the standing ones; the list of topics, read again, binds the standing ones as well. So revoking takes both.

It also must not note when a session ends: reading again, it ends one whose client is away a second time, and notes that
time twice. The second note outlives the session when its client is back, and the broker dies of what it points to
(SIGSEGV in `session_expiry__remove`). So neither the configuration nor the aggregator (`mqtt.NEVER`) gives sessions an
end. Agents have none that outlives their connection.
"""

import os
import signal
from collections.abc import Iterable
from pathlib import Path

from ledger.envelope import MAX_ENVELOPE
from vitalseal import topics

AGGREGATOR = "aggregator"  # the name in the aggregator's certificate; no device may have it
CONF, ACL, STATE, PID = "mosquitto.conf", "acl", "state", "mosquitto.pid"
CA_FILE, CRL_FILE, SERVER_FILE, SERVER_KEY_FILE = "ca.crt", "crl.pem", "server.crt", "server.key"

# A little more than an envelope, so that admission tells a device of one too large. What is larger still, Mosquitto
# 2.0.11 drops: it ends an MQTT 5 connection, and acknowledges to a 3.1.1 client.
MESSAGE_ROOM = 64 * 1024
# What the broker holds for an aggregator that is away: a thousand full envelopes. Beyond, it drops; devices resend.
QUEUED_MESSAGES = 20_000
QUEUED_BYTES = 256 * 1024 * 1024


def format_conf(folder: Path, listen: str | None, port: int, user: str | None) -> str:
    """The configuration of a broker whose files are in `folder`.

    `listen` is the one address to listen on, None for all; `user` whom a broker started by root becomes, None for the
    one that its package made.
    """
    listener = f"listener {port}" if listen is None else f"listener {port} {listen}"
    become = (
        ""
        if user is None
        else f"\n# Started by root, it becomes the aggregator's user, whose files these are.\nuser {user}\n"
    )
    return f"""\
# Mosquitto for one Vitalseal log, made by `vitalseal aggregator init`. Yours to change; nothing rewrites it.
{become}
# One listener, TLS only: there is no way in without a certificate of this log's CA.
{listener}
cafile {folder / CA_FILE}
certfile {folder / SERVER_FILE}
keyfile {folder / SERVER_KEY_FILE}
# The oldest version that is not broken; a client that has 1.3 uses it.
tls_version tlsv1.2
require_certificate true
# Certificates of revoked devices. It is valid for 30 days: the aggregator makes a new one every day, and with an
# expired one the broker lets nobody in.
crlfile {folder / CRL_FILE}
# A client is who its certificate says, ...
use_identity_as_username true
# ... and so is its session: nobody takes over another's by its client id, and of two with one certificate the later
# one throws the earlier one off.
use_username_as_clientid true
allow_anonymous false
# Who may use which topic; the aggregator rewrites it when a device is revoked, or signed in again.
acl_file {folder / ACL}

# Sessions and what waits in them survive a restart of the broker; what the last minute brought, devices send again.
persistence true
persistence_location {folder / STATE}/
autosave_interval 60
# For an aggregator that is away: what does not fit is dropped, and sent again by its device.
max_queued_messages {QUEUED_MESSAGES}
max_queued_bytes {QUEUED_BYTES}
# On their way to one client at once; the aggregator acknowledges after its commit, in groups of up to 256.
max_inflight_messages 256
# Without persistent_client_expiration: with it Mosquitto 2.0.11 crashes some time after it has read its files again
# while a client with a session, the aggregator for one, was away.

# An envelope of {MAX_ENVELOPE} bytes and some room, so that the aggregator answers what is a little too large.
# Not max_packet_size, which the broker recommends: that ends a 3.1.1 client's connection at each try, with all that it
# has on its way; this drops the one message.
message_size_limit {MAX_ENVELOPE + MESSAGE_ROOM}
# A client that is gone is noticed in three minutes (binds MQTT 5 clients only).
max_keepalive 120
# Small messages, receipts most of all, are not kept back to fill a packet.
set_tcp_nodelay true
# The broker tells nobody how it is by MQTT.
sys_interval 0

# To standard error, which systemd keeps (`journalctl -u mosquitto`). No payload is ever logged.
log_dest stderr
log_type error
log_type warning
log_type notice
log_type information
connection_messages true

# By this an aggregator that runs as the same user, and has `pid_file` in its configuration, has it read its files
# again. Under another user somebody else does, as deploy/vitalseal-broker.path.
pid_file {folder / STATE / PID}
"""


def format_acl(revoked: Iterable[str]) -> str:
    """Who may use which topic; the devices in `revoked` none at all, not even with a connection that stands."""
    denied = "".join(f"\nuser {device}\ntopic deny #\n" for device in sorted(revoked))
    return f"""\
# Made by the aggregator from the keys on the log, and rewritten when they change.
# A device writes its own batches and its own status, and reads its own receipts.
pattern write {topics.batch("%u")}
pattern write {topics.status("%u")}
pattern read {topics.receipt("%u")}

user {AGGREGATOR}
topic read {topics.BATCHES}
topic read {topics.STATUSES}
topic write {topics.receipt("+")}
{denied}"""


def reload(pid_file: Path) -> str | None:
    """The broker of `pid_file` is told to read its files again; else why it is not."""
    try:
        pid = int(pid_file.read_text("ascii"))
        # A number left over from a broker that was killed may be another process by now, which SIGHUP would end.
        name = Path(f"/proc/{pid}/comm").read_text("utf-8").strip()
        if name != "mosquitto":
            return f"{pid_file}: process {pid} is {name}, not mosquitto"
        os.kill(pid, signal.SIGHUP)
    except FileNotFoundError:
        return f"{pid_file}: no broker runs there"
    except (ValueError, OSError) as error:
        return f"{pid_file}: {getattr(error, 'strerror', None) or error}"
    return None
