"""The console over HTTP: one shell for every page, files that browsers may keep, vendored files as they were published."""

import asyncio
import re
import sys
from typing import get_args

import pytest

from api.console import assets, vendor
from db.resources.definition import Code
from tests.support.eventually import in_time

KEY = "a-key-for-the-console"
SERVICE = {"run": ["api"], "api_keys": KEY}


def test_every_code_of_an_error_has_a_remedy():
    """The pages say what to do about each code that the service can report."""
    causes = (assets.FOLDER / "causes.js").read_text().partition("export const CAUSES = {")[2].partition("\n}\n")[0]
    assert set(re.findall(r"^  (\w+): {", causes, re.MULTILINE)) == set(get_args(Code))


def test_vendored_files_are_those_that_were_published():
    assert vendor.verify() == []
    for name, package in vendor.manifest().items():
        assert package["integrity"].startswith("sha512-")
        assert package["licence"]
        assert (vendor.FOLDER / name / "LICENSE").is_file()


async def test_every_page_has_the_same_shell_without_a_key(api):
    """The shell needs no key, is never cached, and allows neither foreign scripts nor frames."""
    shell = await api.client.get("/")
    for path in ("/ui", "/ui/imports", "/ui/imports/01a2/mend?code=x", "/ui/no/such/page"):
        page = await api.client.get(path)
        assert (page.status_code, page.content) == (200, shell.content)
    assert shell.headers["Content-Type"] == "text/html; charset=utf-8"
    assert shell.headers["Cache-Control"] == "no-store"
    policy = shell.headers["Content-Security-Policy"]
    assert "default-src 'none'; script-src 'self'" in policy
    assert "require-trusted-types-for 'script'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert "<script>" not in shell.text


async def test_what_the_shell_refers_to_may_be_cached_for_good(api):
    """Each file of the page exists under the current edition, compressed if accepted; another edition is 404."""
    for page in ("/", "/docs"):
        text = (await api.client.get(page)).text
        paths = re.findall(r'(?:src|href)="(/ui/assets/[^"]+)"', text)
        assert len(paths) > 3
        for path in paths:
            packed = await api.client.get(path, headers={"Accept-Encoding": "gzip"})
            plain = await api.client.get(path, headers={"Accept-Encoding": "identity"})
            assert (packed.status_code, plain.status_code) == (200, 200)
            assert packed.headers["Content-Encoding"] == "gzip"
            assert "Content-Encoding" not in plain.headers
            assert packed.content == plain.content
            assert plain.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    old = await api.client.get(re.sub("assets/[0-9a-f]+/", "assets/0123456789ab/", paths[0]))
    assert (old.status_code, old.json()["type"]) == (404, "/problems/not-found")


@pytest.mark.parametrize("path", ["../console/routes.py", "%2e%2e/routes.py", "vendor/../../__init__.py", "nothing.js"])
async def test_nothing_else_is_served(api, path):
    edition = re.search(r"/ui/assets/([0-9a-f]+)/", (await api.client.get("/")).text)
    assert edition
    answer = await api.client.get(f"/ui/assets/{edition[1]}/{path}")
    # a path that is normalised by the client is the address of a page, which is the shell
    assert answer.status_code == 404 or answer.text.startswith("<!doctype html>")


async def test_the_pages_open_no_other_address(api):
    """The API and the OpenAPI document still need the key."""
    for path in ("/api/v1/imports", "/schema/openapi.json", "/uix", "/docsx"):
        assert (await api.client.get(path)).status_code == 401


async def test_the_documents_are_pages(api):
    """Headings have anchors, links between documents lead to their pages, and nothing of them is a script."""
    pages = {path: await api.client.get(path) for path in ("/docs/guide", "/docs/guide/db", "/docs/guide/monitoring")}
    for page in pages.values():
        assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert "script-src" not in page.headers["Content-Security-Policy"]
        targets = re.findall(r'href="(/docs/guide[^"#]*)', page.text)
        assert set(targets) <= set(pages)
        assert "README.md" not in re.findall(r'href="([^"]*)"', page.text)
    assert 'id="post-imports"' in pages["/docs/guide"].text
    assert (await api.client.get("/docs/guide/nothing")).status_code == 404


async def test_the_service_gives_out_the_command(api, tmp_path):
    """The file runs on its own, and is the command of this version."""
    answer = await api.client.get("/bulk.pyz")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="bulk.pyz"'
    file = tmp_path / "bulk.pyz"
    file.write_bytes(answer.content)
    ran = await asyncio.create_subprocess_exec(
        sys.executable, "-I", str(file), "import", "--help", cwd=tmp_path, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await in_time(ran.communicate())
    assert ran.returncode == 0
    assert b"--mode" in output
