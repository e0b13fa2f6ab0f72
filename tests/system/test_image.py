"""The image of the service: its entry point, with only the files of the image; and the image, where docker has a base for it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from tests.support import ROOT
from tests.support.eventually import PATIENCE_SECONDS, eventually
from tests.support.service import unused_port

KEY = "0123456789abcdef"
BASE = os.environ.get("TEST_IMAGE_BASE")

FAULTY = """\
email,name,role,active
grace@example.org,Grace Hopper,author,true
linus@example,Linus,reader,true
"""
# corrects what is refused, prints the users that are then stored, and imports them once more from a workbook
MAIN_JOB = """\
bulk import users.csv --resource users --allow-refused
EDITOR='sed -i s/linus@example,/linus@example.org,/' bulk fix last
bulk export users --format csv --output /tmp/users.csv
cut -d , -f 2-5 /tmp/users.csv
bulk export users --output /tmp/users.xlsx
bulk import /tmp/users.xlsx --resource users --mode upsert
"""


@pytest.fixture
def tree(tmp_path) -> Path:
    """A folder with only those files that .dockerignore lets into the image."""
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line.startswith("!/"):
            source, target = ROOT / line[2:], tmp_path / "tree" / line[2:]
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
    return tmp_path / "tree"


async def test_the_entry_point_needs_only_the_files_of_the_image(tree, tmp_path, empty_database_url):
    """`migrate` makes the tables, and `api` serves every kind of page with a key from a file. It replaces the shell: SIGTERM
    stops the API in order. The health check passes while it runs, and fails afterwards."""
    (tmp_path / "keys").write_text(f"{KEY}\n")
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "PYTHONPATH": str(tree),
        "PYTHONSAFEPATH": "1",
        "DATABASE_URL": empty_database_url,
        "DATA_DIR": str(tmp_path / "data"),
        "EXPORT_DIR": str(tmp_path / "exports"),
        "HTTP_HOST": "127.0.0.1",
        "HTTP_PORT": str(unused_port()),
        "API_KEYS_FILE": str(tmp_path / "keys"),
    }
    entry_point, probe = str(tree / ".deploy" / "entrypoint"), [sys.executable, str(tree / ".deploy" / "healthy.py")]
    code, output = ended(start([entry_point, "migrate"], environment, tmp_path))
    assert (code, "applied 0001" in output) == (0, True)
    api = start([entry_point, "api"], environment, tmp_path)
    try:
        await eventually(lambda: ended(start(probe, environment, tmp_path))[0] == 0)
        url = f"http://127.0.0.1:{environment['HTTP_PORT']}"
        async with httpx.AsyncClient(base_url=url, headers={"X-API-Key": KEY}, timeout=PATIENCE_SECONDS) as client:
            for path in ("/api/v1/imports", "/health", "/ui/imports", "/docs/guide/db", "/bulk.pyz"):
                assert (await client.get(path)).status_code == 200, path
        api.send_signal(signal.SIGTERM)
        code, output = ended(api)
        assert (code, '"event": "stopped"' in output) == (0, True)
    finally:
        api.kill()
    assert ended(start(probe, environment, tmp_path))[0] == 1


def start(command: list[str], environment: dict[str, str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit code and the output."""
    output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, output


class Docker:
    """Containers of one test, on the network of this machine, where its database is."""

    def __init__(self, image: str, volume: str, settings: dict[str, str]) -> None:
        self.image = image
        self.volume = volume
        self.settings = settings
        self.containers: list[str] = []

    def run(self, *arguments: str, options: tuple[str, ...] = ()) -> str:
        """Runs a command of the image, confined as in compose.yaml. Returns its output, or the container's id with --detach."""
        name = f"{self.volume}-{len(self.containers)}"
        self.containers.append(name)
        confined = ("--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges:true")
        variables = [f"--env={variable}={value}" for variable, value in self.settings.items()]
        mount = f"--volume={self.volume}:/exports"
        place = (f"--name={name}", "--network=host", mount)
        return docker("run", *place, *confined, *variables, *options, self.image, *arguments).strip()

    def state(self, container: str) -> dict:
        return json.loads(docker("inspect", "--format={{json .State}}", container))


def docker(*arguments: str) -> str:
    """The output; fails with what docker has said."""
    done = subprocess.run(
        ["docker", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=10 * PATIENCE_SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    name = f"bulk-test-{uuid4().hex}"
    base = f"--build-arg=PYTHON_IMAGE={BASE}"
    docker("build", "--quiet", "--network=host", base, "--file=.deploy/Dockerfile", f"--tag={name}", ".")
    yield name
    docker("image", "rm", name)


@pytest.fixture
def containers(image, empty_database_url, tmp_path) -> Iterator[Docker]:
    volume = f"bulk-test-{uuid4().hex}"
    settings = {
        "DATABASE_URL": empty_database_url,
        "HTTP_HOST": "127.0.0.1",
        "HTTP_PORT": str(unused_port()),
        "API_KEYS": KEY,
        "WORKER_POOL_SIZE": "2",
    }
    started = Docker(image, volume, settings)
    yield started
    for container in started.containers:
        docker("rm", "--force", container)
    docker("volume", "rm", "--force", volume)


@pytest.mark.slow
@pytest.mark.needs("docker")
@pytest.mark.skipif(BASE is None, reason="TEST_IMAGE_BASE does not name an image with Python")
@pytest.mark.parametrize("init", [(), ("--init",)], ids=["as process 1", "below an init process"])
async def test_the_image_does_the_main_job(containers, tmp_path, init):
    """Without root, capabilities, or a writable image: a file with a refused record is imported, corrected and exported by
    `bulk`, also as a workbook, which a process of its own reads. Both health checks pass, and `docker stop` lets both processes
    end in order."""
    assert "applied 0001" in containers.run("migrate", options=init)
    api = containers.run("api", options=("--detach", *init))
    workers = containers.run("workers", options=("--detach", *init))
    for container in (api, workers):
        await eventually(lambda container=container: containers.state(container)["Health"]["Status"] == "healthy")
    tmp_path.chmod(0o755)
    (tmp_path / "users.csv").write_text(FAULTY)
    url = f"http://127.0.0.1:{containers.settings['HTTP_PORT']}"
    client = (
        f"--env=BULK_URL={url}",
        f"--env=BULK_API_KEY={KEY}",
        f"--volume={tmp_path}:/files:ro",
        "--workdir=/files",
    )
    printed = containers.run("sh", "-euc", MAIN_JOB, options=client)
    assert sorted(re.findall(r"^\S+@.*$", printed, re.MULTILINE)) == [
        "grace@example.org,Grace Hopper,author,true",
        "linus@example.org,Linus,reader,true",
    ]
    assert docker("exec", api, "id", "--user") == "10001\n"
    docker("stop", api, workers)
    assert [containers.state(container)["ExitCode"] for container in (api, workers)] == [0, 0]
    assert '"event": "stopped"' in docker("logs", api)
    assert '"event": "worker pool stopped"' in docker("logs", workers)
