"""Log lines: one line each, whatever is logged."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from corgi.server import logs


@pytest.fixture(autouse=True)
def _handlers_back() -> Iterator[None]:
    root, level, own = logging.getLogger(), logging.getLogger().level, logs.logger.level
    handlers = list(root.handlers)
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logs.logger.setLevel(own)


def configured(form: str, level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    logs.configure(level, form, stream)
    return stream


def test_json_lines_carry_event_facts_and_both_clocks() -> None:
    stream = configured("json")
    logs.warning("peer-lost", node=2, groups=[1, 2], monotonic_s=12.5)
    line = json.loads(stream.getvalue())
    assert (line["event"], line["level"], line["node"], line["groups"]) == ("peer-lost", "warning", 2, [1, 2])
    assert line["monotonic_s"] == 12.5, "an event that tells when it happened is believed"
    assert line["time"].endswith("Z")


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_text_makes_a_second_line_or_moves_the_cursor(form: str) -> None:
    stream = configured(form)
    logs.info("client-lost", reason='bad\nevent=forged "x" \x1b[2J')
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert "\x1b" not in text


def test_text_is_readable() -> None:
    stream = configured("text")
    logs.info("listening", node=1, address="127.0.0.1:7450", took_s=0.25)
    assert stream.getvalue().endswith("node=1 address=127.0.0.1:7450 took_s=0.25\n")


def test_a_sentence_of_a_layer_below_is_an_event_too() -> None:
    stream = configured("json")
    logging.getLogger("corgi.net").warning("client %s: %s", "127.0.0.1", "slow")
    line = json.loads(stream.getvalue())
    assert (line["event"], line["message"]) == ("net", "client 127.0.0.1: slow")


def test_the_level_is_kept() -> None:
    stream = configured("text", "error")
    logs.warning("unheard")
    assert not stream.getvalue()
