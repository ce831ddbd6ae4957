"""Real servers for the local stack and the tests, each a child process on a free port."""

from tools.embedded.aws import AwsServer
from tools.embedded.nats import NatsLeaf, NatsServer
from tools.embedded.ports import free_port, is_free
from tools.embedded.process import ChildDied, ChildProcess, EmbeddedServer, ServerFailed
from tools.embedded.valkey import ValkeyServer

__all__ = [
    "AwsServer",
    "ChildDied",
    "ChildProcess",
    "EmbeddedServer",
    "NatsLeaf",
    "NatsServer",
    "ServerFailed",
    "ValkeyServer",
    "free_port",
    "is_free",
]
