"""Checks exports byte for byte: articles do not change during a scenario, so each export has the same bytes."""

import hashlib
from typing import Any, Self

from tests.chaos.client import Unexpected
from tests.chaos.environment import Environment

FORMATS = ("ndjson", "csv")
# not decompressed: the bytes on the wire are compared
PLAIN = {"Accept-Encoding": "identity"}


class References:
    """The expected bytes of an export of the articles, for each format."""

    formats = FORMATS

    def __init__(self, env: Environment, contents: dict[str, bytes]) -> None:
        self.env = env
        self.contents = contents

    @classmethod
    async def take(cls, env: Environment) -> Self:
        """Before the first fault."""
        contents: dict[str, bytes] = {}
        for format in FORMATS:
            answer = await env.client.ask("GET", _stream(format), headers=PLAIN)
            assert answer.status_code == 200, answer.text
            contents[format] = answer.content
        return cls(env, contents)

    async def check_stream(self, format: str) -> list[str]:
        """What is wrong with a completed stream. A broken one raises httpx's exception; 503 counts as broken."""
        http = self.env.client.http
        async with http.stream("GET", _stream(format), headers=PLAIN) as answer:
            self.env.client.answers[str(answer.status_code)] += 1
            content = await answer.aread()
        if answer.status_code == 503 and "retry-after" in answer.headers:
            return []
        if answer.status_code != 200:
            raise Unexpected(f"a stream was answered {answer.status_code}: {answer.text}")
        if content != self.contents[format]:
            return [f"a stream of {format} ended well with {len(content)} bytes of {len(self.contents[format])}"]
        return []

    async def check_download(self, job: dict[str, Any]) -> list[str]:
        """What is wrong with the file of a completed export."""
        answer = await self.env.client.ask("GET", job["links"]["download"], headers=PLAIN)
        if answer.status_code != 200:
            return [f"a download was answered {answer.status_code}: {answer.text}"]
        right = self.contents[job["format"]]
        if answer.content != right or job["file"]["sha256"] != hashlib.sha256(right).hexdigest():
            return [f"export {job['id']} has {len(answer.content)} bytes that are not the right {len(right)}"]
        return []


def _stream(format: str) -> str:
    return f"/api/v1/exports/articles/stream?format={format}"
