"""`vitalseal ledger`: one command each for those who write, check, serve, witness and watch a log.

Each command has a module with `register(parser)`. Programs that speak HTTP load their libraries when they run, so
that `fsck` of a directory and `proof` need no more than the bare install.
"""

import argparse

from ledger import fsck_cli, proof_cli
from ledger.service import monitor_cli, serve_cli, witness_cli

COMMANDS = {
    "fsck": (fsck_cli, "recompute a whole log from its entries"),
    "monitor": (monitor_cli, "follow a log, and say what is wrong with it"),
    "proof": (proof_cli, "write the proof file of a reading"),
    "serve": (serve_cli, "publish a log over HTTP, read-only"),
    "witness": (witness_cli, "cosign the checkpoints of logs that only grow"),
}


def register(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommands and their arguments."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (module, summary) in COMMANDS.items():
        module.register(commands.add_parser(name, help=summary))
