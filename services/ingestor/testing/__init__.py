"""Parts for tests of the ingestor: a log that can refuse, and a running ingestor."""

from services.common.testing.waiting import eventually
from services.ingestor.testing.books import check_books, folded, true_book
from services.ingestor.testing.log import Counts, RawLog
from services.ingestor.testing.rig import raw_records, running

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
