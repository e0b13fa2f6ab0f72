"""Users: `id`, `email` (unique without regard to case), `name`, `role`, `active`, times."""

from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import Meta
from uuid_utils import uuid7

from db.resources.definition import Resource, Time

# The e-mail address of the HTML Living Standard (4.10.5.1.5), with at least one dot in the domain. ASCII only, so that
# lower case is the same in Python and in PostgreSQL with any locale.
EMAIL = (
    r"^[a-zA-Z0-9.!#$%&'*+/=?^_`{|}~-]+@[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
    r"(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)+\Z"
)


class User(msgspec.Struct, kw_only=True):
    id: UUID | None = None
    email: Annotated[str, Meta(title="e-mail address", max_length=254, pattern=EMAIL)]
    name: Annotated[str, Meta(min_length=1, max_length=255)]
    role: Literal["admin", "author", "reader"]
    active: bool
    created_at: Time | None = None
    updated_at: Time | None = None


USERS = Resource(
    name="users",
    record=User,
    key="email",
    key_of=str.lower,
    key_sql="lower({}.email)",
    new_id=uuid7,
    new_id_sql="uuid_v7()",
    stamped=("created_at", "updated_at"),
    touched="updated_at",
    filtered_by=("id", "email", "role", "active", "created_at", "updated_at"),
    descriptions={
        "id": "Generated when absent (UUID version 7).",
        "email": "The natural key; unique without regard to case.",
        "created_at": "Default: the time of the import.",
        "updated_at": "Default: the time of the import, also when the row is updated.",
    },
    example={"email": "ada@example.org", "name": "Ada Lovelace", "role": "author", "active": True},
)
