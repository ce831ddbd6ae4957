"""What the model keeps of what it acknowledged, and which scripts it takes."""

from __future__ import annotations

from typing import Any

import pytest

from services.common.stream.redis.logs import _TRIM
from services.common.stream.redis.store_script import _STORE
from tests.simulation.redis_model.answers import Refused
from tests.simulation.redis_model.engine import Engine, Session
from tests.simulation.redis_model.scripts import UnknownScript

NOW_US = 1_000_000


def ask(engine: Engine, *words: str, at_s: float = 1.0, session: Session | None = None) -> Any:
    encoded = [word.encode() for word in words]
    return engine.run(session or Session(), encoded, NOW_US, at_s)


def ids(engine: Engine, key: str = "s") -> list[bytes]:
    return [identity for identity, _fields in ask(engine, "XRANGE", key, "-", "+")]


@pytest.mark.parametrize("text", [_STORE, _TRIM])
def test_a_script_that_changed_is_not_taken_for_the_one_that_is_known(text: str) -> None:
    engine = Engine()
    ask(engine, "SCRIPT", "LOAD", text)
    for changed in (text + "\n", text.replace("return 0", "return 1").replace("-1", "-7")):
        for words in (("EVAL", changed, "3", "a", "b", "c", "d"), ("SCRIPT", "LOAD", changed)):
            with pytest.raises(UnknownScript):
                ask(engine, *words)


def test_a_script_is_known_by_its_sha_until_the_server_is_started_again() -> None:
    engine = Engine()
    sha = ask(engine, "SCRIPT", "LOAD", _TRIM).decode()
    assert ask(engine, "EVALSHA", sha, "3", "s", "marks", "trimmed", "5") == 0
    engine.restart()
    refused = ask(engine, "EVALSHA", sha, "3", "s", "marks", "trimmed", "5")
    assert isinstance(refused, Refused)
    assert refused.said.startswith("NOSCRIPT")


def test_what_was_written_after_a_time_is_gone_and_what_was_before_is_as_it_was() -> None:
    engine = Engine()
    ask(engine, "XGROUP", "CREATE", "s", "g", "0", "MKSTREAM", at_s=1)
    ask(engine, "XADD", "s", "1-0", "p", "a", at_s=2)
    ask(engine, "XREADGROUP", "GROUP", "g", "me", "STREAMS", "s", ">", at_s=3)
    before = ask(engine, "XINFO", "GROUPS", "s")
    ask(engine, "XADD", "s", "2-0", "p", "b", at_s=4)
    ask(engine, "XACK", "s", "g", "1-0", at_s=4)
    ask(engine, "SET", "other", "x", at_s=4)
    engine.keep_until(3.5)
    assert ids(engine) == [b"1-0"]
    assert ask(engine, "XPENDING", "s", "g")[0] == 1
    assert ask(engine, "EXISTS", "other") == 0
    (group,) = before
    (now,) = ask(engine, "XINFO", "GROUPS", "s")
    assert now == group
    # The place in the order is free again.
    assert ask(engine, "XADD", "s", "2-0", "p", "c", at_s=5) == b"2-0"
    engine.keep_until(5)
    assert ids(engine) == [b"1-0", b"2-0"]


def test_a_transaction_and_a_script_are_kept_or_lost_as_a_whole() -> None:
    engine, session = Engine(), Session()
    ask(engine, "MULTI", session=session, at_s=1)
    for n in (1, 2, 3):
        ask(engine, "XADD", "s", f"{n}-0", "p", "a", session=session, at_s=1 + n)
    assert ids(engine) == []
    assert len(ask(engine, "EXEC", session=session, at_s=9)) == 3
    engine.keep_until(8.9)
    assert ids(engine) == []


def test_what_a_script_did_while_memory_was_full_is_what_comes_back() -> None:
    engine = Engine()
    ask(engine, "SET", "epoch", "7")
    keys = ("epoch", "registry", "trimmed", "s")
    full = ("7", "1", "0", "0", "4", "1-0", "a", "")
    ask(engine, "XADD", "registry", "1-0", "s", "x")
    engine.config[b"maxmemory"] = b"1"
    assert ask(engine, "EVAL", _STORE, "4", *keys, *full)[:2] == [-2, 0]
    engine.config[b"maxmemory"] = b"0"
    engine.keep_until(0.5)
    assert engine.database.values == {}
    ask(engine, "SET", "epoch", "7")
    ask(engine, "XADD", "registry", "1-0", "s", "x")
    assert ask(engine, "EVAL", _STORE, "4", *keys, *full) == 0
    engine.keep_until(1.0)
    assert ids(engine) == [b"1-0"]


def test_a_full_server_that_evicts_deletes_and_a_loading_one_answers_nothing() -> None:
    engine = Engine()
    ask(engine, "SET", "a", "x")
    engine.config |= {b"maxmemory": b"1000010", b"maxmemory-policy": b"allkeys-lru"}
    ask(engine, "XADD", "s", "1-0", "p", "a" * 100)
    assert ask(engine, "PING") == b"PONG"
    assert ask(engine, "KEYS", "*") == []
    engine.loading = True
    assert ask(engine, "PING").said.startswith("LOADING")
    engine.loading = False
    engine.keep_until(1.0)
    assert ask(engine, "KEYS", "*") == []
