"""A new resource is one file, one entry in the registry and one migration."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support import ROOT

PACKAGES = ("api", "db", "monitoring", "workers", "tests")
NEW = Path(__file__).parent / "new_resource"
REGISTRY = "for resource in (USERS, ARTICLES, COMMENTS)"


def test_a_resource_is_added_in_a_copy_of_the_project(tmp_path):
    """Nothing else of the project is changed, and `new_resource/check_tags.py` passes there."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    _add_resource(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/system/new_resource/check_tags.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _add_resource(project: Path) -> None:
    shutil.copy(NEW / "tags.py", project / "db/resources")
    registry = project / "db/resources/__init__.py"
    text = registry.read_text()
    assert REGISTRY in text
    registry.write_text(
        text.replace(REGISTRY, REGISTRY.replace("COMMENTS", "COMMENTS, TAGS")).replace(
            "from db.resources.users", "from db.resources.tags import TAGS\nfrom db.resources.users"
        )
    )
    migrations = project / "db/migrations"
    last = max(path.stem for path in migrations.glob("*.sql") if not path.stem.endswith(".rollback"))
    (migrations / "9999.tags.sql").write_text(f"-- depends: {last}\n\n{(NEW / 'tags.sql').read_text()}")
