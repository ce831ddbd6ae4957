"""Does a client keep the rule? A scripted gateway, golden transcripts, and a line that breaks."""
