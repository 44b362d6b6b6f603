"""The console: pages for people in a browser, rendered by the service. It only reads."""
