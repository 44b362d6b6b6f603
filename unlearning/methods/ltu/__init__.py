"""Learning to Unlearn (Huang, Foo, Liu, ECCV 2024, arXiv 2407.10494)."""
