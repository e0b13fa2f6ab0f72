"""Access to the embedded server: its socket folder can be entered only by its owner.

The server listens on a Unix socket in DATA_DIR/socket, a folder of mode 0700, and requires no password there. The service's role
owns the database and is not a superuser. Tests connect through proxies and create databases; they add `TCP` to the options. Then
the server also listens on loopback, requires SCRAM there, and the URL is that of the superuser.
"""

import os
from pathlib import Path
from urllib.parse import quote

from db.embedded.binaries import EmbeddedError, Identity

# the database and the role of the service
NAME = "bulk"
SUPERUSER = "postgres"
TCP = {"listen_addresses": "127.0.0.1"}
# the number in the name of the socket; no other server uses the folder
SOCKET_PORT = 5432
# the path in sockaddr_un has 108 bytes on Linux and 104 on macOS, including the final NUL
SOCKET_PATH_BYTES_MAX = 103

HBA = """# written at each start by db.embedded
local all all trust
local replication all trust
host all all 127.0.0.1/32 scram-sha-256
host replication all 127.0.0.1/32 scram-sha-256
"""


def socket_folder(data_path: Path) -> Path:
    return data_path / "socket"


def prepare(data_path: Path, identity: Identity) -> None:
    """Creates the socket folder and the authentication rules. Raises `EmbeddedError` if the path DATA_DIR is too long."""
    folder = socket_folder(data_path)
    if len(os.fsencode(folder / f".s.PGSQL.{SOCKET_PORT}")) > SOCKET_PATH_BYTES_MAX:
        raise EmbeddedError(
            f"DATA_DIR: the path {data_path} is too long for a Unix socket; set a shorter one, or DATABASE_URL"
        )
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    # files of a server that has crashed: the caller holds the lock on DATA_DIR, so no server uses them
    for stale in folder.glob(".s.PGSQL.*"):
        stale.unlink()
    if user := identity.popen.get("user"):
        os.chown(folder, user, identity.popen["group"])
    # overwritten, not replaced: the owner of the file does not change
    (data_path / "postgres" / "pg_hba.conf").write_text(HBA)


def socket_url(data_path: Path, port: int, *, user: str = NAME, database: str = NAME) -> str:
    return f"postgresql://{user}@/{database}?host={quote(str(socket_folder(data_path)), safe='')}&port={port}"


def tcp_url(data_path: Path, port: int) -> str:
    """The superuser's URL. Raises `FileNotFoundError` before `roles.create` has set the password."""
    password = (data_path / "postgres.password").read_text()
    return f"postgresql://{SUPERUSER}:{password}@127.0.0.1:{port}/{NAME}"
