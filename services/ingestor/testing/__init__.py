"""Parts for tests of the ingestor: a log that can refuse, and a running ingestor."""

from services.ingestor.testing.books import folded
from services.ingestor.testing.log import Counts, RawLog
from services.ingestor.testing.rig import eventually, raw_records, running

__all__ = ["Counts", "RawLog", "eventually", "folded", "raw_records", "running"]
