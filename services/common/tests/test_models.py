"""`wire.py` and `models.py` describe the same records: whatever one writes the other reads."""

from __future__ import annotations

import json
import types
import typing
from typing import Any

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common import models, wire

PAIRS: list[tuple[type[msgspec.Struct], type[pydantic.BaseModel]]] = [
    (getattr(wire, name), getattr(models, name))
    for name in (
        "RawRecord",
        "Missed",
        "OpenGap",
        "ResyncBody",
        "GapBody",
        "StatusBody",
        "LateBody",
        "PulseBody",
        "Trade",
        "Level",
        "Stats24h",
        "Fields",
        "Tick",
        "Reset",
        "Status",
        "Late",
        "Pulse",
        "Snapshot",
        "Parked",
    )
]

DECIMALS = st.from_regex(r"[0-9]{1,12}(\.[0-9]{1,8})?", fullmatch=True)
INTS = st.integers(0, 2**63 - 1)
TEXT = st.text(st.characters(codec="utf-8"), max_size=10)
SIDES = st.sampled_from(["buy", "sell"])
ROWS = st.lists(st.tuples(DECIMALS, DECIMALS), max_size=3)
JSON_OBJECT = st.dictionaries(TEXT, TEXT | INTS | st.none(), max_size=3)


def raw(values: st.SearchStrategy[Any]) -> st.SearchStrategy[msgspec.Raw]:
    return values.map(wire.to_raw)


def optional(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


MISSED = st.builds(wire.Missed, INTS, INTS, optional(INTS))
RANGES = st.lists(MISSED, max_size=2)
OPEN_GAPS = st.builds(wire.OpenGap, MISSED, INTS, optional(RANGES))
TRADES = st.builds(wire.Trade, DECIMALS, DECIMALS, optional(SIDES), INTS, INTS)
LEVELS = st.builds(wire.Level, DECIMALS, optional(DECIMALS))
STATS = st.builds(wire.Stats24h, *[optional(DECIMALS)] * 4)
FIELDS = st.builds(
    wire.Fields,
    optional(TRADES),
    optional(LEVELS),
    optional(LEVELS),
    optional(STATS),
    optional(DECIMALS),
    optional(st.lists(st.tuples(SIDES, DECIMALS, DECIMALS), max_size=3)),
)
KEY = (TEXT, TEXT, TEXT)
REPAIRS = st.sampled_from(typing.get_args(wire.Repair))
STATES = st.sampled_from(typing.get_args(wire.StreamState))
KINDS = st.sampled_from(typing.get_args(wire.RawKind))
ONE = st.just(1)

TICKS = st.builds(
    wire.Tick,
    *(ONE, *KEY, INTS, INTS, INTS, optional(INTS), optional(INTS), INTS, INTS, FIELDS),
)

RECORDS: dict[type[msgspec.Struct], st.SearchStrategy[Any]] = {
    wire.RawRecord: st.builds(
        wire.RawRecord,
        *(ONE, KINDS, *KEY, INTS, INTS, INTS, optional(INTS), INTS, TEXT),
        raw(JSON_OBJECT),
        optional(INTS),
        optional(st.lists(st.tuples(SIDES, DECIMALS, DECIMALS), max_size=3)),
        optional(st.lists(OPEN_GAPS, max_size=2)),
        optional(st.tuples(INTS, INTS)),
    ),
    wire.Missed: MISSED,
    wire.OpenGap: OPEN_GAPS,
    wire.ResyncBody: st.builds(wire.ResyncBody, TEXT, REPAIRS, raw(JSON_OBJECT), optional(MISSED)),
    wire.GapBody: st.builds(wire.GapBody, TEXT, MISSED, optional(raw(JSON_OBJECT))),
    wire.StatusBody: st.builds(wire.StatusBody, STATES, INTS, TEXT),
    wire.LateBody: st.builds(
        wire.LateBody, MISSED, st.lists(raw(JSON_OBJECT), max_size=2), RANGES, RANGES, TEXT
    ),
    wire.PulseBody: st.builds(wire.PulseBody, st.lists(TEXT, max_size=3)),
    wire.Trade: TRADES,
    wire.Level: LEVELS,
    wire.Stats24h: STATS,
    wire.Fields: FIELDS,
    wire.Tick: TICKS,
    wire.Reset: st.builds(
        wire.Reset,
        *(ONE, *KEY, INTS, INTS, INTS, optional(INTS), INTS, INTS, TEXT, REPAIRS),
        optional(MISSED),
        optional(raw(JSON_OBJECT)),
    ),
    wire.Status: st.builds(
        wire.Status, *(ONE, *KEY, INTS, INTS, INTS, INTS, STATES, INTS, TEXT, INTS)
    ),
    wire.Late: st.builds(
        wire.Late,
        *(ONE, *KEY, INTS, INTS, INTS, INTS, MISSED, st.lists(TICKS, max_size=2)),
        *(RANGES, RANGES, TEXT, INTS),
    ),
    wire.Pulse: st.builds(wire.Pulse, ONE, TEXT, TEXT, INTS, INTS, st.lists(TEXT, max_size=3)),
    wire.Snapshot: st.builds(wire.Snapshot, *(ONE, *KEY, INTS, INTS, INTS, INTS), raw(JSON_OBJECT)),
    wire.Parked: st.builds(wire.Parked, ONE, TEXT, TEXT, TEXT, INTS, TEXT),
}

WITH_STRATEGY = pytest.mark.parametrize(("struct", "model"), PAIRS, ids=lambda kind: kind.__name__)


def test_every_record_of_the_wire_has_a_model() -> None:
    structs = {
        kind
        for kind in vars(wire).values()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct)
    }
    # These two are part of others: the head for reading only, the other to begin them with.
    assert structs - {wire.Head, wire.Positioned} == {struct for struct, _ in PAIRS} == set(RECORDS)


