"""Follows a log for ever: what a monitor concludes from what it is shown.

The entries that were followed are the truth that everything else is held against. They only ever grow under a signed
checkpoint whose tree was shown to extend them, and every bundle is shown to lead to that checkpoint's root before it is
looked at. So each checkpoint that was ever seen, by anybody, is of one of three kinds: a prefix of what was followed;
beyond it, and remembered until it can be compared; or of another history, which the log's own signature proves.

A log may say anything: what is wrong with an entry is told and the next one is followed, what cannot be read now is
asked for again in the next round.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence

from ledger import merkle
from ledger.batch import Header
from ledger.checkpoint import Checkpoint, parse_checkpoint
from ledger.entry import BatchEntry, parse_entry
from ledger.errors import LedgerError, VerificationError
from ledger.findings import Finding
from ledger.fsck import Progress
from ledger.note import Note
from ledger.policy import Policy
from ledger.service.http_log import FetchError
from ledger.service.monitor_alarms import BROKEN, SHRUNK, SPLIT_VIEW, STALLED, UNREACHABLE, UNWITNESSED, Alarms
from ledger.service.monitor_evidence import Claim, Exhibit, iso_time
from ledger.service.monitor_state import MonitorState, Pending
from ledger.service.monitor_views import Look, View
from ledger.tiles import TILE_WIDTH, TileReader

ENTRIES_SUBJECT = "the log's entries"
# Checkpoints that are known to be prefixes; an older one is compared with the log's tiles again.
MAX_KNOWN = 4096
# Only the log's key can make one; so many at once are a flood, and of a flood the first are enough.
MAX_PENDING = 256


class Monitor:
    """The rounds of one monitor: `state` is what it knows, `alarms` what it tells."""

    def __init__(
        self,
        policy: Policy,
        state: MonitorState,
        alarms: Alarms,
        *,
        stalled_after_s: int,
        stopped: Callable[[], bool] = lambda: False,
        progress: Progress = lambda _done, _all: None,
    ) -> None:
        """When `stopped`, a round ends behind the bundle that it is at; `progress` hears of a long way to go."""
        self._policy = policy
        self._state = state
        self._memory = state.memory
        self._alarms = alarms
        self._stalled_after_s = stalled_after_s
        self._stopped = stopped
        self._progress = progress
        self._settled = True  # no anchor of an entry that was followed waits to be compared
        self._last_note: Note | None = None
        self._showing: Checkpoint | None = None  # what the log itself shows in this round
        self._known: OrderedDict[tuple[int, bytes], None] = OrderedDict()
        # Checkpoints beyond what was followed, with the size up to which a view's own tiles showed that they extend it.
        self._extending: dict[tuple[int, bytes], int] = {}
        # Views whose tiles were asked for in vain in this round.
        self._silent: set[str] = set()
        # What is wrong now, by kind and subject, None where nothing is; what could not be found out is not in it.
        self._now_wrong: dict[tuple[str, str], str | None] = {}

    def round(self, looks: Sequence[Look], now: int) -> None:
        """Everything that `looks` show at `now` (Unix seconds) is followed, compared, told and saved.

        The first of them is the log itself.
        """
        log = looks[0]
        self._alarms.now = now
        self._alarms.forget_removed()
        self._now_wrong = {}
        self._silent = set()
        self._showing = log.checkpoint
        for item in looks:
            self._see(item, now)
        if log.note is not None and log.checkpoint is not None:
            self._judge_log(log.view, log.note, log.checkpoint)
        self._judge_pending(looks, now)
        self._check_fresh(log, now)
        for (kind, subject), message in self._now_wrong.items():
            self._alarms.set(kind, subject, message)
        self._save()

    def _see(self, item: Look, now: int) -> None:
        """What is wrong with the look itself, and its checkpoint waits to be compared."""
        name = item.view.name
        self._now_wrong[UNREACHABLE, name] = None
        if item.wrong is None or item.wrong[0] != UNREACHABLE:
            self._now_wrong[BROKEN, name] = self._now_wrong[UNWITNESSED, name] = None
        if item.wrong is not None:
            self._wrong(item.wrong[0], name, item.wrong[1])
        if item.note is not None and item.checkpoint is not None:
            place = (item.checkpoint.size, item.checkpoint.root)
            waiting = {(known.checkpoint.size, known.checkpoint.root) for known in self._memory.pending}
            if place not in self._known and place not in waiting and len(waiting) < MAX_PENDING:
                self._memory.pending.append(Pending(name, now, item.note))

    def _wrong(self, kind: str, subject: str, message: str) -> None:
        if self._now_wrong.get((kind, subject)) is None:
            self._now_wrong[kind, subject] = message

    def _judge_log(self, view: View, note: Note, checkpoint: Checkpoint) -> None:
        """The log did not take back what it showed, and is followed to what it shows now.

        A smaller size may be an old copy in somebody's cache; whether it is of this history is judged with the others.
        """
        memory = self._memory
        shown = memory.shown and parse_checkpoint(memory.shown.text)
        self._now_wrong[SHRUNK, view.name] = None
        if shown and memory.shown and checkpoint.size < shown.size:
            message = f"it showed size {shown.size}, and now shows size {checkpoint.size}"
            self._wrong(SHRUNK, view.name, message)
        elif shown and memory.shown and checkpoint.size == shown.size and checkpoint.root != shown.root:
            message = f"two roots for one size: the log showed another one for size {shown.size}"
            self._split(view.name, message, _whole(memory.shown), _whole(note))
        else:
            memory.shown = note
        if checkpoint.size > memory.log.size or (checkpoint.size == memory.log.size and not self._settled):
            try:
                self._follow(view, note, checkpoint)
            except VerificationError as error:
                self._wrong(BROKEN, view.name, f"size {checkpoint.size} is signed: {error}")
            except LedgerError as error:
                self._wrong(BROKEN, view.name, f"size {checkpoint.size} is signed, and not well formed: {error}")
            except FetchError as error:
                self._wrong(UNREACHABLE, view.name, str(error))

    def _follow(self, view: View, note: Note, checkpoint: Checkpoint) -> None:
        """Every entry of `checkpoint` was looked at, if its tree extends what was followed; else it is a split view."""
        log = self._memory.log
        tree = TileReader(view.fetch, checkpoint.size, checkpoint.root)
        claim = _claim(tree, note, log.size)
        if claim.root != log.root():
            self._split(view.name, f"its first {log.size} entries are not those followed", *self._truth(), claim)
            return
        self._memory.followed = claim
        start = log.size
        for first in range(start - start % TILE_WIDTH, checkpoint.size, TILE_WIDTH):
            if self._stopped():
                break
            # All of a bundle is here, and shown to be under the signed root, before any of it is looked at: so too what
            # was followed already, for the bundle that holds it now is another file.
            end = min(first + TILE_WIDTH, checkpoint.size)
            entries = [tree.entry(index) for index in range(first, end)][max(start - first, 0) :]
            tree.prove_inclusion(first)
            claim = _claim(tree, note, end)
            found = [(finding, entry) for entry in entries for finding in log.add(entry)]
            self._memory.followed, self._settled = claim, False
            for finding, entry in found:
                self._report(finding, entry, tree, note)
            self._settle(tree, note)
            self._progress(log.size - start, checkpoint.size - start)
            if self._state.due:
                self._save()
        self._settle(tree, note)

    def _save(self) -> None:
        if self._settled:
            self._state.mark()
        self._state.save()

    def _settle(self, tree: TileReader, note: Note) -> None:
        """Nothing waits to be looked up, so that what is known of the entries can be saved.

        One whose evidence cannot be fetched goes on waiting, as do those behind it.
        """
        for finding in self._memory.log.look_back(tree):
            self._report(finding, tree.entry(finding.index), tree, note)
        self._settled = True

    def _report(self, finding: Finding, entry: bytes, tree: TileReader, note: Note) -> None:
        """What was found of an entry is told, then counted; of a fault there is evidence, or it was not told."""
        subject = ENTRIES_SUBJECT if finding.key_id is None else f"key {finding.key_id.hex()[:16]}"
        message = f"entry {finding.index}: {finding.message}"
        if not finding.fault:
            self._alarms.notice(finding.kind, subject, message)
            self._memory.findings[finding.kind] += 1
            return

        def parts() -> list[Claim | Exhibit]:
            exhibit = Exhibit(note, finding.index, entry, tuple(tree.prove_inclusion(finding.index)))
            return [exhibit] if finding.kind != SPLIT_VIEW else [exhibit, _claim(tree, note, _anchored_size(entry))]

        self._alarms.convict(finding.kind, subject, message, parts)
        self._memory.findings[finding.kind] += 1

    def _judge_pending(self, looks: Sequence[Look], now: int) -> None:
        """Every checkpoint that was seen is a prefix, or of another history, or goes on waiting."""
        views = {item.view.name: item.view for item in looks}
        waiting: dict[int, Pending] = {}
        for item in sorted(self._memory.pending, key=lambda item: (item.checkpoint.size, item.since)):
            checkpoint, name = item.checkpoint, item.seen_at
            other = waiting.setdefault(checkpoint.size, item)
            if other.checkpoint.root != checkpoint.root:
                message = f"two roots for one size: {other.seen_at} shows another one for size {checkpoint.size}"
                self._split(name, message, _whole(other.note), _whole(item.note))
            if self._judge(looks[0].view, item, views.get(name)):
                self._memory.pending.remove(item)
                self._now_wrong[STALLED, name] = None
            elif checkpoint.size > self._memory.log.size and now - item.since > self._stalled_after_s:
                message = f"size {checkpoint.size} was signed by {iso_time(item.since)}, and the log does not show it"
                self._wrong(STALLED, name, message)

    def _judge(self, log: View, item: Pending, view: View | None) -> bool:
        """Whether it is known what `item` is."""
        checkpoint = item.checkpoint
        place = (checkpoint.size, checkpoint.root)
        if checkpoint.size > self._memory.log.size:
            return view is not None and view is not log and not view.cosigners and self._diverges(item, view)
        if place not in self._known:
            truth = self._prefix(log, checkpoint.size)
            if truth is None:
                return False
            if truth.root != checkpoint.root:
                message = f"the first {checkpoint.size} entries have another root than in what was followed"
                self._split(item.seen_at, message, truth, _whole(item.note))
                return True
        self._known[place] = None
        self._extending.pop(place, None)
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        return True

    def _diverges(self, item: Pending, view: View) -> bool:
        """The tree of `item`, which is ahead, has another beginning than what was followed, by the view's own tiles."""
        checkpoint, size = item.checkpoint, self._memory.log.size
        place = (checkpoint.size, checkpoint.root)
        if view.name in self._silent or self._extending.get(place) == size:
            return False
        try:
            claim = _claim(TileReader(view.fetch, checkpoint.size, checkpoint.root), item.note, size)
        except (FetchError, LedgerError):
            self._silent.add(view.name)  # it need not have any; the log's own will tell
            return False
        if claim.root == self._memory.log.root():
            self._extending[place] = size
            return False
        self._split(item.seen_at, f"its first {size} entries are not those followed", *self._truth(), claim)
        return True

    def _prefix(self, log: View, size: int) -> Claim | None:
        """What was followed says of its first `size` entries; None if the log does not show the tiles for it now."""
        followed = self._memory.followed
        if followed is None or size == followed.size:
            return followed
        if log.name in self._silent:
            return None
        signed = parse_checkpoint(followed.note.text)
        try:
            return _claim(TileReader(log.fetch, signed.size, signed.root), followed.note, size)
        except FetchError as error:
            self._wrong(UNREACHABLE, log.name, str(error))
        except LedgerError as error:
            if signed == self._showing:  # else it has taken that tree back, and need not have its tiles
                self._wrong(BROKEN, log.name, f"its first {size} entries cannot be shown: {error}")
        self._silent.add(log.name)
        return None

    def _truth(self) -> list[Claim]:
        """What was followed, as evidence."""
        return [] if self._memory.followed is None else [self._memory.followed]

    def _split(self, subject: str, message: str, *claims: Claim) -> None:
        self._alarms.convict(SPLIT_VIEW, subject, message, lambda: claims)

    def _check_fresh(self, log: Look, now: int) -> None:
        """The newest time at which the log was signed or cosigned is not long ago; a first look counts as one.

        Of a log that ended, and showed nothing beyond what was followed, nothing new is due.
        """
        memory = self._memory
        seen = log.fresh_at
        if seen is None and log.note is not None and self._policy.quorum is None and log.note != self._last_note:
            seen = now
        self._last_note = log.note or self._last_note
        memory.fresh_at = max(memory.fresh_at, min(seen, now)) if seen is not None else memory.fresh_at or now
        shown = parse_checkpoint(memory.shown.text).size if memory.shown else 0
        ended = memory.log.closed is not None and shown <= memory.log.size
        late = not ended and now - memory.fresh_at > self._stalled_after_s
        message = f"nothing new was signed since {iso_time(memory.fresh_at)}; an idle log signs again every ten minutes"
        self._now_wrong[STALLED, log.view.name] = message if late else None


def _claim(tree: TileReader, note: Note, size: int) -> Claim:
    """What `note`, whose tree is `tree`, says of its first `size` entries; raises LedgerError, FetchError."""
    proof = tree.prove_consistency(size)
    return Claim(note, size, merkle.root_at(size, tree.hash_at), tuple(proof))


def _whole(note: Note) -> Claim:
    checkpoint = parse_checkpoint(note.text)
    return Claim(note, checkpoint.size, checkpoint.root)


def _anchored_size(entry: bytes) -> int:
    batch = parse_entry(entry)
    anchor = Header.decode(batch.header).anchor if isinstance(batch, BatchEntry) else None
    return anchor.size if anchor else 0
