"""The shared write-ahead log as formats and plans: what to write where, and what a scan of it says. Does no I/O."""
