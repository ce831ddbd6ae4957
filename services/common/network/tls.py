"""Certificates of a connection that this platform opens: whom it believes, and what it shows."""

from __future__ import annotations

import ssl
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files by path; with none, the system's authorities are believed and nothing is shown.

    Attributes:
        ca: certificates of the authorities that are believed, and no others.
        cert, key: shown to a server that asks for a client certificate.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    def __bool__(self) -> bool:
        return bool(self.ca or self.cert or self.key)

    def context(self) -> ssl.SSLContext:
        """Read the files; once for each connection, so that renewed ones are used by the next.

        Raises:
            OSError: one cannot be read, or holds no certificate or key (`ssl.SSLError`).
        """
        context = ssl.create_default_context(cafile=self.ca)
        if self.cert is not None:
            context.load_cert_chain(self.cert, self.key)
        return context

    def problem(self) -> str | None:
        """What is wrong with the files, for the operator; None: they can be used."""
        for path in (self.ca, self.cert, self.key):
            if path is not None:
                try:
                    with open(path, "rb"):
                        pass
                except OSError as error:
                    return f"{path}: {error.strerror}"
        try:
            self.context()
        except OSError as error:
            paths = ", ".join(path for path in (self.ca, self.cert, self.key) if path)
            return f"{paths}: {error.args[-1]}"
        return None


NO_TLS_FILES = TlsFiles()
