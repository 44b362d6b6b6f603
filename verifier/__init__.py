"""Checks, offline and with `cryptography` alone, what Expunge has signed."""
