"""DynamoDB as one table after another in memory: conditional writes, batches, reads of the past.

The source of each rule is the service's documentation, and moto's server: the same tests run on it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import Any

from tests.simulation.stores.answers import refusal

# How long a read that is not consistent may show what was there before, in seconds.
_BEHIND_S = 1.0
_TOKEN = re.compile(r"\s*(attribute_not_exists|AND|OR|<=|>=|<|>|=|\(|\)|[#:]\w+)")

Item = Mapping[str, Any]


class DynamoModel:
    """What the service knows; each call is one moment.

    Args:
        chance: decides whether a read that is not consistent is behind; None: none is.
    """

    def __init__(self, clock: Callable[[], float], chance: Random | None = None) -> None:
        self._clock = clock
        self._chance = chance
        self.tables: dict[str, dict[str, Item]] = {}
        # What the newest write of each item replaced, and when.
        self._before: dict[tuple[str, str], tuple[Item | None, float]] = {}
        self._key: dict[str, str] = {}

    def create_table(
        self, TableName: str, KeySchema: list[dict[str, str]], **_options: Any
    ) -> dict[str, Any]:
        if TableName in self.tables:
            raise refusal("CreateTable", 400, "ResourceInUseException", "Table already exists")
        self.tables[TableName] = {}
        self._key[TableName] = KeySchema[0]["AttributeName"]
        return {}

    def describe_table(self, TableName: str) -> dict[str, Any]:
        self._table("DescribeTable", TableName)
        return {"Table": {"TableStatus": "ACTIVE"}}

    def put_item(self, TableName: str, Item: dict[str, Any], **condition: Any) -> dict[str, Any]:
        self._table("PutItem", TableName)
        name = Item[self._key[TableName]]["S"]
        self._write("PutItem", TableName, name, Item, condition)
        return {}

    def update_item(
        self,
        TableName: str,
        Key: dict[str, Any],
        UpdateExpression: str,
        ExpressionAttributeNames: Mapping[str, str],
        ExpressionAttributeValues: Mapping[str, Any],
        **condition: Any,
    ) -> dict[str, Any]:
        held = self._table("UpdateItem", TableName)
        name = Key[self._key[TableName]]["S"]
        verb, attribute, equals, value = UpdateExpression.split()
        if (verb, equals) != ("SET", "="):
            raise refusal("UpdateItem", 400, "ValidationException", UpdateExpression)
        changed = {**(held.get(name) or Key)}
        changed[ExpressionAttributeNames[attribute]] = ExpressionAttributeValues[value]
        condition["ExpressionAttributeNames"] = ExpressionAttributeNames
        condition["ExpressionAttributeValues"] = ExpressionAttributeValues
        self._write("UpdateItem", TableName, name, changed, condition)
        return {}

    def get_item(
        self, TableName: str, Key: dict[str, Any], ConsistentRead: bool = False
    ) -> dict[str, Any]:
        self._table("GetItem", TableName)
        item = self._read(TableName, Key, ConsistentRead)
        return {} if item is None else {"Item": dict(item)}

    def batch_get_item(self, RequestItems: dict[str, Any]) -> dict[str, Any]:
        ((table, asked),) = RequestItems.items()
        self._table("BatchGetItem", table)
        consistent = bool(asked.get("ConsistentRead"))
        found = [self._read(table, key, consistent) for key in asked["Keys"]]
        return {"Responses": {table: [dict(item) for item in found if item is not None]}}

    def _table(self, operation: str, name: str) -> dict[str, Item]:
        held = self.tables.get(name)
        if held is None:
            raise refusal(operation, 400, "ResourceNotFoundException", "no such table")
        return held

    def _write(
        self, operation: str, table: str, name: str, item: Item, condition: dict[str, Any]
    ) -> None:
        held = self.tables[table].get(name)
        expression = condition.get("ConditionExpression")
        if expression is not None and not _Condition(
            expression,
            condition["ExpressionAttributeNames"],
            condition["ExpressionAttributeValues"],
        ).holds(held or {}):
            raise refusal(
                operation, 400, "ConditionalCheckFailedException", "The conditional request failed"
            )
        self._before[table, name] = (held, self._clock())
        self.tables[table][name] = item

    def _read(self, table: str, key: dict[str, Any], consistent: bool) -> Item | None:
        name = key[self._key[table]]["S"]
        if not consistent and self._chance is not None:
            before, at_s = self._before.get((table, name), (None, -_BEHIND_S))
            if self._clock() - at_s < _BEHIND_S and self._chance.random() < 0.3:
                return before
        return self.tables[table].get(name)


class _Condition:
    """A condition over numbers and missing attributes: what the services use of the language."""

    def __init__(
        self, expression: str, names: Mapping[str, str], values: Mapping[str, Any]
    ) -> None:
        self._names = names
        self._values = values
        self._tokens: list[str] = _TOKEN.findall(expression)
        if "".join(self._tokens) != expression.replace(" ", ""):
            raise ValueError(f"the model does not know this condition: {expression}")

    def holds(self, item: Item) -> bool:
        self._left: Iterator[str] = iter([*self._tokens, ""])
        self._next = next(self._left)
        return self._either(item)

    def _take(self) -> str:
        taken, self._next = self._next, next(self._left)
        return taken

    def _either(self, item: Item) -> bool:
        held = self._both(item)
        while self._next == "OR":
            self._take()
            held = self._both(item) or held
        return held

    def _both(self, item: Item) -> bool:
        held = self._one(item)
        while self._next == "AND":
            self._take()
            held = self._one(item) and held
        return held

    def _one(self, item: Item) -> bool:
        match self._take():
            case "(":
                held = self._either(item)
                self._take()
                return held
            case "attribute_not_exists":
                self._take()
                missing = self._names[self._take()] not in item
                self._take()
                return missing
            case name:
                how, value = self._take(), int(self._values[self._take()]["N"])
                attribute = item.get(self._names[name])
                # What is not there compares to nothing.
                return attribute is not None and _compared(int(attribute["N"]), how, value)


def _compared(left: int, how: str, right: int) -> bool:
    return {
        "<": left < right,
        ">": left > right,
        "<=": left <= right,
        ">=": left >= right,
        "=": left == right,
    }[how]
