"""The server's sockets, files, clocks and tasks: the only ones it has. Drives the pure node, decides nothing for it."""
