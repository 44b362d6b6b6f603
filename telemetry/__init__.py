"""What every process says about itself while it works: structured logs and, where configured, traces."""
