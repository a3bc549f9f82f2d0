"""Corgi: a distributed message broker, Paxos-replicated and always writable.

This is the public face of the Python SDK; everything a program needs is imported from here.
"""

__version__ = "0.1.0"
