"""docs/kafka.md against the program: every API in its versions, every configuration key that is understood."""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path

from corgi.kafka.table import APIS
from corgi.kafka.topic_config import APPLIED, TopicKeys

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "kafka.md").read_text(encoding="utf-8")
SERVED, KEYS = TEXT.split("## What is served")[1].split("## Configuration keys understood")


def test_every_api_stands_there_with_its_versions() -> None:
    told: dict[int, tuple[str, tuple[int, int]]] = {}
    for names, keys, versions in re.findall(r"^\| (\w[\w, ]+) \| ([\d, ]+) \| ([\d, -]+) \|", SERVED, re.MULTILINE):
        ranges = [tuple(map(int, (text + "-" + text).split("-")[:2])) for text in versions.split(", ")]
        numbers = list(map(int, keys.split(", ")))
        ranges *= len(numbers) if len(ranges) == 1 else 1
        for number, name, (lowest, highest) in zip(numbers, names.split(", "), ranges, strict=True):
            told[number] = (name, (lowest, highest))
    assert told == {key: (api.name, api.versions) for key, api in APIS.items()}


def test_every_configuration_key_stands_there() -> None:
    rows = re.findall(r"^\| (`.+?`) \|", KEYS, re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    known = {*APPLIED, *(told.key for told in TopicKeys(3).told({}))}
    assert [name for name in named if not fnmatch.filter(known, name)] == []
    assert [key for key in known if not any(fnmatch.fnmatch(key, name) for name in named)] == []
