"""The client without I/O: routing, batching, retries, positions. The simulator runs it as the shell does.

Facts come in as method calls, requests go out through the ports of ``links``; time comes from a clock, and
the next deadline is an output. Nothing here blocks, sleeps or knows of sockets.
"""
