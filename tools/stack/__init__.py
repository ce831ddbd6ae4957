"""The whole platform on this machine: embedded servers, an exchange, the four services."""

from tools.stack.options import StackOptions
from tools.stack.stack import Stack

__all__ = ["Stack", "StackOptions"]
