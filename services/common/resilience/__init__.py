"""How callers treat a dependency that fails or is asked too much. Pure: the caller brings the time.

backoff.py          how long to wait before the next attempt
token_bucket.py     a rate with a burst: requests, commands, log lines
circuit_breaker.py  stop asking who does not answer, and probe carefully
"""
