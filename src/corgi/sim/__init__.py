"""A cluster in one thread, in virtual time, from a seed: the real nodes between simulated links, disks and clients."""
