"""A client that is generated from the OpenAPI document has every operation, is typed, and works."""

import asyncio
import importlib
import json
import re
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import httpx

from tests.support.api_client import USERS_HEADER, user_row
from tests.support.eventually import PATIENCE_SECONDS, eventually

PACKAGE = "bulk_import_and_export_client"


# the generator knows JSON and bytes; files of records are bytes to it
CONFIG = """
content_type_overrides:
  text/csv: application/octet-stream
  application/x-ndjson: application/octet-stream
  application/vnd.openxmlformats-officedocument.spreadsheetml.sheet: application/octet-stream
  application/vnd.apache.parquet: application/octet-stream
  application/vnd.apache.arrow.stream: application/octet-stream
post_hooks: []
"""


def generate(document: bytes, folder: Path) -> Path:
    """The folder with the generated package. Fails when the generator leaves anything out, which it warns of."""
    (folder / "openapi.json").write_bytes(document)
    (folder / "config.yml").write_text(CONFIG)
    arguments = ("--path", "openapi.json", "--config", "config.yml", "--output-path", "generated")
    done = subprocess.run(
        [sys.executable, "-m", "openapi_python_client", "generate", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE_SECONDS,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "WARNING" not in output.upper(), output
    return folder / "generated"


def check_types(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "basedpyright", "--level", "error", "--pythonpath", sys.executable, PACKAGE],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stdout


def snake_case(operation_id: str) -> str:
    return re.sub("[A-Z]", lambda capital: "_" + capital[0].lower(), operation_id)


async def test_a_generated_client_imports_and_exports(service, tmp_path, monkeypatch):
    """openapi-python-client makes a function of each operation; one import and one export go through them."""
    started = await service(worker_pool_size=1)
    async with httpx.AsyncClient(base_url=started.url, timeout=PATIENCE_SECONDS) as client:
        document = (await client.get("/schema/openapi.json")).content
    generated = await asyncio.to_thread(generate, document, tmp_path)
    operations = {
        f"{operation['tags'][0]}.{snake_case(operation['operationId'])}"
        for item in json.loads(document)["paths"].values()
        for operation in item.values()
    }
    modules = {f"{path.parent.name}.{path.stem}" for path in generated.glob(f"{PACKAGE}/api/*/*.py")}
    assert operations <= modules
    await asyncio.to_thread(check_types, generated)

    monkeypatch.syspath_prepend(str(generated))
    client_module, models, types = (importlib.import_module(f"{PACKAGE}{name}") for name in ("", ".models", ".types"))

    client = client_module.Client(base_url=started.url)

    async def call(name: str, *arguments, function: str = "sync", **more):
        operation = getattr(importlib.import_module(f"{PACKAGE}.api.{name}"), function)
        return await asyncio.to_thread(operation, *arguments, client=client, **more)

    async def completed(name: str, id: str):
        job = await call(name, id)
        return job if job.status == "completed" else None

    file = types.File(payload=BytesIO(USERS_HEADER + b"".join(map(user_row, range(3)))))
    created = await call("imports.create_import", body=file, resource=models.CreateImportResource.USERS)
    imported = await eventually(lambda: completed("imports.get_import", str(created.id)))
    assert (imported.counts.created, imported.outcome) == (3, "success")
    assert len((await call("imports.list_imports")).imports) == 1

    body = models.CreateExportBody(resource=models.CreateExportBodyResource.USERS)
    created = await call("exports.create_export", body=body)
    exported = await eventually(lambda: completed("exports.get_export", str(created.id)))
    assert exported.file.records == 3
    answer = await call("exports.download_export", str(created.id), function="sync_detailed")
    assert len(answer.content.splitlines()) == 3
