"""The blocks of docs/sdk.md, run from top to bottom as one program, against a real node."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import corgi
from corgi.base.compression import CODECS
from corgi.client.core.options import ACKS
from corgi.testing.plugin import RunningBroker

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "sdk.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ADDRESS = re.compile(r"(corgi://)?127\.0\.0\.1:745\d(,127\.0\.0\.1:745\d)*")


async def test_every_block_runs(
    corgi_embedded: RunningBroker,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    text = DOCUMENT.read_text(encoding="utf-8")
    scope: dict[str, Any] = {"__name__": "sdk"}
    for block in BLOCK.finditer(text):
        line = text.count("\n", 0, block.start(1))
        code = "\n" * line + ADDRESS.sub(corgi_embedded.servers, block.group(1))
        program = compile(code, str(DOCUMENT), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        result = eval(program, scope)  # noqa: S307 - our own document
        if inspect.isawaitable(result):
            await result
    await scope["test_orders"](corgi_embedded_of_its_own := Fresh(corgi_embedded))
    assert corgi_embedded_of_its_own.connected
    told = capsys.readouterr().out
    assert "unknown-topic" in told
    assert "1 fig" in told


class Fresh:
    """The document's fixture, with a topic that is not there yet."""

    def __init__(self, broker: RunningBroker) -> None:
        self._broker = broker
        self.connected = False

    def connect(self) -> Fresh:
        return self

    async def __aenter__(self) -> corgi.Corgi:
        self._mq = await self._broker.connect()
        await self._mq.topics.delete("orders")
        self.connected = True
        return self._mq

    async def __aexit__(self, *error: object) -> None:
        await self._mq.close()


def test_every_option_and_mode_is_explained() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    for option in list(inspect.signature(corgi.connect).parameters)[1:]:
        assert f"| `{option}` |" in text
    for word in (*ACKS, *CODECS):
        assert f'"{word}"' in text
