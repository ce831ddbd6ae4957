"""Linters of what is neither Python nor a chart: images, compose, workflows, shell."""
