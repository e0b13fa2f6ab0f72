"""Patroni: the program, and the configuration that db/README.md recommends."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.cluster.network import ADDRESSES, NODES
from tests.support import programs

REQUIREMENTS = ("patroni[etcd3]==4.1.5", "psycopg[binary]>=3.2,<4")
# earlier ones may have two primaries after a network partition (the leader key in etcd is overwritten unconditionally)
OLDEST = (3, 0, 3)
# by user
PASSWORDS = {"postgres": "a", "replicator": "b", "bulk": "c"}

# of the cluster. Without a limit of its stop, a primary that was cut off hangs in it, and does not come back: at its end a
# worker's session removes its temporary table, and waits for a standby to acknowledge that, which nothing interrupts
RECOMMENDED = {"ttl": 20, "loop_wait": 3, "retry_timeout": 5, "synchronous_mode": "quorum", "primary_stop_timeout": 10}


def find() -> Path:
    """The path of the program, which is installed into an environment of its own if it is missing."""
    known = programs.find("patroni")
    return _checked(Path(known) if known else _installed())


def _installed() -> Path:
    subprocess.run([sys.executable, "-m", "venv", programs.PATRONI], check=True)
    pip = [programs.PATRONI / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *REQUIREMENTS], check=True)
    return programs.PATRONI / "bin" / "patroni"


def _checked(program: Path) -> Path:
    """Exits if the version is too old."""
    version = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
    if tuple(int(number) for number in re.findall(r"\d+", version)[:3]) < OLDEST:
        raise SystemExit(f"{version.strip()} is too old: the cluster needs {'.'.join(map(str, OLDEST))} or newer")
    return program


def write_configuration(name: str, place: Path, *, bin_dir: Path) -> Path:
    """Writes the configuration of a node, whose files are in `place`."""
    address = ADDRESSES[name]
    configuration: dict[str, Any] = {
        "scope": "bulk",
        "name": name,
        "log": {"level": "INFO"},
        "restapi": {"listen": f"{address}:8008", "connect_address": f"{address}:8008"},
        "etcd3": {"hosts": [f"{ADDRESSES[node]}:2379" for node in NODES]},
        "bootstrap": {
            "dcs": {
                **RECOMMENDED,
                "postgresql": {
                    "use_pg_rewind": True,
                    "use_slots": True,
                    "parameters": {
                        "max_connections": 150,
                        "shared_buffers": "64MB",
                        "max_wal_size": "256MB",
                        # for a node that comes back late on a busy machine
                        "wal_keep_size": "1GB",
                        "max_slot_wal_keep_size": "2GB",
                        # apart from Patroni's log
                        "logging_collector": "on",
                    },
                },
            },
            "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, "data-checksums"],
        },
        "postgresql": {
            "listen": f"{address}:5432",
            "connect_address": f"{address}:5432",
            "data_dir": str(place / "data"),
            "bin_dir": str(bin_dir),
            "pgpass": str(place / "pgpass"),
            "parameters": {"unix_socket_directories": str(place)},
            "pg_hba": [
                "local all all scram-sha-256",
                "host all all samenet scram-sha-256",
                "host replication replicator samenet scram-sha-256",
            ],
            "authentication": {
                "superuser": {"username": "postgres", "password": PASSWORDS["postgres"]},
                "replication": {"username": "replicator", "password": PASSWORDS["replicator"]},
            },
        },
    }
    path = place / "patroni.json"
    # JSON is YAML
    path.write_text(json.dumps(configuration, indent=2))
    return path
