"""The plans of the statements that a function sends: auto_explain logs them, and the connection gets its log as notices."""

import json
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from db.connections.pool import Connection

EXPLAIN = {"log_min_duration": "0", "log_analyze": "on", "log_buffers": "on", "log_timing": "off", "log_format": "json"}

T = TypeVar("T")


async def enable_plans(conn: Connection) -> None:
    """Raises `InsufficientPrivilege` or `UndefinedFile` where auto_explain cannot be loaded: only a superuser may."""
    await conn.execute("LOAD 'auto_explain'")
    for name, setting in EXPLAIN.items():
        await conn.execute(
            "SELECT set_config(%(name)s, %(setting)s, false)", {"name": f"auto_explain.{name}", "setting": setting}
        )
    await conn.execute("SET client_min_messages = log")


@dataclass(frozen=True)
class Plan:
    """The execution of one statement: the pages that it read, its indexes, and the tables that it scanned sequentially."""

    query: str
    buffers: int
    indexes: frozenset[str]
    read_whole: frozenset[str]


class Plans:
    """Plans of the statements of one connection, for which `enable_plans` was called."""

    def __init__(self, conn: Connection) -> None:
        self._notices: list[str] = []
        conn.add_notice_handler(lambda notice: self._notices.append(notice.message_primary or ""))

    async def of(self, call: Awaitable[Any]) -> list[Plan]:
        """The plans of the statements that `call` sends. Fails if there is none."""
        return (await self.with_result(call))[1]

    async def with_result(self, call: Awaitable[T]) -> tuple[T, list[Plan]]:
        self._notices.clear()
        result = await call
        plans = [_plan(json.loads(notice[notice.index("{") :])) for notice in self._notices if "plan:" in notice]
        assert plans
        return result, plans


def _plan(explained: dict[str, Any]) -> Plan:
    # nodes that were not executed have no loops
    nodes = [node for node in _nodes(explained["Plan"]) if node["Actual Loops"]]
    return Plan(
        query=explained["Query Text"],
        buffers=nodes[0]["Shared Hit Blocks"] + nodes[0]["Shared Read Blocks"],
        indexes=frozenset(node["Index Name"] for node in nodes if "Index Name" in node),
        read_whole=frozenset(node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"),
    )


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", []):
        yield from _nodes(child)
