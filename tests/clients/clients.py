"""The clients. Each uploads a file in the forms that it supports, and saves what a URL returns.

A form is `length` (the file as the body, its length announced), `chunked` (the same without its length) or `form` (multipart).
"""

import asyncio
import shutil
import subprocess
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import httpx
import pytest
import requests

PROGRAMS = Path(__file__).parent / "programs"
BLOCK_BYTES = 64 * 1024
TIMEOUT_SECONDS = 120
CSV = {"Content-Type": "text/csv"}


class Client(Protocol):
    forms: tuple[str, ...]

    async def upload(self, form: str, url: str, file: Path) -> str:
        """The body of the response."""
        ...

    async def save(self, url: str, to: Path) -> None: ...


def blocks(file: Path) -> Iterator[bytes]:
    """The file in pieces, from which no client can see its length."""
    with file.open("rb") as data:
        while block := data.read(BLOCK_BYTES):
            yield block


async def blocks_async(file: Path) -> AsyncIterator[bytes]:
    for block in blocks(file):
        yield block


# ── command lines ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def run(*command: str | Path, stdin: Path | None = None) -> str:
    """What the program prints. Skips the test when it is not installed, fails when it fails."""
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"needs {command[0]}")

    def call() -> subprocess.CompletedProcess[str]:
        with (stdin or Path("/dev/null")).open("rb") as data:
            return subprocess.run(command, stdin=data, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)

    done = await asyncio.to_thread(call)
    assert done.returncode == 0, f"{command[0]} ended with {done.returncode}: {done.stdout} {done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Curl:
    option: str
    forms: tuple[str, ...] = ("length", "chunked", "form", "upload")

    async def upload(self, form: str, url: str, file: Path) -> str:
        arguments: dict[str, list[str]] = {
            "length": ["-H", "Content-Type: text/csv", "--data-binary", f"@{file}"],
            "chunked": ["-X", "POST", "-H", "Content-Type: text/csv", "-T", "-"],
            "form": ["-F", f"file=@{file}"],
            "upload": ["-X", "POST", "-H", "Content-Type: text/csv", "-T", str(file)],
        }
        return await run("curl", "-sS", "--fail-with-body", self.option, *arguments[form], url, stdin=file)

    async def save(self, url: str, to: Path) -> None:
        await run("curl", "-sS", "--fail-with-body", self.option, "-o", to, url)


@dataclass(frozen=True)
class Wget:
    forms: tuple[str, ...] = ("length",)

    async def upload(self, form: str, url: str, file: Path) -> str:
        return await run("wget", "-q", "-O", "-", "--header=Content-Type: text/csv", f"--post-file={file}", url)

    async def save(self, url: str, to: Path) -> None:
        await run("wget", "-q", "-O", to, url)


@dataclass(frozen=True)
class Program:
    """A program in `programs/`: `upload FORM URL FILE` prints the response, `save URL FILE` saves it."""

    command: tuple[str, ...]
    forms: tuple[str, ...] = ("length", "chunked", "form")

    async def upload(self, form: str, url: str, file: Path) -> str:
        return await run(*self.command, "upload", form, url, file)

    async def save(self, url: str, to: Path) -> None:
        await run(*self.command, "save", url, to)


def program(interpreter: str, *arguments: str, **options: Any) -> Program:
    *before, name = arguments
    return Program((interpreter, *before, str(PROGRAMS / name)), **options)


# ── Python ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class InThread:
    """A synchronous client of Python."""

    upload_with: Callable[[str, str, Path], str]
    save_with: Callable[[str], bytes]
    forms: tuple[str, ...] = ("length", "chunked", "form")

    async def upload(self, form: str, url: str, file: Path) -> str:
        return await asyncio.to_thread(self.upload_with, form, url, file)

    async def save(self, url: str, to: Path) -> None:
        to.write_bytes(await asyncio.to_thread(self.save_with, url))


def httpx_upload(form: str, url: str, file: Path) -> str:
    options: dict[str, Callable[[], dict[str, Any]]] = {
        "length": lambda: {"content": file.read_bytes(), "headers": CSV},
        "chunked": lambda: {"content": blocks(file), "headers": CSV},
        "form": lambda: {"files": {"file": (file.name, file.read_bytes())}},
    }
    return httpx.post(url, timeout=TIMEOUT_SECONDS, **options[form]()).raise_for_status().text


def httpx_save(url: str) -> bytes:
    return httpx.get(url, timeout=TIMEOUT_SECONDS).raise_for_status().content


