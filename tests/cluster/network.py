"""The network of the cluster: hosts on a bridge, some of which can be moved to another bridge that leads nowhere.

The test itself has an address on the bridge, and a second network to the hosts of the service, which is never cut: its clients
are on the side of the API that they use.
"""

import subprocess
from collections.abc import Sequence

NODES = ("db1", "db2", "db3")
APPS = ("app1", "app2")
MAINLAND, ISLAND, CLIENTS = "mainland", "island", "clients"
ADDRESSES = {name: f"10.77.0.{number}" for number, name in enumerate((*NODES, *APPS), 1)}
# of the second network
API_ADDRESSES = {name: f"10.78.0.{number}" for number, name in enumerate(APPS, 1)}


def build() -> None:
    """Makes bridges and hosts in the network namespace of this process, which must be its own."""
    _ip("link", "set", "lo", "up")
    for bridge in (MAINLAND, ISLAND, CLIENTS):
        _ip("link", "add", bridge, "type", "bridge")
        _ip("link", "set", bridge, "up")
    _ip("address", "add", "10.77.0.254/24", "dev", MAINLAND)
    _ip("address", "add", "10.78.0.254/24", "dev", CLIENTS)
    for name, address in ADDRESSES.items():
        _ip("netns", "add", name)
        _ip("-n", name, "link", "set", "lo", "up")
        _plug(name, "data", address, MAINLAND)
    for name, address in API_ADDRESSES.items():
        _plug(name, "api", address, CLIENTS)


def inside(name: str) -> list[str]:
    """The prefix of a command that runs on this host."""
    return ["nsenter", f"--net=/run/netns/{name}"]


def cut(names: Sequence[str]) -> None:
    """From now on these hosts reach each other, and nothing else on the data network. Packets are lost without notice."""
    for name in names:
        _ip("link", "set", f"{name}-data", "master", ISLAND)


def heal(names: Sequence[str]) -> None:
    for name in names:
        _ip("link", "set", f"{name}-data", "master", MAINLAND)


def _plug(name: str, network: str, address: str, bridge: str) -> None:
    cable = f"{name}-{network}"
    _ip("link", "add", cable, "type", "veth", "peer", "name", network, "netns", name)
    _ip("link", "set", cable, "master", bridge, "up")
    _ip("-n", name, "address", "add", f"{address}/24", "dev", network)
    _ip("-n", name, "link", "set", network, "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
