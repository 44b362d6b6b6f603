"""The console: a few server-rendered pages for people who would rather look than call the API. It changes nothing."""
