"""A log in byte arrays for tests: segments by number, the journal driven by hand, crashes at will."""

from __future__ import annotations

from collections.abc import Callable

from corgi.base.ids import Ballot, GroupId, NodeId, Slot
from corgi.base.ports import FaultyRecord, Hole, LogRecord, RecordKind
from corgi.log.record import DATA_FROM, LogIdentity, encode_segment_header
from corgi.log.recovery import Scan
from corgi.log.writer import Journal, LogEnd, WriteBatch

IDENTITY = LogIdentity(b"c" * 16, NodeId(3))
SEGMENT_BYTES = 16 * 1024

Fields = tuple[int, int, int, int, int, bytes]


def accept(slot: int, payload: bytes = b"value", group: int = 1, *, lazy: bool = False) -> LogRecord:
    before = Slot(max(slot - 1, 0))
    return LogRecord(RecordKind.ACCEPT, GroupId(group), Ballot(7 << 16 | 3), Slot(slot), before, payload, lazy=lazy)


def state(group: int = 0) -> LogRecord:
    return LogRecord(RecordKind.STATE, GroupId(group), Ballot(5), Slot(9), Slot(0), b"state")


def fields(record: LogRecord) -> Fields:
    """What a record means, its position apart."""
    return (record.kind, record.group, record.ballot, record.slot, record.commit, bytes(record.payload))


class Log:
    """Byte arrays in the place of files."""

    def __init__(
        self,
        segment_bytes: int = SEGMENT_BYTES,
        states: Callable[[], list[LogRecord]] = list,
        batch_bytes_max: int = 4096,
    ) -> None:
        self.segment_bytes = segment_bytes
        self.states = states
        self.batch_bytes_max = batch_bytes_max
        self.segments: dict[int, bytearray] = {}
        self.journal = self._journal(None)

    def _journal(self, end: LogEnd | None) -> Journal:
        return Journal(self.states, end, segment_bytes=self.segment_bytes, batch_bytes_max=self.batch_bytes_max)

    def prepare(self) -> None:
        """Make the segment that the journal wants next."""
        number = self.journal.segment_wanted
        salt = 0xFEED_0000_0000_0000 | number
        file = bytearray(self.segment_bytes)
        file[:DATA_FROM] = encode_segment_header(IDENTITY, number, self.segment_bytes, salt)
        self.segments[number] = file
        self.journal.prepared(number, salt)

    def put(self, batch: WriteBatch) -> None:
        data = b"".join(batch.buffers)
        assert len(data) == batch.length
        self.segments[batch.segment][batch.offset : batch.offset + len(data)] = data

    def write(self) -> WriteBatch | None:
        """Prepare ahead, write and sync one batch."""
        if not self.journal.segments_ahead:
            self.prepare()
        batch = self.journal.take(0.0)
        if batch is not None:
            self.put(batch)
            self.journal.synced(batch)
        return batch

    def write_all(self) -> list[WriteBatch]:
        batches = []
        while self.journal.pending:
            batch = self.write()
            assert batch is not None
            batches.append(batch)
        return batches

    def items(self) -> tuple[list[LogRecord | Hole], LogEnd]:
        """What a scan finds, holes and faulty records among it."""
        scan = Scan(IDENTITY, segment_bytes=self.segment_bytes)
        items = list(scan.records(sorted(self.segments.items())))
        return items, scan.end

    def scan(self) -> tuple[list[LogRecord], LogEnd]:
        """The same for a log without damage."""
        items, end = self.items()
        records = [item for item in items if isinstance(item, LogRecord) and not isinstance(item, FaultyRecord)]
        assert len(records) == len(items), items
        return records, end

    def restart(self) -> list[LogRecord]:
        """What a new process does: scan, clear the torn tail, go on."""
        items, end = self.items()
        if end.torn is not None:
            segment, start, stop = end.torn
            self.segments[segment][start:stop] = bytes(stop - start)
        self.journal = self._journal(end)
        return [item for item in items if isinstance(item, LogRecord) and not isinstance(item, FaultyRecord)]
