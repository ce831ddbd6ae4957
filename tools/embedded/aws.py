"""The DynamoDB and S3 APIs by moto's server, and the variables that point a client at it."""

from __future__ import annotations

import sys

from tools.embedded.process import EmbeddedServer


class AwsServer(EmbeddedServer):
    """Keeps everything in memory: `kill` and `start` bring it back empty."""

    name = "aws"

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """For a child process that uses this server by the default credential chain."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def command(self) -> list[str]:
        return [
            sys.executable,
            "-c",
            "from moto.server import main; main()",
            *("-H", self.host),
            *("-p", str(self.port)),
        ]
