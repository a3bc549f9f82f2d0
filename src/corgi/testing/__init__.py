"""What users need in their own tests: a broker in the process, and pytest fixtures for it."""
