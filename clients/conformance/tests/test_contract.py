"""What the gateway takes and sends, both SDKs know: a change of the one names the others here."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path
from typing import get_args

import market_data_fanout_client as sdk
import pytest
from market_data_fanout_client.messages import Channel

from services.common import models
from services.common.subjects import CHANNELS
from services.gateway.http.messages import (
    SERVER_MESSAGES,
    BackfillMessage,
    ErrorBody,
    PositionWarning,
)
from services.gateway.protocol import COMMANDS

CLIENTS = Path(__file__).resolve().parents[2]
PYTHON = CLIENTS / "python" / "src" / "market_data_fanout_client"
JS = CLIENTS / "js" / "src"
DECLARED = (JS / "index.d.ts").read_text()
# Answers to what neither SDK sends, or that say nothing its user does not know.
UNHANDLED = {"auth", "pong", "unsubscribed"}
# What a client sets by itself, or says in other words.
OF_THE_CLIENT = {"type", "id", "product", "products", "channels", "cursor", "batch"}
# What a record holds for the platform's own readers.
INTERNAL = {"type", "v", "shard", "prev_sub"}


def declared(interface: str) -> set[str]:
    """The members that index.d.ts gives an interface."""
    found = re.search(
        rf"interface {interface}\b.*?\{{\n(.*?)^\}}", DECLARED, re.DOTALL | re.MULTILINE
    )
    assert found is not None
    return set(re.findall(r"^  (\w+)\??:", found[1], re.MULTILINE))


def camel(name: str) -> str:
    return re.sub(r"_(\w)", lambda found: found[1].upper(), name)


def test_both_sdks_know_every_channel() -> None:
    assert get_args(Channel) == CHANNELS
    (union,) = re.findall(r"^export type Channel = (.*);$", DECLARED, re.MULTILINE)
    assert tuple(re.findall(r'"(\w+)"', union)) == CHANNELS


def test_both_sdks_offer_every_option_of_a_subscription() -> None:
    options = COMMANDS["subscribe"].model_fields.keys() - OF_THE_CLIENT
    offered = inspect.signature(sdk.Client.subscribe).parameters.keys() - {"self", "products"}
    assert offered == options
    assert declared("SubscribeOptions") == {camel(option) for option in options}


@pytest.mark.parametrize("protocol", [PYTHON / "protocol.py", JS / "protocol.js"], ids=["py", "js"])
def test_both_sdks_handle_every_message(protocol: Path) -> None:
    kinds = {str(model.model_fields["type"].annotation).split("'")[1] for model in SERVER_MESSAGES}
    source = protocol.read_text()
    handled = {kind for kind in kinds if re.search(rf'(?:\b_on_|")({kind})\b', source)}
    assert handled == kinds - UNHANDLED


def test_both_sdks_hand_out_all_that_a_late_record_says() -> None:
    # Its own place in the log and when it was received: no position that a client could hold.
    late = models.Late.model_fields.keys() - INTERNAL - {"seq", "sub", "ts_ingest"}
    assert {field.name for field in fields(sdk.Late)} == late
    assert declared("LateEvent") - {"type"} == late - {"venue", "channel", "product"}


def test_both_sdks_hand_out_all_that_a_backfill_says() -> None:
    names = {"venue", "channel", "product"}
    # `first` and `last` in Python, where `from` is a word of the language.
    said = BackfillMessage.model_fields.keys() - {"type", "stream", "from_", "to"}
    assert {field.name for field in fields(sdk.Backfill)} == said | {"first", "last"}
    assert declared("BackfillEvent") - {"type"} == (said | {"from", "to"}) - names
    warning = PositionWarning.model_fields.keys() - ErrorBody.model_fields.keys()
    assert declared("PositionWarning") == warning | {"retry_after_ms"}


def test_both_sdks_hand_out_all_that_a_tick_says() -> None:
    tick = models.Tick.model_fields.keys() - INTERNAL
    assert {field.name for field in fields(sdk.Tick)} == tick | {"merged"}
    assert {field.name for field in fields(sdk.Fields)} == models.Fields.model_fields.keys()
    names = {"venue", "channel", "product"}
    assert declared("TickEvent") - {"type"} == (tick | {"merged"}) - names
    assert declared("Fields") == models.Fields.model_fields.keys()
