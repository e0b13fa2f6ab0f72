"""The scripts beside this file, and the commands of the documents, against a fresh service."""

import asyncio
import gzip
import os
import re
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

HERE = Path(__file__).parent
KEY = "a key for the tests"
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)

pytestmark = [pytest.mark.needs("curl"), pytest.mark.system, pytest.mark.timeout(600)]


async def run_bash(*arguments: str, folder: Path, **variables: str) -> str:
    """What bash prints. It has to succeed."""
    process = await asyncio.create_subprocess_exec(
        "bash",
        *arguments,
        cwd=folder,
        env=os.environ | variables,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


@pytest.mark.parametrize("script", ["imports", "exports", "errors"])
async def test_the_scripts_succeed(service, tmp_path, script):
    """Each script succeeds against a service with API keys."""
    url = (await service(worker_pool_size=2, poll_seconds=0.2, api_keys=KEY)).url
    output = await run_bash(str(HERE / f"{script}.sh"), folder=tmp_path, HOST=url, API_KEY=KEY)
    assert output.endswith(f"{script}: all as expected\n")


async def test_the_script_for_buckets_succeeds(service, bucket, tmp_path):
    """It succeeds against a service with a bucket for uploads."""
    settings = bucket.settings | {"upload_dir": f"s3://{bucket.name}/uploads"}
    url = (await service(worker_pool_size=2, poll_seconds=0.2, api_keys=KEY, **settings)).url
    output = await run_bash(str(HERE / "bucket.sh"), folder=tmp_path, HOST=url, API_KEY=KEY)
    assert output.endswith("bucket: all as expected\n")


def blocks(document: str) -> list[str]:
    return BLOCK.findall((ROOT / document).read_text())


async def test_the_tour_of_the_readme(service, tmp_path):
    """The tour with `bulk` does what README.md describes, copied from it unchanged."""
    url = (await service(worker_pool_size=2, poll_seconds=0.2)).url
    (tour,) = (block.replace("http://127.0.0.1:8080", url) for block in blocks("README.md") if "BULK_URL" in block)
    # the command of this environment, with its state in the folder
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    bulk = tmp_path / ".venv" / "bin" / "bulk"
    bulk.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m api.client "$@"\n')
    bulk.chmod(0o755)
    output = await run_bash(
        "-e", "-c", tour, folder=tmp_path, XDG_CONFIG_HOME=str(tmp_path), XDG_STATE_HOME=str(tmp_path)
    )
    # the import, its errors, the repair, the export
    for shown in ("2   created", "3   refused", "duplicate_in_file", "column_count_mismatch", "3   created"):
        assert shown in output
    assert "email,name,role,active" in output
    assert output.count("Joan Clarke,reader,true") == 1


async def test_the_tour_of_the_reference(service, tmp_path):
    """The tour with curl does what api/README.md describes, copied from it unchanged."""
    url = (await service(worker_pool_size=2, poll_seconds=0.2)).url
    (tour,) = (block.replace("http://127.0.0.1:8080", url) for block in blocks("api/README.md") if ":8080" in block)
    output = await run_bash("-e", "-c", tour, folder=tmp_path)
    # the events, the job, its errors, the mended import, the export
    for shown in (
        "event: done",
        '"outcome": "partial"',
        "duplicate_in_file",
        "column_count_mismatch",
        '"outcome": "success"',
    ):
        assert shown in output
    assert output.count("id,email,name,role,active") == 1
    assert '{"id":"' in output


async def test_the_commands_of_the_reference(service, bucket, tmp_path):
    """Every command of api/README.md is answered with success."""
    bucket.client.create_bucket(Bucket="my-bucket")
    row = b"email,name,role,active\nbucket@example.org,B,author,true\n"
    bucket.client.put_object(Bucket="my-bucket", Key="incoming/users.csv.gz", Body=gzip.compress(row))
    sources = {"import_sources": "s3://my-bucket/incoming", "upload_dir": "s3://my-bucket/uploads"}
    url = (await service(worker_pool_size=2, poll_seconds=0.2, **(bucket.settings | sources))).url
    (tmp_path / "users.csv").write_text("email,name,role,active\ncsv@example.org,C,author,true\n")
    (tmp_path / "users.ndjson").write_text('{"email":"n@example.org","name":"N","role":"reader","active":true}\n')
    (tmp_path / "articles.ndjson").write_text("")
    commands = [block for block in blocks("api/README.md") if "curl" in block and ":8080" not in block]
    assert len(commands) >= 3
    # the commands are those of the document, except that curl fails when the service refuses something
    strict = 'curl() { command curl -sS --fail-with-body "$@"; }\n'
    for command in commands:
        await run_bash("-e", "-o", "pipefail", "-c", strict + command, folder=tmp_path, HOST=url)
