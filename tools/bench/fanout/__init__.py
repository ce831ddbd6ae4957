"""Fan-out to many WebSockets, beside the limit and the usual ways."""
