"""A new log in the place of one that is frozen, and cannot be closed because it must not be written again."""

from aggregator.config import AggregatorConfig
from aggregator.last_seen import frozen_at
from aggregator.lifecycle import check_successor, open_log, publish_all
from ledger.checkpoint import Checkpoint
from ledger.entry import Opening
from ledger.writer.log import LogWriter
from ledger.writer.storage import Submission


def succeed(config: AggregatorConfig, successor: AggregatorConfig) -> tuple[Checkpoint, LogWriter]:
    """The log of `successor` begins where the frozen one of `config` was last seen; done again, it changes nothing.

    Returns the last checkpoint that is known of the frozen log, and the writer of the new one, which writes no more.

    Raises:
        UserError: the log of `config` is not frozen; the successor bears its name, or has other entries already.
        StorageError: the successor cannot be written, or has no quorum now.
    """
    end = frozen_at(config.data)
    with open_log(successor) as new:
        check_successor(new, end.origin)
        publish_all(new.writer)
        if not new.writer.size:
            new.writer.append([Submission(Opening(end.origin, end.size, end.root).encode())])
        publish_all(new.writer)
        return end, new.writer
