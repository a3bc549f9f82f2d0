"""Kafka's protocol as a second front door: sessions without I/O that put a client's requests to the node as its own."""
