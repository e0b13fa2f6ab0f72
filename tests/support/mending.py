"""The mending page, for tests: imports with refused records, the cells, rules and numbers of the page."""

from typing import Any

from playwright.async_api import Locator, Page, expect

from db.imports.jobs import FINAL
from tests.support.eventually import eventually

HEADER = b"email,name,role,active\n"


async def imported(api, content: bytes, name: str, **params: str) -> dict[str, Any]:
    return await api.finished(await api.post(files={"file": (name, content)}, data={"resource": "users", **params}))


async def family(api) -> list[dict[str, Any]]:
    """All imports, oldest first, once they are final; the counters of each are checked."""

    async def final() -> list[dict[str, Any]] | None:
        jobs = (await api.get()).json()["imports"][::-1]
        return jobs if all(job["status"] in FINAL for job in jobs) else None

    jobs = await eventually(final)
    for job in jobs:
        await api.check_books(job)
    return jobs


async def stored(api) -> list[tuple[Any, ...]]:
    """The users, by e-mail."""
    cursor = await api.conn.execute("SELECT email, name, role, active FROM users ORDER BY email")
    return await cursor.fetchall()


def cell(page: Page, column: str, line: int) -> Locator:
    return page.get_by_label(f"{column}, line {line}", exact=True)


async def expect_numbers(page: Page, text: str) -> None:
    """The numbers beside the bar, separated by points."""
    bar = page.get_by_role("region", name="All refused records")
    await expect(bar.get_by_role("list").first.get_by_role("listitem")).to_have_text(text.split(" · "))


async def add_rule(page: Page, **choices: str) -> None:
    await page.get_by_role("button", name="Add a rule").click()
    for label, value in choices.items():
        field = page.get_by_label(label.replace("_", " "), exact=True)
        if await field.evaluate("field => field.tagName") == "SELECT":
            await field.select_option(label=value)
        else:
            await field.fill(value)
    await page.get_by_role("button", name="Add the rule").click()


async def send(page: Page, label: str) -> None:
    await page.get_by_role("button", name=label, exact=True).click()


async def call_module(page: Page, name: str, script: str, argument: Any = None) -> Any:
    """The result of `script`, a function of the page's module `name` and of the argument."""
    return await page.evaluate(
        f"""async (argument) => {{
            const app = document.querySelector('script[src$="/app.js"]').src
            return ({script})(await import(new URL({name!r}, app)), argument)
        }}""",
        argument,
    )
