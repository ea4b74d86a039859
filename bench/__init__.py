"""The benchmarks: every claim of speed beside its yardstick and its peers, answers checked."""
