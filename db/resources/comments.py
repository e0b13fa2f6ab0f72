"""Comments: an article, a user and at most 500 words. The id is text and stored as sent: a UUID, optionally prefixed `cm_`."""

from collections.abc import Iterator
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Meta
from uuid_utils import uuid7

from db.resources.definition import NOT_BLANK, FieldError, Resource, Time

COMMENT_ID = r"^(?:cm_)?[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\Z"
BODY_WORDS_MAX = 500


class Comment(msgspec.Struct, kw_only=True):
    id: Annotated[str, Meta(title="comment id (a UUID, perhaps with cm_ before it)", pattern=COMMENT_ID)] | None = None
    article_id: UUID
    user_id: UUID
    body: Annotated[str, Meta(min_length=1, pattern=NOT_BLANK)]
    created_at: Time | None = None


def rules(comment: Any) -> Iterator[FieldError]:
    # n words have n - 1 separators, so a short body cannot have too many
    if comment.body is not None and len(comment.body) > 2 * BODY_WORDS_MAX:
        words = len(comment.body.split())
        if words > BODY_WORDS_MAX:
            yield FieldError("body", "too_many_words", f"{words} words, at most {BODY_WORDS_MAX}", comment.body)


COMMENTS = Resource(
    name="comments",
    record=Comment,
    references={"article_id": "articles", "user_id": "users"},
    rules=rules,
    new_id=lambda: f"cm_{uuid7()}",
    new_id_sql="'cm_' || uuid_v7()",
    stamped=("created_at",),
    filtered_by=("id", "article_id", "user_id", "created_at"),
    descriptions={
        "id": "A UUID, or cm_ and a UUID; generated when absent (cm_ and a UUID of version 7).",
        "article_id": "The id of an article.",
        "user_id": "The id of a user.",
        "body": f"At most {BODY_WORDS_MAX} words.",
        "created_at": "Default: the time of the import.",
    },
    example={
        "article_id": "0f9e8d7c-6b5a-4f3e-8d2c-1b0a9f8e7d6c",
        "user_id": "6f1c8d4e-2b7a-4c39-9d5e-0a1b2c3d4e5f",
        "body": "Well put.",
    },
)
