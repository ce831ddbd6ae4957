"""Dashboards, rules and tables that are made from code, and the run that proves them."""
