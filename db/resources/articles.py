"""Articles: `slug` is unique, `author_id` is a user; a draft has no `published_at`."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import Meta
from uuid_utils import uuid7

from db.resources.definition import FieldError, Resource, Time

TAGS_MAX = 1000
TAG_CHARACTERS_MAX = 255
SLUG = r"^[a-z0-9]+(?:-[a-z0-9]+)*\Z"


class Article(msgspec.Struct, kw_only=True):
    id: UUID | None = None
    slug: Annotated[str, Meta(title="kebab-case slug", max_length=255, pattern=SLUG)]
    title: Annotated[str, Meta(min_length=1, max_length=500)]
    body: Annotated[str, Meta(min_length=1)]
    author_id: UUID
    tags: Annotated[list[Annotated[str, Meta(max_length=TAG_CHARACTERS_MAX)]], Meta(max_length=TAGS_MAX)] | None = None
    status: Literal["draft", "published"]
    published_at: Time | None = None


def rules(article: Any) -> Iterator[FieldError]:
    if article.status == "draft" and article.published_at is not None:
        yield FieldError(
            "published_at", "conflicting_fields", "a draft has no published_at", article.published_at.isoformat()
        )


ARTICLES = Resource(
    name="articles",
    record=Article,
    key="slug",
    key_sql="{}.slug",
    references={"author_id": "users"},
    rules=rules,
    new_id=uuid7,
    new_id_sql="uuid_v7()",
    filtered_by=("id", "slug", "author_id", "tags", "status", "published_at"),
    descriptions={
        "id": "Generated when absent (UUID version 7).",
        "slug": "The natural key; lower-case words joined by hyphens.",
        "author_id": "The id of a user.",
        "tags": "In CSV a JSON array in one cell.",
        "published_at": "A draft has none.",
    },
    example={
        "slug": "first-notes",
        "title": "First notes",
        "body": "On the Analytical Engine.",
        "author_id": "6f1c8d4e-2b7a-4c39-9d5e-0a1b2c3d4e5f",
        "tags": ["engines", "notes"],
        "status": "published",
        "published_at": "2026-01-31T12:00:00Z",
    },
)
