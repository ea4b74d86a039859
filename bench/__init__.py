"""The benchmarks: what masks cost, beside their yardstick and their peers, answers checked."""
