"""Fuzz one target, guided by coverage: ``python tests/fuzz/fuzz_with_atheris.py TARGET [folder…] [-option=value…]``.

Needs atheris, which is no dependency of the project: install it beside. Folders are corpora as libFuzzer knows them,
the first one takes new inputs; without one only ``corpus/TARGET`` is read. Options are libFuzzer's, such as
``-max_total_time=60``. An input that breaks the target is written as ``crash-…`` into the current folder: give it a
name and put it into ``corpus/TARGET``, where the tests try it for ever.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))


def main(words: list[str]) -> int:
    """The exit code, when there is nothing to fuzz; otherwise libFuzzer ends the process."""
    try:
        import atheris
    except ImportError:
        sys.stderr.write("atheris is not installed here\nhint: pip install atheris\n")
        return 2
    with atheris.instrument_imports(include=["corgi"], enable_loader_override=False):
        from fuzz.targets import TARGETS, probe
    if not words or words[0] not in TARGETS:
        sys.stderr.write(f"a target is one of {', '.join(TARGETS)}\n")
        return 2
    target = TARGETS[words[0]]
    with tempfile.TemporaryDirectory() as scratch:
        for number, sample in enumerate(target.samples()):
            (Path(scratch) / f"sample-{number}").write_bytes(sample)
        folders = [word for word in words[1:] if not word.startswith("-")]
        kept = [str(HERE / "corpus" / target.name)] if not folders else []
        found = Path(scratch) / "found"
        found.mkdir()
        atheris.Setup([sys.argv[0], *(words[1:]), *([str(found)] if not folders else []), *kept, scratch],
                      lambda data: probe(target, data))  # fmt: skip
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