def requests_upload(form: str, url: str, file: Path) -> str:
    with file.open("rb") as data:
        options: dict[str, dict[str, Any]] = {
            "length": {"data": data, "headers": CSV},
            "chunked": {"data": blocks(file), "headers": CSV},
            "form": {"files": {"file": (file.name, data)}},
        }
        response = requests.post(url, timeout=TIMEOUT_SECONDS, **options[form])
    response.raise_for_status()
    return response.text


def requests_save(url: str) -> bytes:
    response = requests.get(url, timeout=TIMEOUT_SECONDS)
    response.raise_for_status()
    return response.content


def urllib_upload(form: str, url: str, file: Path) -> str:
    data: Any = blocks(file) if form == "chunked" else file.read_bytes()
    request = urllib.request.Request(url, data=data, headers=CSV, method="POST")
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
        return response.read().decode()


def urllib_save(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:
        return response.read()


@dataclass(frozen=True)
class Aiohttp:
    forms: tuple[str, ...] = ("length", "chunked", "form")
    limits: aiohttp.ClientTimeout = field(default_factory=lambda: aiohttp.ClientTimeout(total=TIMEOUT_SECONDS))

    async def upload(self, form: str, url: str, file: Path) -> str:
        data: Any
        headers = CSV
        if form == "length":
            data = file.read_bytes()
        elif form == "chunked":
            data = blocks_async(file)
        else:
            data, headers = aiohttp.FormData(), {}
            data.add_field("file", file.read_bytes(), filename=file.name)
        async with (
            aiohttp.ClientSession(timeout=self.limits, raise_for_status=True) as session,
            session.post(url, data=data, headers=headers) as response,
        ):
            return await response.text()

    async def save(self, url: str, to: Path) -> None:
        async with (
            aiohttp.ClientSession(timeout=self.limits, raise_for_status=True) as session,
            session.get(url) as response,
        ):
            to.write_bytes(await response.read())


# ── Chromium ──────────────────────────────────────────────────────────────────────────────────────────────────────────

FETCH = """async ([url, form, text]) => {
    const body = form === "form" ? new FormData() : new Blob([text], {type: "text/csv"});
    if (form === "form") body.append("file", new Blob([text]), "users.csv");
    const response = await fetch(url, form === "save" ? {} : {method: "POST", body});
    if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);
    return await response.text();
}"""
XHR = """([url, form, text]) => new Promise((resolve, reject) => {
    const body = form === "form" ? new FormData() : new Blob([text], {type: "text/csv"});
    if (form === "form") body.append("file", new Blob([text]), "users.csv");
    const request = new XMLHttpRequest();
    request.onload = () => request.status < 300 ? resolve(request.responseText) : reject(new Error(request.responseText));
    request.onerror = () => reject(new Error("the connection broke"));
    request.open(form === "save" ? "GET" : "POST", url);
    request.send(form === "save" ? null : body);
})"""


@dataclass(frozen=True)
class Chromium:
    script: str
    forms: tuple[str, ...] = ("length", "form")

    async def upload(self, form: str, url: str, file: Path) -> str:
        return await self._evaluate(url, form, file.read_text())

    async def save(self, url: str, to: Path) -> None:
        to.write_text(await self._evaluate(url, "save", ""))

    async def _evaluate(self, url: str, form: str, text: str) -> str:
        # imported here: no other client needs a browser
        from tests.support import chromium

        async with chromium.launch() as browser:
            page = await browser.new_page()
            # a page of the same origin
            await page.goto(str(httpx.URL(url).copy_with(path="/live", query=None)))
            return await page.evaluate(self.script, [url, form, text])


CLIENTS: dict[str, Client] = {
    "curl --http1.0": Curl("--http1.0", forms=("length", "form", "upload")),
    "curl --http1.1": Curl("--http1.1"),
    "curl --http2": Curl("--http2"),
    "wget": Wget(),
    "httpx": InThread(httpx_upload, httpx_save),
    "requests": InThread(requests_upload, requests_save),
    "urllib": InThread(urllib_upload, urllib_save, forms=("length", "chunked")),
    "aiohttp": Aiohttp(),
    "Node fetch": program("node", "fetch.mjs"),
    "Node http": program("node", "http.mjs", forms=("length", "chunked")),
    "Java HttpClient": program("java", "ModernClient.java"),
    "Java HttpURLConnection": program("java", "ClassicClient.java"),
    "Go net/http": program("go", "run", "client.go"),
    "Perl LWP": program("perl", "lwp.pl"),
    "Chromium fetch": Chromium(FETCH),
    "Chromium XMLHttpRequest": Chromium(XHR),
}

# fast, and always installed
IN_SUITE = ("curl --http1.0", "curl --http1.1", "curl --http2", "wget", "httpx", "requests", "urllib", "aiohttp")
