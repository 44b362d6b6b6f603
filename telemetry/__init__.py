"""What every process reports while it works: logs and, if configured, traces."""
