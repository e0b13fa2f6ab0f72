"""Third-party files of the pages, kept in `assets/vendor`. `python -m api.console.vendor` fetches them again with npm.

VENDORED.json lists each package with its version, licence, npm integrity and the SHA-256 of each file. `verify` compares
them without a network, so that a changed file does not go unnoticed.
"""

import base64
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "assets" / "vendor"
MANIFEST = FOLDER / "VENDORED.json"


def manifest() -> dict[str, Any]:
    return json.loads(MANIFEST.read_text())


def verify() -> list[str]:
    """What differs between the folder and the manifest: files that are missing, changed or not listed. Empty if nothing does."""
    expected = {
        f"{folder}/{name}": digest
        for folder, package in manifest().items()
        for name, digest in package["files"].items()
    }
    found = {
        path.relative_to(FOLDER).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in FOLDER.rglob("*")
        if path.is_file() and path != MANIFEST
    }
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))


def renew() -> None:
    """Fetches the packages of the manifest with npm, checks their integrity, and writes their files and digests."""
    packages = manifest()
    for folder, package in packages.items():
        archive = _fetch(f"{package['package']}@{package['version']}")
        integrity = "sha512-" + base64.b64encode(hashlib.sha512(archive).digest()).decode()
        if integrity != package["integrity"]:
            sys.exit(f"{package['package']}: the integrity is {integrity}, not that of VENDORED.json")
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            for name in package["files"]:
                member = tar.extractfile(f"package/{name}")
                if member is None:
                    sys.exit(f"{package['package']} has no file {name}")
                content = member.read()
                target = FOLDER / folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
                package["files"][name] = hashlib.sha256(content).hexdigest()
    MANIFEST.write_text(json.dumps(packages, indent=2) + "\n")


def _fetch(package: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", "--pack-destination", folder, package], check=True)
        return next(Path(folder).iterdir()).read_bytes()


if __name__ == "__main__":
    renew()
