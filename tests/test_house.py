"""Rules of the house that no linter checks.

Each rule is a function from a file's text to complaints; it is tried on a text that breaks it, and on
the tree.
"""

import ast
import re
import subprocess
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "corgi"
LINES_MAX = 500

# Spelled in pieces, because this file is held to the rule as well.
REGISTRY_HOSTS = [
    "py" + "pi.org",
    "python" + "hosted.org",
    "registry." + "npmjs",
    "crates" + ".io",
    "proxy." + "golang",
    "repo." + "maven",
    "deb." + "debian.org",
]
NAMES_A_REGISTRY = re.compile("|".join(map(re.escape, REGISTRY_HOSTS)), re.IGNORECASE)
NAMES_A_MACHINE = re.compile(r"(?<![\w.~/<>-])/(?:work|root|home/\w[\w.-]*)(?![\w.-])")


def complaints_about_module(text: str) -> Iterator[str]:
    """A module says what it is for, and can be held in the head."""
    lines = len(text.splitlines())
    if lines > LINES_MAX:
        yield f"has {lines} lines, {LINES_MAX} is the most"
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        yield f"does not parse: {error}"
        return
    if not ast.get_docstring(tree):
        yield "has no docstring"


def complaints_about_test(text: str) -> Iterator[str]:
    """A test waits for an event, not for a while."""
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        yield f"does not parse: {error}"
        return
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="time"), attr="sleep"):
                yield f"line {node.lineno} sleeps"
            case ast.ImportFrom(module="time", names=names) if any(name.name == "sleep" for name in names):
                yield f"line {node.lineno} imports sleep"


def complaints_about_text(text: str) -> Iterator[str]:
    """No file knows the machine or the registry of the one who wrote it."""
    for number, line in enumerate(text.splitlines(), start=1):
        if found := NAMES_A_REGISTRY.search(line):
            yield f"line {number} names the registry {found.group()}"
        if found := NAMES_A_MACHINE.search(line):
            yield f"line {number} names {found.group()}, a path of one machine"


def complaints_about_pins(text: str) -> Iterator[str]:
    """Every requirement has one version and at least one hash, and no line says where to get it."""
    for entry in re.sub(r"\\\n", " ", text).splitlines():
        line = entry.strip()
        if not line or line.startswith("#"):
            continue
        if not re.match(r"[\w.-]+(\[[\w,-]+\])?==[\w.!+]+", line):
            yield f"is not a pin: {line[:60]}"
        elif "--hash=sha256:" not in line:
            yield f"has no hash: {line[:60]}"


def committed_files() -> list[Path]:
    """The files that git knows; the whole tree in an unpacked release, which has no git."""
    if not (ROOT / ".git").exists():
        return [path for path in ROOT.rglob("*") if path.is_file() and ".venv" not in path.parts]
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True)
    return [path for name in listing.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def text_of(path: Path) -> str:
    """The text of a file, or nothing when it holds no text."""
    try:
        return path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, FileNotFoundError):
        return ""


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def told(path: Path, complaints: Iterator[str]) -> list[str]:
    return [f"{path.relative_to(ROOT)} {complaint}" for complaint in complaints]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("x = 1\n", "has no docstring"),
        ('"""A docstring."""\n' + "x = 1\n" * LINES_MAX, "has 501 lines, 500 is the most"),
        ("def (:\n", "does not parse"),
    ],
)
def test_a_bad_module_is_noticed(text: str, complaint: str) -> None:
    assert [found for found in complaints_about_module(text) if found.startswith(complaint)]


@pytest.mark.parametrize("text", ["import time\ntime.sleep(1)\n", "from time import monotonic, sleep\n"])
def test_a_sleep_is_noticed(text: str) -> None:
    assert len(list(complaints_about_test(text))) == 1


@pytest.mark.parametrize(
    "line",
    [
        *(f"index = {host}" for host in REGISTRY_HOSTS),
        "cd /" + "work/main",
        "'/" + "root'",
        "see /" + "home/corgi/notes",
    ],
)
def test_an_address_is_noticed(line: str) -> None:
    assert len(list(complaints_about_text(line))) == 1


@pytest.mark.parametrize("line", ["~/work/corgi", "teams/work", "/home/<user>", "/rooted", "GET /homes/1"])
def test_an_innocent_path_is_let_be(line: str) -> None:
    assert not list(complaints_about_text(line))


@pytest.mark.parametrize("line", ["rich==15.0.0\n", "rich>=15 \\\n    --hash=sha256:00\n", "--index-url somewhere\n"])
def test_a_loose_pin_is_noticed(line: str) -> None:
    assert len(list(complaints_about_pins(line))) == 1


def test_modules_say_what_they_are_for_and_stay_small() -> None:
    modules = sorted(SOURCE.rglob("*.py"))
    assert not [line for path in modules for line in told(path, complaints_about_module(text_of(path)))]


def test_tests_do_not_sleep() -> None:
    tests = sorted((ROOT / "tests").rglob("*.py"))
    assert Path(__file__) in tests
    assert not [line for path in tests for line in told(path, complaints_about_test(text_of(path)))]


def test_no_file_names_a_registry_or_a_machine() -> None:
    files = committed_files()
    assert ROOT / "pyproject.toml" in files
    assert not [line for path in files for line in told(path, complaints_about_text(text_of(path)))]


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_requirements_are_pinned_and_hashed(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert "==" in text
    assert not list(complaints_about_pins(text))


def test_users_get_the_versions_that_the_tests_ran_with() -> None:
    pin = re.compile(r"^[\w.-]+==\S+", re.MULTILINE)
    ours, theirs = ((ROOT / name).read_text() for name in ("requirements-dev.txt", "requirements.txt"))
    assert set(pin.findall(theirs)) <= set(pin.findall(ours))


def test_every_package_has_its_place_in_the_import_order() -> None:
    contracts = project()["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    placed = {name.removeprefix("corgi.") for layer in layers for name in re.findall(r"[\w.]+", layer)}
    packages = {path.parent.name for path in SOURCE.glob("[!_]*/*.py")}
    assert packages <= placed, "a package is missing from the layers in pyproject.toml"
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert not [name for name in sorted(placed) if f"`{name}`" not in guide], "CONTRIBUTING.md lacks a package"


def test_every_runtime_dependency_has_its_reason() -> None:
    names = [re.match(r"[\w.-]+", entry) for entry in project()["project"]["dependencies"]]
    reasons = (ROOT / "docs/adr/0000-dependencies.md").read_text(encoding="utf-8")
    assert not [name.group() for name in names if name and f"| `{name.group()}` |" not in reasons]


def test_every_decision_is_in_the_index() -> None:
    folder = ROOT / "docs" / "adr"
    index = (folder / "README.md").read_text(encoding="utf-8")
    assert not [path.name for path in sorted(folder.glob("[0-9]*.md")) if f"({path.name})" not in index]


def test_test_modules_have_names_of_their_own() -> None:
    """pytest imports them by their names alone: two of one name cannot be collected together."""
    counts = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in counts.items() if count > 1] == []
