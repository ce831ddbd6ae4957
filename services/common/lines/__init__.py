"""Several processes of one service with the same work, called lines, of which one does it."""
