"""The READMEs of the project's folders as pages: `/docs/guide` is `api/README.md`. Rendered once, without any script."""

import re
from functools import cache
from html import escape
from itertools import pairwise
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token

from api.console import assets

ROOT = Path(__file__).parents[2]
# the pages by the last part of their address, and their documents
DOCUMENTS = {"": "api/README.md", "db": "db/README.md", "monitoring": "monitoring/README.md"}
_TITLES = {"": "HTTP reference", "db": "Database", "monitoring": "Monitoring"}


@cache
def page(name: str) -> bytes | None:
    """The document as HTML; None if there is none with this name."""
    shell = assets.get("guide.html")
    if shell is None or name not in DOCUMENTS:
        return None
    document = DOCUMENTS[name]
    markdown = MarkdownIt("commonmark").enable("table")
    tokens = markdown.parse((ROOT / document).read_text())
    _set_anchors(tokens)
    _set_links(tokens, PurePosixPath(document).parent)
    body = markdown.renderer.render(tokens, markdown.options, {})
    return (
        shell.content.replace(b"{title}", escape(_TITLES[name]).encode())
        .replace(b"{navigation}", _navigation(name).encode())
        .replace(b"{body}", body.encode())
    )


def _navigation(current: str) -> str:
    return "".join(
        f'<a href="{address(name)}"{" aria-current=page" if name == current else ""}>{escape(title)}</a>'
        for name, title in _TITLES.items()
    )


def address(name: str) -> str:
    return f"/docs/guide/{name}".rstrip("/")


def _set_anchors(tokens: list[Token]) -> None:
    """Gives headings the ids that links within READMEs use: lower case, no punctuation, hyphens for spaces."""
    for heading, text in pairwise(tokens):
        if heading.type == "heading_open":
            heading.attrSet("id", re.sub(r"[^\w\- ]", "", text.content.lower()).replace(" ", "-"))


def _set_links(tokens: list[Token], folder: PurePosixPath) -> None:
    """Points links to other documents to their pages. Links to files that have no page lose their address."""
    pages = {document: address(name) for name, document in DOCUMENTS.items()}
    for token in tokens:
        for child in token.children or ():
            href = child.attrGet("href")
            if child.type != "link_open" or not isinstance(href, str):
                continue
            parts = urlsplit(href)
            if parts.scheme or not parts.path or parts.path.startswith("/"):
                continue
            target = pages.get(_normalised(folder / parts.path))
            if target is None:
                del child.attrs["href"]
            else:
                child.attrSet("href", target + (f"#{parts.fragment}" if parts.fragment else ""))


def _normalised(path: PurePosixPath) -> str:
    parts: list[str] = []
    for part in path.parts:
        if part == "..":
            parts = parts[:-1]
        else:
            parts.append(part)
    return "/".join(parts)
