"""A service for the client's tests, and the command as a process."""

import asyncio
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import pytest_asyncio

from api.client import Client
from tests.support import api_client
from tests.support.eventually import in_time
from tests.support.service import ROOT

TWO = b"email,name,role,active\nada@example.org,Ada,admin,true\nfoo@bar,Bo,boss,true\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(server_url, tmp_path_factory):
    """The service of the tests of a module."""
    folder = tmp_path_factory.mktemp("service")
    async with api_client.service(server_url, folder, worker_pool_size=2, batch_size=100) as started:
        yield started


@pytest.fixture
def client(api):
    """A client of the library for the service."""
    with Client(api.service.url) as client:
        yield client


@dataclass(frozen=True)
class Result:
    """The result of a command."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Bulk:
    """Runs the command `bulk` as a process, with a home folder of its own."""

    environment: dict[str, str]

    async def start(self, *words: str, **options) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "api.client", *words), env=self.environment, **options
        )

    async def __call__(self, *words: str, stdin: bytes = b"") -> Result:
        process = await self.start(
            *words, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, err = await in_time(process.communicate(stdin), waits=4)
        return Result(process.returncode, out.decode(), err.decode())


@pytest.fixture
def environment(tmp_path) -> Callable[[str], dict[str, str]]:
    """`environment(url)`: the variables of a command with a home folder of its own."""

    def make(url: str) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "PYTHONPATH": str(ROOT),
            "BULK_URL": url,
            "TERM": "xterm",
        }

    return make


@pytest.fixture
def bulk(api, environment) -> Bulk:
    """The command, for the module's service."""
    return Bulk(environment(api.service.url))


@pytest.fixture
def two(tmp_path):
    """A file with one valid record and one with two faults."""
    path = tmp_path / "users.csv"
    path.write_bytes(TWO)
    return str(path)
