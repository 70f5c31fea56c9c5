"""`vitalseal ledger serve`: publish a log over HTTP."""

import argparse
from pathlib import Path

from ledger.console import OK, WRONG, fail
from ledger.fsck import CHECKPOINT_PATH
from ledger.writer.reader import PUBLIC


def register(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.description = (
        "Serve a log's public directory over HTTP, read-only, as C2SP tlog-tiles says: the checkpoint, hash tiles and "
        "entry bundles. Nothing in it is secret or trusted, so any web server may do the same."
    )
    parser.epilog = (
        "Prints the URL once it answers, and runs until Ctrl-C or SIGTERM. Behind a proxy or in a container that ends "
        "TLS, leave the TLS options out. Check what is served:  vitalseal ledger fsck URL --policy POLICY"
    )
    parser.add_argument(
        "directory", type=Path, metavar="DIR", help=f"the log's public directory (DATA/{PUBLIC}, with `checkpoint`)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1; all: 0.0.0.0 or ::)")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on (8080); 0: any that is free")
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="PEM certificate chain; with --tls-key")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key, PEM, not encrypted")
    parser.set_defaults(run=_serve)


def _serve(args: argparse.Namespace) -> int:
    public = args.directory
    if not public.is_dir():
        return fail(f"{public}: is not a directory", WRONG)
    if not (public / CHECKPOINT_PATH).is_file():
        return fail(f"{public}: has no checkpoint; name a log's public directory (DATA/{PUBLIC})", WRONG)
    try:
        from ledger.service.http import ServeError, serve
        from ledger.service.serve import make_app
    except ModuleNotFoundError as error:
        return fail(
            f"`vitalseal ledger serve` needs {error.name}: in vitalseal's clone, type  pip install '.[witness]'", WRONG
        )

    def ready(url: str) -> None:
        print(f"serving {public} at {url}", flush=True)

    try:
        serve(make_app(public), args.host, args.port, tls_cert=args.tls_cert, tls_key=args.tls_key, ready=ready)
    except ServeError as error:
        return fail(error, WRONG)
    return OK
