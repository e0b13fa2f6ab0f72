"""Which rows are referred to by the rows of other resources."""

from psycopg import sql

from db.resources import RESOURCES
from db.resources.definition import Resource


def is_referred_to(resource: Resource) -> sql.Composable:
    """The condition that a row of another table refers to the row `other`."""
    referrers = [
        sql.SQL("EXISTS (SELECT 1 FROM {} AS referrer WHERE referrer.{} = other.id)").format(
            sql.Identifier(child.name), sql.Identifier(field)
        )
        for child in RESOURCES.values()
        for field, parent in child.references.items()
        if parent == resource.name
    ]
    return sql.SQL(" OR ").join(referrers) if referrers else sql.SQL("false")
