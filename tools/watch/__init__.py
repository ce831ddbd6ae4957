"""The terminal board: what a subscriber sees, while it sees it."""
