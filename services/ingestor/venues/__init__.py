"""One adapter per venue; the rest of the ingestor knows only `base`."""
