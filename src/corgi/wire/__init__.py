"""The native protocol without I/O: frames, messages and sessions. Bytes in, requests out; replies in, bytes out."""
