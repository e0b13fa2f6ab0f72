"""Imports from a bucket through a proxy, which stops them while an object is read."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from db.imports.objects import PART_BYTES
from tests.support.bucket import Bucket
from tests.support.fault_proxy import Budget, FaultProxy, fault_proxy
from tests.support.service import Service


def large_file(parts: int) -> bytes:
    """A file of more than this many parts, all of whose records are refused: their names are too long."""
    record = b'{"email":"a@example.org","name":"%b","role":"reader","active":true}\n' % (b"n" * 50_000)
    return record * (parts * PART_BYTES // len(record) + 1)


@asynccontextmanager
async def proxied(service, bucket: Bucket, **settings: object) -> AsyncIterator[tuple[Service, FaultProxy]]:
    """A service that reaches its bucket through a proxy: yields both."""
    async with fault_proxy(bucket.endpoint) as proxy:
        more = {"aws_endpoint_url": proxy.url, "import_sources": f"s3://{bucket.name}"}
        yield await service(**(bucket.settings | more | settings)), proxy


@asynccontextmanager
async def stopped_in_a_part(proxy: FaultProxy) -> AsyncIterator[asyncio.Event]:
    """The next connection delivers nothing after half of a part. At the end of the block it breaks, and others are normal."""
    proxy.budget = Budget(PART_BYTES // 2)
    yield proxy.budget.is_spent
    proxy.budget = Budget(None)
    proxy.drop()
