"""The composition root: configuration, assembling, signals, logs, and clusters of local processes."""
