"""A NATS credentials file: who a service is by an operator's word, and its answer to a challenge.

nats-py reads such files with a package that is no wheel, and waits for ever for what a file lacks.
The file is read at each connection, so that a new one is used by the next.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.common.errors import PlatformError

_JWT = re.compile(r"-----BEGIN NATS USER JWT-----\s+([\w.=-]+)\s+-+END NATS USER JWT-+")
_SEED = re.compile(r"-----BEGIN USER NKEY SEED-----\s+([A-Z2-7]+)\s+-+END USER NKEY SEED-+")
# Two bytes that say "a seed, of a user", 32 of key, two of checksum.
_SEED_OF_A_USER = b"\x95\x00"
_SEED_BYTES = 36


class BadCredentials(PlatformError):
    """A file that cannot be used; the text names the file and never what stands in it."""


@dataclass(frozen=True, slots=True)
class NatsCredentials:
    """`jwt` names the user; the key signs."""

    jwt: bytes
    _key: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def read(cls, path: str) -> Self:
        """Read a file as `nsc generate creds` writes it.

        Raises:
            BadCredentials: it cannot be read, or lacks the user's JWT or seed.
        """
        try:
            text = Path(path).read_text(encoding="ascii")
        except OSError as error:
            raise BadCredentials(f"{path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise BadCredentials(f"{path}: not a credentials file") from error
        jwt, seed = _JWT.search(text), _SEED.search(text)
        if jwt is None or seed is None:
            missing = "a user's JWT" if jwt is None else "a user's seed"
            raise BadCredentials(f"{path}: expected {missing} in it")
        return cls(jwt[1].encode(), _key_of(seed[1], path))

    def options(self) -> dict[str, Any]:
        """As nats-py's `connect` takes them."""
        return {"user_jwt_cb": lambda: self.jwt, "signature_cb": self.sign}

    def sign(self, nonce: str) -> bytes:
        """The answer to a server's challenge, in base64."""
        return base64.b64encode(self._key.sign(nonce.encode()))


def _key_of(seed: str, path: str) -> Ed25519PrivateKey:
    try:
        raw = base64.b32decode(seed + "=" * (-len(seed) % 8))
    except binascii.Error:
        raw = b""
    body, checksum = raw[:-2], raw[-2:]
    whole = len(raw) == _SEED_BYTES and binascii.crc_hqx(body, 0) == int.from_bytes(
        checksum, "little"
    )
    # The low bits of the second byte belong to nothing.
    if not whole or raw[:1] + bytes((raw[1] & 0xF8,)) != _SEED_OF_A_USER:
        raise BadCredentials(f"{path}: its seed is not a user's")
    return Ed25519PrivateKey.from_private_bytes(body[2:])
