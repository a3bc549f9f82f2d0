"""The load harness: what Corgi reaches, measured from outside, through the public SDK. Nothing below may import it."""
