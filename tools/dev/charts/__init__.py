"""Checks and renders the Helm charts: `python -m tools.dev.charts [--write]`."""
