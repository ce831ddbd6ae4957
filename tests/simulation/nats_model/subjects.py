"""Subjects and the patterns that subscribe to them (docs.nats.io, "Subject-Based Messaging")."""

from __future__ import annotations

from functools import lru_cache


@lru_cache(maxsize=65_536)
def matches(pattern: str, subject: str) -> bool:
    """Whether a pattern (`*` for one token, `>` for the rest) takes a subject."""
    if pattern == subject:
        return True
    wanted, tokens = pattern.split("."), subject.split(".")
    for at, token in enumerate(wanted):
        if token == ">":
            return len(tokens) > at
        if at >= len(tokens) or token not in ("*", tokens[at]):
            return False
    return len(wanted) == len(tokens)
