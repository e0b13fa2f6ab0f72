"""The page New import, for tests: a file, and the steps."""

import re

from playwright.async_api import Locator, Page, expect

from db import audit
from tests.support.factories import rows

# names in three languages, a column that is no field, and three faulty cells in two rows
HEADER = "Имя;E-Mail-Adresse;角色;aktiv;Notiz\r\n"
SOUND = "".join(f"Nutzer {n};user{n}@example.org;reader;true;n {n}\r\n" for n in range(10))
FAULTY = "Grace;grace@example.org;boss;true;x\r\nLinus;linus@example;reader;maybe;y\r\n"
FILE = (HEADER + SOUND + FAULTY).encode()
MAPPED = {"Имя": "name", "E-Mail-Adresse": "email", "角色": "role", "aktiv": "active", "Notiz": None}

# as a drop from the desktop: the event has files, whose content the page reads
DROP = """async (files) => {
    const dataTransfer = new DataTransfer()
    for (const [name, bytes] of files) dataTransfer.items.add(new File([new Uint8Array(bytes)], name))
    for (const type of ["dragover", "drop"]) {
        document.querySelector("main").dispatchEvent(new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true }))
    }
}"""


async def drop(page: Page, **files: bytes) -> None:
    """Drops files on the page; `users_csv=…` is users.csv."""
    await expect(page.get_by_role("heading", level=1)).to_be_visible()
    await page.evaluate(DROP, [[name.replace("_", "."), list(content)] for name, content in files.items()])


async def choose(page: Page, content: bytes) -> None:
    """Chooses a file that is too large to be dropped by a script."""
    async with page.expect_file_chooser() as choosing:
        await button(page, "Choose files").click()
    await (await choosing.value).set_files([{"name": "kunden.csv", "mimeType": "text/csv", "buffer": content}])


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name)


def mode(page: Page, name: str) -> Locator:
    return page.get_by_role("radio", name=re.compile(f"^{name} "))


def step(page: Page, name: str) -> Locator:
    return page.get_by_role("listitem").filter(has=page.get_by_role("heading", level=2, name=name, exact=True))


async def at(page: Page, name: str) -> None:
    """Waits until the step is the current one, which has the focus at its heading."""
    heading = page.get_by_role("heading", level=2, name=name, exact=True)
    await expect(page.locator("[aria-current=step]")).to_contain_text(name)
    await expect(heading).to_be_focused()


async def finished(page: Page) -> None:
    await expect(button(page, "Import another file")).to_be_visible()


async def imports(conn) -> list[list]:
    """`[resource, status, dry_run, columns]` of all imports, the oldest first. Fails if their counters do not balance."""
    found = await rows(conn, "SELECT id, resource, status, dry_run, columns FROM import_jobs ORDER BY id")
    for id, *_ in found:
        assert await audit.violations(conn, import_id=id, strict=True) == []
    return [job for _, *job in found]


async def emails(conn) -> list[str]:
    return [email for (email,) in await rows(conn, "SELECT email FROM users ORDER BY email")]
