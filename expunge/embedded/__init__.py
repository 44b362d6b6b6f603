"""The embedded stack: PostgreSQL, a Redis-protocol server, the API, a worker and the beat on one machine."""
