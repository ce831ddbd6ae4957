"""What the services share. Knows none of them."""
