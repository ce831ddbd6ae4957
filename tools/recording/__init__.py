"""Recordings of a venue's feed as public recorders write them: files to lines, lines to frames."""

from tools.recording.files import Recording, Unreadable
from tools.recording.lines import Connected, Framed, LeftOut, Line, read_line

__all__ = ["Connected", "Framed", "LeftOut", "Line", "Recording", "Unreadable", "read_line"]
