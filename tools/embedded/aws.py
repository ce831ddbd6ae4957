"""The DynamoDB and S3 APIs by moto's server, and the variables that point a client at it."""

from __future__ import annotations

import sys
from typing import Self

import httpx

from tools.embedded.process import EmbeddedServer, ServerFailed

# What a signature says of its request, which is all that moto chooses an API by.
_SIGNED_FOR = "AWS4-HMAC-SHA256 Credential=local/20260101/us-east-1/{api}/aws4_request"
_FIRST_ANSWER_S = 60.0


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

    async def start(self) -> Self:
        """Start it and return once both APIs answer.

        moto loads an API at its first request, which may then take longer than a client waits.

        Raises:
            ServerFailed: it ended or did not answer.
        """
        await super().start()
        try:
            async with httpx.AsyncClient(timeout=_FIRST_ANSWER_S, trust_env=False) as client:
                for api, method, target in (
                    ("dynamodb", "POST", "DynamoDB_20120810.ListTables"),
                    ("s3", "GET", ""),
                ):
                    answer = await client.request(
                        method,
                        self.url,
                        headers={
                            "Authorization": _SIGNED_FOR.format(api=api),
                            "X-Amz-Target": target,
                        },
                        content="{}" if target else None,
                    )
                    answer.raise_for_status()
        except httpx.HTTPError as error:
            await self.kill()
            raise ServerFailed(self.name, f"did not answer: {error!r}", self.log_tail()) from error
        return self

    def command(self) -> list[str]:
        return [
            sys.executable,
            "-c",
            "from moto.server import main; main()",
            *("-H", self.host),
            *("-p", str(self.port)),
        ]
