"""From applied batches to waiting consumers: pushes, credit, long polls, fairness. Sees logs and values, no cluster."""
