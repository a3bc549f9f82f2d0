"""Any other exception of our own code as the fault that it is."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path

from corgi.base.errors import InvariantError

logger = logging.getLogger("corgi.node")


def fault_of(error: Exception) -> InvariantError:
    """Any other exception of the node as what it is, with its place, for people; the rest goes to the debug log."""
    logger.debug("the fault in full", exc_info=error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    return InvariantError(f"{type(error).__name__} at {place}: {error}")
