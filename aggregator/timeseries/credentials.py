"""What the store shows an InfluxDB, and whom it believes: the token and the CA, each from its file."""

import os
import re
import ssl
import stat

from aggregator.config import InfluxConfig
from vitalseal.errors import UserError

MAX_TOKEN = 4096  # bytes of a token file


def read_token(config: InfluxConfig) -> str | None:
    """The first line of the token file, which only its owner may read; raises UserError."""
    path = config.token_file
    if path is None:
        return None
    try:
        # The mode is that of the opened file, not of whatever the name points to a moment later.
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(MAX_TOKEN + 1)
    except OSError as error:
        raise UserError(f"token_file {path}: {error.strerror or error}") from None
    if not stat.S_ISREG(mode) or mode & 0o077:
        raise UserError(f"token_file {path}: others may read it (mode {stat.S_IMODE(mode):04o}); run  chmod 600 {path}")
    line = data.partition(b"\n")[0].strip()
    if not line or len(data) > MAX_TOKEN or not re.fullmatch(rb"[!-~]+", line):
        raise UserError(f"token_file {path}: its first line is no token")
    return line.decode("ascii")


def trust(config: InfluxConfig) -> ssl.SSLContext | None:
    """What believes the configuration's CA and no other; None where there is none. Raises UserError."""
    if config.ca is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(config.ca)
    except OSError as error:  # ssl.SSLError is one
        raise UserError(f"[influx] ca = {config.ca}: {error.strerror or error}") from None
    return context
