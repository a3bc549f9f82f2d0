"""docs/cli.md and docs/configuration.md against the program: every command, option, exit code, place and key."""

import re
from pathlib import Path
from pkgutil import resolve_name

import msgspec
import pytest
from cyclopts import App

from corgi.cli.exits import INTERRUPTED, TERMINATED, Exit
from corgi.cli.formats import PLACES
from corgi.cli.main import COMMANDS, main
from corgi.server.config import KEYS, Member, ServerConfig

DOCS = Path(__file__).resolve().parents[2] / "docs"
CLI = (DOCS / "cli.md").read_text(encoding="utf-8")
CONFIGURATION = (DOCS / "configuration.md").read_text(encoding="utf-8")


def grouped() -> list[tuple[str, str]]:
    """Commands of two words."""
    apps = {name: resolve_name(path) for name, (path, _) in COMMANDS.items()}
    return [(name, word) for name, app in apps.items() if isinstance(app, App) for word in app if word[0] != "-"]


def test_every_command_is_described() -> None:
    assert not [name for name in COMMANDS if f"`corgi {name}" not in CLI]
    rows = {row.split()[2].strip("`"): row.split(" | ")[0] for row in CLI.splitlines() if row.startswith("| `corgi ")}
    assert {("topic", "create"), ("bench", "gaps")} <= set(grouped())
    assert not [(name, word) for name, word in grouped() if not re.search(rf"[ `]{word}`", rows[name])]


def test_every_option_that_is_named_exists(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        *([name] for name in COMMANDS),
        *grouped(),
    ):
        assert main([*words, "--help"]) == 0
    known = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))
    named = set(re.findall(r"`(--[a-z][a-z-]+)", CLI + CONFIGURATION)) | set(
        re.findall(r"corgi \w+ .*?(--[a-z-]+)", CLI)
    )
    assert named
    assert not named - known - {"--help"}


def test_exit_codes_are_those_of_the_program() -> None:
    assert set(map(int, re.findall(r"^\| (\d+) \|", CLI, re.MULTILINE))) == {*Exit, INTERRUPTED, TERMINATED}


def test_every_place_of_a_format_is_described() -> None:
    assert set(re.findall(r"`%(.)`", CLI)) == set(PLACES)


def test_every_key_of_the_configuration_is_described_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", CONFIGURATION, re.MULTILINE))
    assert set(KEYS) <= set(rows)
    assert {field.name for field in msgspec.structs.fields(Member)} <= set(rows)
    for field in msgspec.structs.fields(ServerConfig):
        if field.default not in (msgspec.NODEFAULT, "", (), None):
            default = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
            assert rows[field.name].strip("`") == default, field.name
