"""Check offline what Expunge has signed. Needs only `cryptography`."""
