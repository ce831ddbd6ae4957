"""What clients may ask of the gateway is counted in token buckets. Pure."""

from __future__ import annotations

from services.common.resilience.token_bucket import TokenBucket

__all__ = ["TokenBucket"]
