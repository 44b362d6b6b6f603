"""The demonstration: two deletion requests, from the training of a model to the reports, measured as it runs."""
