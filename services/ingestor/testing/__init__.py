"""Parts for tests of the ingestor: a log that can refuse, and a running ingestor."""

from services.common.testing.waiting import eventually
from services.ingestor.testing.rig import check_books, folded, raw_records, running, true_book
from services.ingestor.testing.streams import Counts, RawLog

__all__ = [
    "Counts",
    "RawLog",
    "check_books",
    "eventually",
    "folded",
    "raw_records",
    "running",
    "true_book",
]
