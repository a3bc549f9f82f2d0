"""The replicated state machine: what a group's chosen values mean. Reads the values and nothing else."""
