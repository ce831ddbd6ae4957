"""Credentials files of NATS; a server believes them in tests/deployment/test_least_privilege.py."""

from __future__ import annotations

import asyncio
import base64
import binascii
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from services.common.errors import BrokerUnavailable
from services.common.network.nats_credentials import BadCredentials, NatsCredentials
from services.common.stream.nats.link import Link, NatsOptions
from tools.embedded import NatsServer

# From NATS's own documents: the seed of a user, and the user's name.
SEED = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"
NAME = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"
JWT = "eyJ0eXAiOiJKV1QifQ.eyJuYW1lIjoiYSJ9.c2ln-_"


def file_of(jwt: str = JWT, seed: str = SEED) -> str:
    return (
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        "************************* IMPORTANT *************************\n"
        "NKEY Seed printed below can be used to sign and prove identity.\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )


def test_a_challenge_is_signed_by_the_user_whose_seed_it_is(tmp_path: Path) -> None:
    path = tmp_path / "nats.creds"
    path.write_text(file_of())
    found = NatsCredentials.read(str(path))
    assert found.jwt == JWT.encode()
    name = base64.b32decode(NAME)
    assert binascii.crc_hqx(name[:-2], 0) == int.from_bytes(name[-2:], "little")
    signature = base64.b64decode(found.sign("nonce"))
    Ed25519PublicKey.from_public_bytes(name[1:-2]).verify(signature, b"nonce")
    assert SEED not in repr(found)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "expected a user's JWT"),
        ("-----BEGIN NATS USER JWT-----\n", "expected a user's JWT"),
        (file_of().partition("*")[0], "expected a user's seed"),
        (file_of(seed=SEED[:-1] + "A"), "its seed is not a user's"),
        (file_of(seed=SEED[:-8]), "its seed is not a user's"),
        (file_of(seed="SA" + SEED[2:]), "its seed is not a user's"),
        ("\xe9" + file_of(), "not a credentials file"),
    ],
)
async def test_a_file_that_cannot_be_used_is_named_and_its_secret_is_not(
    content: str, said: str, tmp_path: Path, nats_server: NatsServer
) -> None:
    path = tmp_path / "nats.creds"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(BadCredentials, match=said) as caught:
        NatsCredentials.read(str(path))
    assert str(path) in str(caught.value)
    assert SEED[:20] not in str(caught.value)
    # Where nats-py would read on for ever.
    link = Link(NatsOptions((nats_server.url,), creds_file=str(path)), "test")
    async with asyncio.timeout(30):
        with pytest.raises(BrokerUnavailable, match=said):
            await link._connect()


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadCredentials, match="nowhere: No such file"):
        NatsCredentials.read(str(tmp_path / "nowhere"))
