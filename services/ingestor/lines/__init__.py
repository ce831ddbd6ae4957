"""Several ingestors of the same products, called lines, of which one writes the raw log."""
