"""What every layer shares: ids, errors, limits, byte codecs and the ports of the core. Imports nothing of Corgi."""
