"""The whole platform on this machine: embedded servers, an exchange, the four services."""

from tools.stack.options import StackOptions
from tools.stack.process import ChildDied, NotReady
from tools.stack.stack import Stack

__all__ = ["ChildDied", "NotReady", "Stack", "StackOptions"]
