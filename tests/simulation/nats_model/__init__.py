"""A nats-server with JetStream, as far as an adapter can tell it from the real one.

`stream` and `consumer` decide and are pure, `api` answers JetStream's requests, `wire` and `server`
speak the protocol over whatever connections asyncio's loop gives. It passes the conformance suite
that the real server passes.
"""
