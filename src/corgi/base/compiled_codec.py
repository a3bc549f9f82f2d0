"""aiokafka's compiled codec of record batches, without the client around it.

``import aiokafka`` loads a whole Kafka client: 12 MB and 0.1 s more than its compiled codec alone
(measured, CPython 3.11), which every idle node would carry. So the codec is imported while empty packages
stand in for its parents, and these are taken away again: a program that uses aiokafka itself imports the
real ones as ever.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from typing import Protocol

from corgi.base.command import Buffer

_NAME = "aiokafka.record._crecords.default_records"


class DecodedRecord(Protocol):
    """One record as the codec hands it out; ``timestamp`` in ms since 1970."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


class Decoder(Protocol):
    """Reads the header at once and the records while iterating; checks bounds, not the checksum."""

    def __iter__(self) -> Iterator[DecodedRecord]: ...


class Encoder(Protocol):
    """Builds one batch. The first record is accepted whatever its size; ``append`` gives None when full."""

    def append(
        self,
        offset: int,
        timestamp: int,
        key: Buffer | None,
        value: Buffer | None,
        headers: list[tuple[str, bytes | None]],
    ) -> object: ...

    def set_producer_state(self, producer_id: int, producer_epoch: int, base_sequence: int) -> None: ...

    def size(self) -> int: ...

    def build(self) -> bytearray: ...


class _Codec(Protocol):
    """The module of the compiled codec."""

    CorruptRecordException: type[Exception]

    def DefaultRecordBatch(self, buffer: Buffer) -> Decoder: ...  # noqa: N802

    def DefaultRecordBatchBuilder(  # noqa: N802
        self,
        magic: int,
        compression_type: int,
        is_transactional: int,
        producer_id: int,
        producer_epoch: int,
        base_sequence: int,
        batch_size: int,
    ) -> Encoder: ...


def _load() -> _Codec:
    if "aiokafka" not in sys.modules:
        spec = importlib.util.find_spec("aiokafka")
        if spec is not None and spec.submodule_search_locations:
            return _load_between_stand_ins(spec.submodule_search_locations[0])
    return importlib.import_module(_NAME)


def _load_between_stand_ins(folder: str) -> _Codec:
    for package, path in (
        ("aiokafka", folder),
        ("aiokafka.record", f"{folder}/record"),
        ("aiokafka.record._crecords", f"{folder}/record/_crecords"),
    ):
        module = types.ModuleType(package)
        module.__path__ = [path]
        sys.modules[package] = module
    try:
        return importlib.import_module(_NAME)
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "aiokafka"]:
            del sys.modules[name]


_codec = _load()
decoder = _codec.DefaultRecordBatch
encoder = _codec.DefaultRecordBatchBuilder
CorruptRecordError = _codec.CorruptRecordException
