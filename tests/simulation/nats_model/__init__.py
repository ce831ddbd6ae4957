"""A nats-server with JetStream, as far as an adapter can tell it from the real one.

`stream` and `consumer` decide and are pure, `api` answers JetStream's requests, `wire` and `server`
speak the protocol over whatever connections asyncio's loop gives. `cluster` makes three of
them one, and `replication` is the log of each of its streams. One and three pass the conformance
suite that the real server passes; one answers as the real one does, field by field.
"""
