"""`make pictures`: the pictures of README.md, from a real run on a temporary server."""

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import httpx
from playwright.async_api import Page

from db import embedded, migrate
from db.embedded import EmbeddedError
from db.migrate import MigrateError
from tests.support import ROOT, make_data, postgres
from tests.support.chromium import launch
from tests.support.service import running_service

FOLDER = ROOT / "api" / "console" / "pictures"
SIZE = {"width": 1200, "height": 800}
SEED = 7
USERS, ARTICLES = 60_000, 20_000
FOREIGN = """E-Mail;Vollständiger Name;Rolle;Aktiv;Notiz
grace@example.org;Grace Hopper;author;true;
linus@example.org;Linus Torvalds;reader;true;met in Portland
ada@example.org;Ada Lovelace;admin;true;
"""
FAULTY = """email,name,role,active
grace@example.org,Grace Hopper,author,true
linus@example,Linus Torvalds,Reader,yes
ada@example.org,Ada Lovelace,administrator,true
alan@example.org,,reader,true
barbara.example.org,Barbara Liskov,author,no
"""


def main() -> None:
    try:
        with postgres.open_folder() as folder:
            url = embedded.start(folder)
            try:
                asyncio.run(_take(folder, url))
            finally:
                with suppress(embedded.NotRunning):
                    embedded.stop(folder)
    except (EmbeddedError, MigrateError) as error:
        sys.exit(f"no pictures: {error}")


async def _take(folder: Path, database_url: str) -> None:
    migrate.up(database_url)
    FOLDER.mkdir(exist_ok=True)
    async with (
        running_service(folder, database_url, worker_pool_size=2) as service,
        httpx.AsyncClient(base_url=service.url, timeout=120) as client,
        launch() as browser,
    ):
        users = make_data.users(USERS, seed=SEED, fault_rate=0.02)
        whole = await _import(client, "users", "customers-2026.csv", users.data, wait=True)
        articles = make_data.articles(ARTICLES, authors=users.ids, seed=SEED, fault_rate=0.0)
        await _import(client, "articles", "articles.ndjson", articles.data, wait=True)
        faulty = await _import(client, "users", "newsletter.csv", FAULTY.encode(), wait=True)
        await _import(client, "users", "customers-2025.csv", users.data, wait=False, mode="upsert")
        context = await browser.new_context(base_url=service.url, viewport=SIZE, color_scheme="light")
        page = await context.new_page()
        for name, path, prepare in (
            ("imports", "/ui/imports", _running),
            ("import", f"/ui/imports/{whole}", _settled),
            ("new", "/ui/new", _columns),
            ("mend", f"/ui/imports/{faulty}/mend", _settled),
        ):
            await _picture(page, name, path, prepare)


async def _import(client: httpx.AsyncClient, resource: str, name: str, data: bytes, *, wait: bool, **more: str) -> str:
    answer = await client.post(
        "/api/v1/imports",
        data={"resource": resource, **more},
        files={"file": (name, data)},
        headers={"Prefer": "wait=30"} if wait else {},
    )
    answer.raise_for_status()
    return answer.json()["id"]


async def _picture(page: Page, name: str, path: str, prepare: Callable[[Page], Awaitable[None]]) -> None:
    await page.goto(path)
    await prepare(page)
    file = FOLDER / f"{name}.png"
    await page.screenshot(path=file)
    print(f"{file.relative_to(ROOT)}  {file.stat().st_size // 1000} kB")


async def _settled(page: Page) -> None:
    await page.wait_for_load_state("networkidle")


async def _columns(page: Page) -> None:
    """A file with foreign column names is chosen, and the step of the columns is open."""
    await page.locator("input[type=file]").set_input_files(
        {"name": "kunden.csv", "mimeType": "text/csv", "buffer": FOREIGN.encode()}
    )
    await page.get_by_role("button", name="Continue").click()
    await page.get_by_role("columnheader", name="In the file").wait_for()


async def _running(page: Page) -> None:
    """An import is under way, and its bar shows it."""
    row = page.locator("tbody tr").first
    await row.get_by_text("Running").wait_for()
    await row.get_by_text(re.compile(r"[1-9]\d*(\.\d)? % of")).wait_for()


if __name__ == "__main__":
    main()
