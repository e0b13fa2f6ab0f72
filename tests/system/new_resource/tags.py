"""Tags: `name` is unique, the colour is one of three, and a tag may belong to an article."""

from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import Meta
from uuid_utils import uuid7

from db.resources.definition import Resource


class Tag(msgspec.Struct, kw_only=True):
    id: UUID | None = None
    name: Annotated[str, Meta(min_length=1, max_length=50)]
    colour: Literal["red", "green", "blue"]
    article_id: UUID | None = None


TAGS = Resource(
    name="tags",
    record=Tag,
    key="name",
    key_sql="{}.name",
    references={"article_id": "articles"},
    new_id=uuid7,
    new_id_sql="uuid_v7()",
    filtered_by=("id", "name", "colour", "article_id"),
)
