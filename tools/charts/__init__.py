"""Checks and renders the Helm charts: `python -m tools.charts [--write]`."""
