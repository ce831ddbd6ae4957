"""A Valkey, as far as the adapter and redis-py can tell it from the real one.

`stream`, `group` and `database` hold; `keys`, `streams` and `groups` answer commands; `scripts`
means what the adapter's scripts mean; `engine` decides what is refused and what a lost disk or a
late replica keeps. All of these are pure; `wire` and `server` speak the protocol over whatever
connections asyncio's loop gives. It passes the conformance suite that the real server passes.
"""
