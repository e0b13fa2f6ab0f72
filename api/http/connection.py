"""Options of a TCP connection to a client. Each is a no-op where the system does not have it."""

import asyncio
import socket
import struct

# unsent bytes that the kernel may hold for one client: enough for a fast one, and little enough that a slow client is seen
# to read. With the kernel's own limit of some megabytes it takes more than a minute until a slow client makes room for a write.
UNSENT_MAX_BYTES = 256 * 1024


def limit_unacknowledged(transport: asyncio.Transport, seconds: float) -> None:
    """Lets the kernel drop a connection whose client acknowledges nothing for so long, also after it was closed."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        _set(transport, socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(seconds * 1000))


def limit_unsent(transport: asyncio.Transport) -> None:
    """Bounds what the kernel buffers for the client."""
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        _set(transport, socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_MAX_BYTES)


def reset(transport: asyncio.Transport) -> None:
    """Closes the connection with a reset, which no client takes for the end of a response."""
    if not transport.is_closing():
        _set(transport, socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _set(transport: asyncio.Transport, level: int, option: int, value: int | bytes) -> None:
    transport.get_extra_info("socket").setsockopt(level, option, value)
