"""One node, still pure: it joins consensus, log, state machine and delivery, and does no I/O."""
