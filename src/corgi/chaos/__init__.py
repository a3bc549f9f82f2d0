"""Real processes under real faults: a cluster, a workload with a recorded history, a seeded schedule, and verdicts."""
