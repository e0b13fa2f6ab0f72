"""The queue of chunks in PostgreSQL: submit, claim, reclaim, fence, finish, drop, give back, separate. db/README.md gives the
reasons.

A claim is a short transaction of its own. The work is a second transaction, which first locks the chunk's row (the fence) and
last marks it done. A running chunk whose row is not locked belongs to a dead worker and may be reclaimed.

May import `db.connections` and what is below it. Callers write `from db import queue` and `queue.claim(...)`.
"""

from db.queue.claiming import claim, reclaim
from db.queue.claims import SMALL_BYTES, Claim, ClaimLost, Counts, State
from db.queue.notifications import CHANNEL, SMALL, listen, notify, submit, wait
from db.queue.releasing import drop, fence, finish, give_back, separate

__all__ = [
    "CHANNEL",
    "SMALL",
    "SMALL_BYTES",
    "Claim",
    "ClaimLost",
    "Counts",
    "State",
    "claim",
    "drop",
    "fence",
    "finish",
    "give_back",
    "listen",
    "notify",
    "reclaim",
    "separate",
    "submit",
    "wait",
]
