"""Connectors: other systems that a served model version is handed over to. `connectors.configuration` says what one is."""
