"""A process of a run's own that obeys: each command is a line of JSON, answered with a line. It ends with this one."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Mapping

from corgi.base.errors import CorgiError

STOP_S = 3.0


class Commanded:
    """``python -m MODULE ARGUMENT``; what it writes first is ``greeting``."""

    def __init__(self, module: str, argument: object) -> None:
        """Raises CorgiError "closed" for a process that ends without a word."""
        self._module = module
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(argument)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            self.greeting: object = json.loads(self._line())
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, command: Mapping[str, object]) -> None:
        """Returns when it is done. Raises CorgiError "closed" when the process has ended."""
        assert self._process.stdin is not None
        with self._lock:
            try:
                self._process.stdin.write(json.dumps(command) + "\n")
                self._process.stdin.flush()
            except OSError:
                raise self._ended() from None
            self._line()

    def close(self) -> None:
        """End the process; safe to call twice."""
        process = self._process
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        return line

    def _ended(self) -> CorgiError:
        return CorgiError("closed", f"the process of {self._module} has ended")
