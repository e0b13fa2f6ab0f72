"""SQL templates of the merge: statements that are the same for every resource but for names, formatted once and cached."""

from collections.abc import Callable
from typing import LiteralString
from zlib import crc32

from psycopg import sql

from db import copy
from db.resources.definition import Resource

# of the staging table, beside those of the resource
STAGING_COLUMNS: LiteralString = """
    NULL::bigint AS record, NULL::bigint AS line, false AS is_orphan, false AS id_is_taken, false AS key_is_taken,
    true AS is_only_match, true AS is_different, id AS target, false AS target_existed, NULL::text AS verdict
"""

# by resource, statement and variant; there are as many entries as there are statements in the code
_cache: dict[tuple[Resource, str, str], bytes] = {}


def cached_sql(
    resource: Resource, statement: LiteralString, *, variant: str = "", **more: Callable[[], sql.Composable]
) -> bytes:
    """`format_sql`, cached: formatting takes as long as a round trip.

    The values of `more` are called on a cache miss; they may depend on the resource and the `variant` alone.
    """
    cached = _cache.get((resource, statement, variant))
    if cached is None:
        formatted = format_sql(resource, statement, **{name: value() for name, value in more.items()})
        cached = _cache[resource, statement, variant] = formatted.as_bytes()
    return cached


def format_sql(resource: Resource, statement: LiteralString, **more: sql.Composable) -> sql.Composed:
    """Fills in the resource's names.

    `key` is the natural key of `staged`, `other_key` that of a table or alias `other`; NULL, which equals nothing, when the
    resource has no natural key. `other_meets` is the condition that `other` has the id or the key of a staged record.
    """
    names: dict[str, sql.Composable] = {
        "table": sql.Identifier(resource.name),
        "staged": sql.Identifier(staging_table(resource)),
        "columns": copy.names(resource.columns),
        "key": _key(resource, "staged"),
        "other_key": _key(resource, "other"),
        "other_meets": _meets(resource),
        "key_name": sql.Literal(resource.key),
        "sent_key": sql.SQL("NULL::text") if resource.key is None else sql.Identifier("staged", resource.key),
    }
    return sql.SQL(statement).format(**names, **more)


def staging_table(resource: Resource) -> str:
    """The staging table's name. It contains a checksum of the columns: behind a pooler a session may outlive a release."""
    columns = ",".join((*resource.columns, *resource.column_types, STAGING_COLUMNS))
    return f"staging_{resource.name}_{crc32(columns.encode()):08x}"


def value_after_update(resource: Resource, column: str) -> sql.Composable:
    """The value of a column after an update: the sent value, or for a time that was not sent the stored one."""
    return sql.SQL("coalesce(staged.{0}, other.{0})" if column in resource.stamped else "staged.{0}").format(
        sql.Identifier(column)
    )


def is_different(resource: Resource) -> sql.Composable:
    """The condition that a staged record would change its stored row."""
    columns = resource.columns[1:]
    return sql.SQL("(ROW({}) IS DISTINCT FROM ROW({}))").format(
        sql.SQL(", ").join(value_after_update(resource, column) for column in columns),
        sql.SQL(", ").join(sql.Identifier("other", column) for column in columns),
    )


def _meets(resource: Resource) -> sql.Composable:
    by_id, by_key = (
        sql.SQL("{} = ANY (ARRAY(SELECT {} FROM {} AS staged))").format(
            stored, sent, sql.Identifier(staging_table(resource))
        )
        for stored, sent in (
            (sql.Identifier("other", "id"), sql.Identifier("staged", "id")),
            (_key(resource, "other"), _key(resource, "staged")),
        )
    )
    # a comparison with NULL would keep the planner from the index
    return by_id if resource.key is None else sql.SQL("({} OR {})").format(by_id, by_key)


def _key(resource: Resource, alias: str) -> sql.Composable:
    """The natural key of the row called `alias`: the expression of the unique index."""
    if resource.key is None:
        return sql.SQL("NULL::text")
    return sql.SQL(resource.key_sql).format(sql.Identifier(alias))
