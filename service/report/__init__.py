"""The audit report: one content in three forms, JSON, HTML and PDF."""
