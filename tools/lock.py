"""Write requirements.txt and requirements-dev.txt: every version pinned, each file hashed, for all platforms.

Pins that still fit are kept; `--upgrade` takes the newest versions. The resolver is installed with pip into a
temporary environment. The files name no address: they install from whatever index the reader's pip is set up
for.
"""

import argparse
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESOLVER = "uv"
OLDEST_PYTHON = "3.11"
HEADER = """\
# {about}
# Written by tools/lock.py from pyproject.toml; do not edit.
"""


def main() -> int:
    """Resolve once for developers, then for users with the versions that the developers test."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that fit")
    upgrade: bool = parser.parse_args().upgrade
    runtime, developer = ROOT / "requirements.txt", ROOT / "requirements-dev.txt"
    with tempfile.TemporaryDirectory() as scratch:
        resolver = _install_resolver(Path(scratch))
        old = None if upgrade else developer
        pins = _resolve(resolver, Path(scratch) / "developer.txt", ["--extra", "dev"], keep=old)
        developer.write_text(HEADER.format(about="What it takes to run, test and build Corgi.") + pins)
        pins = _resolve(resolver, Path(scratch) / "runtime.txt", [], keep=developer)
        runtime.write_text(HEADER.format(about="What it takes to run Corgi.") + pins)
    return 0


def _install_resolver(folder: Path) -> Path:
    venv.create(folder / "venv", with_pip=True)
    binaries = folder / "venv" / "bin"
    subprocess.run([binaries / "python", "-m", "pip", "install", "--quiet", RESOLVER], check=True)
    return binaries / RESOLVER


def _resolve(resolver: Path, output: Path, options: list[str], *, keep: Path | None) -> str:
    # The resolver prefers the versions that it finds in the file it is about to write.
    if keep is not None and keep.exists():
        output.write_text(keep.read_text())
    command: list[str | Path] = [
        resolver,
        "pip",
        "compile",
        "pyproject.toml",
        "--universal",
        "--python-version",
        OLDEST_PYTHON,
    ]
    command += ["--generate-hashes", "--no-header", "--no-emit-index-url", "--no-emit-find-links", "--quiet"]
    subprocess.run([*command, *options, "--output-file", output], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    pins = output.read_text()
    if "://" in pins or any(line.startswith("-") for line in pins.splitlines()):
        raise SystemExit("the resolved requirements name an address; nothing may")
    return pins


if __name__ == "__main__":
    sys.exit(main())
