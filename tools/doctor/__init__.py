"""Checks a configuration before, or while, something does not work."""
