"""Three hosts, each with etcd, Patroni and PostgreSQL."""

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psycopg
from psycopg.sql import SQL, Identifier, Literal

from db.embedded import binaries
from tests.cluster import network, patroni
from tests.cluster.network import ADDRESSES, NODES
from tests.cluster.patroni import PASSWORDS
from tests.support import postgres
from tests.support.eventually import eventually

# a busy machine must not make etcd elect a new leader: without one Patroni makes the primary read-only
ETCD_MILLISECONDS = {"heartbeat-interval": "250", "election-timeout": "2500"}
REQUEST_SECONDS = 2
# more than a node needs to come back on a busy machine
WHOLE_SECONDS = 180


class Node:
    """One host. `folder` has its files and logs."""

    def __init__(self, name: str, folder: Path, *, bin_dir: Path, program: Path) -> None:
        self.name = name
        self.address = ADDRESSES[name]
        self.folder = folder
        self.program = program
        self.folder.mkdir(mode=0o755)
        self.identity = binaries.identity(bin_dir, folder)
        if user := self.identity.popen.get("user"):
            os.chown(folder, user, self.identity.popen["group"])
        self.configuration = patroni.write_configuration(name, folder, bin_dir=bin_dir)
        self.etcd: subprocess.Popen[bytes] | None = None
        self.patroni: subprocess.Popen[bytes] | None = None

    def start_etcd(self) -> None:
        base = f"http://{self.address}"
        options = {
            "name": self.name,
            "data-dir": str(self.folder / "etcd"),
            "listen-peer-urls": f"{base}:2380",
            "initial-advertise-peer-urls": f"{base}:2380",
            "listen-client-urls": f"{base}:2379",
            "advertise-client-urls": f"{base}:2379",
            "initial-cluster": ",".join(f"{node}=http://{ADDRESSES[node]}:2380" for node in NODES),
            **ETCD_MILLISECONDS,
        }
        pairs = [f"--{name}={value}" for name, value in options.items()]
        self.etcd = self._start("etcd", ["etcd", "--pre-vote", *pairs])

    def start_patroni(self) -> None:
        command = [*self.identity.prefix, str(self.program), str(self.configuration)]
        self.patroni = self._start("patroni", command, **self.identity.popen)

    def _start(self, name: str, command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [*network.inside(self.name), *command],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **options,
            )

    def postgres(self) -> list[int]:
        """The pids of PostgreSQL's processes on this host."""
        return [pid for pid, name in self._processes() if name == "postgres"]

    def _processes(self) -> Iterator[tuple[int, str]]:
        """Pid and name of all processes on this host."""
        host = Path(f"/run/netns/{self.name}").stat().st_ino
        for entry in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                pid = int(entry.name)
                if (entry / "ns" / "net").stat().st_ino == host:
                    yield pid, (entry / "comm").read_text().strip()

    def kill_postgres(self) -> None:
        """SIGKILL to all of PostgreSQL's processes."""
        _signal(self.postgres(), signal.SIGKILL)

    def kill(self) -> None:
        """SIGKILL to Patroni and PostgreSQL; etcd lives."""
        assert self.patroni
        _signal([self.patroni.pid, *self.postgres()], signal.SIGKILL)
        self.patroni.wait()

    async def stop(self) -> None:
        """Stops Patroni, which stops PostgreSQL."""
        assert self.patroni
        self.patroni.send_signal(signal.SIGTERM)
        await eventually(lambda: self.patroni is None or self.patroni.poll() is not None)

    def freeze(self) -> list[int]:
        """SIGSTOP to Patroni and PostgreSQL. Returns the pids, for `thaw`."""
        assert self.patroni
        pids = [self.patroni.pid, *self.postgres()]
        _signal(pids, signal.SIGSTOP)
        return pids

    def thaw(self, pids: Sequence[int]) -> None:
        _signal(pids, signal.SIGCONT)

    def log_tail(self, lines: int = 15) -> list[str]:
        """The last lines of Patroni's log."""
        text = (self.folder / "patroni.log").read_text(errors="replace")
        return [f"{self.name}: {line}" for line in text.splitlines()[-lines:]]


class Cluster:
    """The three nodes. What they report is asked over the network, from the side of the test."""

    def __init__(self, folder: Path, *, program: Path) -> None:
        bin_dir = postgres.bin_dir() or binaries.find()
        self.nodes = {name: Node(name, folder / name, bin_dir=bin_dir, program=program) for name in NODES}

    async def start(self) -> None:
        """Returns when there are a primary and two standbys that acknowledge its commits."""
        for node in self.nodes.values():
            node.start_etcd()
        for node in self.nodes.values():
            node.start_patroni()
        await self.whole()
        with psycopg.connect(self.url("postgres", user="postgres"), autocommit=True) as conn:
            conn.execute(SQL("CREATE ROLE bulk LOGIN PASSWORD {}").format(Literal(PASSWORDS["bulk"])))

    async def members(self) -> list[dict[str, Any]]:
        """What Patroni knows of its members, from the first node that responds."""
        async with httpx.AsyncClient(timeout=REQUEST_SECONDS) as client:
            for node in self.nodes.values():
                with suppress(httpx.TransportError):
                    return (await client.get(f"http://{node.address}:8008/cluster")).json()["members"]
        return []

    async def whole(self) -> None:
        """Waits until all three are in use: one primary, two quorum standbys on its timeline."""

        async def is_whole() -> bool:
            members = await self.members()
            roles = sorted(member["role"] for member in members if member["state"] in ("running", "streaming"))
            return (
                roles == ["leader", "quorum_standby", "quorum_standby"]
                and len({m.get("timeline") for m in members}) == 1
            )

        await eventually(is_whole, within=WHOLE_SECONDS)

    async def primary(self) -> Node:
        return next(self.nodes[member["name"]] for member in await self.members() if member["role"] == "leader")

    async def standbys(self) -> list[Node]:
        primary = await self.primary()
        return [node for node in self.nodes.values() if node is not primary]

    async def switch_over(self, candidate: Node) -> None:
        """The planned change of the primary. Returns when Patroni reports that it is done."""
        leader = await self.primary()
        async with httpx.AsyncClient(timeout=120) as client:
            answer = await client.post(
                f"http://{leader.address}:8008/switchover", json={"leader": leader.name, "candidate": candidate.name}
            )
        assert answer.status_code == 200, answer.text

    def url(self, database: str, *, user: str = "bulk", only: Node | None = None) -> str:
        """The URL of whichever node is the primary, or of one node."""
        nodes = [only] if only else self.nodes.values()
        hosts = ",".join(f"{node.address}:5432" for node in nodes)
        return f"postgresql://{user}:{PASSWORDS[user]}@{hosts}/{database}?target_session_attrs=read-write"

    def create_database(self, name: str, *, owner: str = "bulk") -> str:
        """An empty database, and its URL."""
        with psycopg.connect(self.url("postgres", user="postgres"), autocommit=True) as conn:
            conn.execute(SQL("CREATE DATABASE {} OWNER {}").format(Identifier(name), Identifier(owner)))
        return self.url(name, user=owner)

    def drop_database(self, name: str) -> None:
        with psycopg.connect(self.url("postgres", user="postgres"), autocommit=True) as conn:
            conn.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


def _signal(pids: Sequence[int], signum: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signum)
