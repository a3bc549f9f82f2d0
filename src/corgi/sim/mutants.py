"""Ways to break a cluster that the simulator must notice."""

from __future__ import annotations

MUTANTS: dict[str, object] = {}
