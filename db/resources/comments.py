"""Comments: an article, a user and at most 500 words. The id is text, kept as sent: a UUID, perhaps with `cm_` before it."""

from collections.abc import Iterator
from typing import Annotated, Any
from uuid import UUID, uuid4

import msgspec
from msgspec import Meta

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
    # n words need n - 1 separators, so a short body need not be split
    if comment.body is not None and len(comment.body) > 2 * BODY_WORDS_MAX:
        words = len(comment.body.split())
        if words > BODY_WORDS_MAX:
            yield FieldError("body", "too_many_words", f"{words} words, at most {BODY_WORDS_MAX}", comment.body)


COMMENTS = Resource(
    name="comments",
    record=Comment,
    references={"article_id": "articles", "user_id": "users"},
    rules=rules,
    new_id=lambda: f"cm_{uuid4()}",
    new_id_sql="'cm_' || gen_random_uuid()",
    stamped=("created_at",),
    filtered_by=("id", "article_id", "user_id", "created_at"),
)
