"""Workloads a newcomer can read and copy."""
