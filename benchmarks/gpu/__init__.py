"""Everything at full size on one GPU, in one command: `python -m benchmarks.gpu` (docs/gpu.md)."""
