"""Example workloads to read and copy."""