@WITH_STRATEGY
@given(data=st.data())
def test_what_the_wire_writes_the_model_reads_and_writes_the_same(
    struct: type[msgspec.Struct], model: type[pydantic.BaseModel], data: st.DataObject
) -> None:
    written = wire.encode(data.draw(RECORDS[struct]))
    read = model.model_validate_json(written)
    again = read.model_dump_json(by_alias=True, exclude_unset=True)
    assert json.loads(again) == json.loads(written)


@WITH_STRATEGY
@given(data=st.data())
def test_what_the_model_writes_the_wire_reads_and_writes_the_same(
    struct: type[msgspec.Struct], model: type[pydantic.BaseModel], data: st.DataObject
) -> None:
    value = model.model_validate_json(wire.encode(data.draw(RECORDS[struct])))
    # A model writes its absent optional fields as null, which every reader must take.
    written = value.model_dump_json(by_alias=True)
    read = msgspec.json.decode(written, type=struct)
    again = model.model_validate_json(wire.encode(read))
    assert again == value


def nullable(annotation: Any) -> bool:
    if isinstance(annotation, typing.TypeAliasType):
        return nullable(annotation.__value__)
    if typing.get_origin(annotation) is typing.Annotated:
        return nullable(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return any(nullable(member) for member in typing.get_args(annotation))
    return annotation is type(None)


@WITH_STRATEGY
def test_both_have_the_same_fields_required_and_nullable_alike(
    struct: type[msgspec.Struct], model: type[pydantic.BaseModel]
) -> None:
    on_wire = {
        field.encode_name: (field.required, nullable(field.type) or field.default is None)
        for field in msgspec.structs.fields(struct)
    }
    in_model = {
        (field.alias or name): (field.is_required(), nullable(field.annotation))
        for name, field in model.model_fields.items()
    }
    # These two a model fills in for its writer; on the wire they always stand.
    tag = struct.__struct_config__.tag
    if tag is not None:
        assert model.model_fields["type"].default == tag
        del in_model["type"]
    if "v" in on_wire:
        assert model.model_fields["v"].default == wire.RECORD_VERSION
        on_wire["v"] = in_model["v"] = (True, False)
    if struct not in (wire.Reset, wire.RawRecord, wire.GapBody):
        # `Raw` fields take any JSON in both, null too.
        assert on_wire == in_model
    else:
        assert on_wire.keys() == in_model.keys()
        assert {k: v[0] for k, v in on_wire.items()} == {k: v[0] for k, v in in_model.items()}


@given(st.one_of(RECORDS[wire.Tick], RECORDS[wire.Reset], RECORDS[wire.Status], RECORDS[wire.Late]))
def test_a_log_record_is_told_by_its_type_and_its_head_says_the_same(record: Any) -> None:
    written = wire.encode(record)
    assert wire.encode(wire.decode_record(written)) == written
    head = wire.decode_head(written)
    assert head.type == type(record).__name__.lower()
    assert (head.epoch, head.seq) == (record.epoch, record.seq)
    assert head.prev == getattr(record, "prev", None)
    assert head.sub == getattr(record, "sub", 0)
    assert head.repair == getattr(record, "repair", None)


def test_a_resets_state_is_held_as_it_was_written_and_none_when_it_has_none() -> None:
    reset = wire.Reset(1, "v", "book", "p", 0, 1, 2, None, 3, 4, "gap", "snapshot")
    for text, state in (("", None), (',"state":null', None), (',"state":{"a" :1}', b'{"a" :1}')):
        record = wire.decode_record(wire.encode(reset)[:-1] + text.encode() + b"}")
        assert isinstance(record, wire.Reset)
        assert (None if record.state is None else bytes(record.state)) == state


@given(RECORDS[wire.Tick])
def test_readers_ignore_fields_they_do_not_know(record: wire.Tick) -> None:
    later = json.dumps(json.loads(wire.encode(record)) | {"later": {"a": [1]}})
    assert wire.decode_tick(later) == record
    assert models.Tick.model_validate_json(later).seq == record.seq


@pytest.mark.parametrize("text", ["", "1.", ".5", "0.-10000", "1e100", "NaN", " 1", "1\n", "0x1"])
def test_what_is_no_plain_decimal_is_no_price(text: str) -> None:
    with pytest.raises(pydantic.ValidationError):
        models.Level(price=text)
