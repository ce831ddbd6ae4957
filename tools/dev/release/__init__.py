"""A release beside its images: one version everywhere, a chart with their digests."""
