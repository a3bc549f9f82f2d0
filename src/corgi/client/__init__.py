"""The Python SDK: a pure core, an asyncio shell around it, and a synchronous face over that.

Programs import from ``corgi`` itself; the modules here may move.
"""
