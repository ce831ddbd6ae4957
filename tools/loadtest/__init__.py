"""Many verifying subscribers on one gateway."""
