"""The command as one file: `python bulk.pyz import users.csv`, on any machine with Python (zipapp, PEP 441)."""

import importlib.metadata
import io
import re
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
# what the client imports besides the standard library; their requirements are added
REQUIRED = ("httpx", "rich", "rich-click")
MAIN = "from api.client.command.main import main\n\nmain()\n"
# files of distributions that are for users and installers, not for Python
SKIPPED = re.compile(r"(^|/)(\.\.|__pycache__|bin|tests?)(/|$)|\.(pyc|so|pyd|exe)$")
INTERPRETER = b"#!/usr/bin/env python3\n"


def build() -> bytes:
    """Builds the file from this environment's packages. All of them are pure Python, so that it runs on any platform."""
    output = io.BytesIO()
    output.write(INTERPRETER)
    with zipfile.ZipFile(output, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__main__.py", MAIN)
        archive.write(ROOT / "api" / "__init__.py", "api/__init__.py")
        for path in sorted((ROOT / "api" / "client").rglob("*.py")):
            archive.write(path, path.relative_to(ROOT).as_posix())
        for name in sorted(_with_requirements(REQUIRED)):
            for file in importlib.metadata.files(name) or ():
                if not SKIPPED.search(file.as_posix()):
                    archive.write(Path(str(file.locate())), file.as_posix())
    return output.getvalue()


def _with_requirements(names: tuple[str, ...]) -> set[str]:
    """The distributions and their installed requirements, without extras."""
    found: set[str] = set()
    pending = list(names)
    while pending:
        name = pending.pop()
        if name in found:
            continue
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            # required by a marker that does not apply here
            continue
        found.add(name)
        required = (re.split(r"[^A-Za-z0-9._-]", one, maxsplit=1)[0] for one in requires if "extra ==" not in one)
        pending += [name.lower().replace("_", "-") for name in required]
    return found
