"""Parts of benchmarks/gpu.py: bases of random weights, training rows, the peer's script, the table of bars."""
