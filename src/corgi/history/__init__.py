"""What clients of a broker did and saw, and the checks over it; the broker may be simulated, real or foreign."""
