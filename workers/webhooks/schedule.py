"""When a delivery that was not successful is attempted again: with growing delays, until it has taken too long."""

from datetime import timedelta

from db.webhooks.deliveries import Delivery
from workers.webhooks.request import GONE, Reply

# 5 s, 15 s, 45 s, … 3 h, 9 h, then 12 h
FIRST_SECONDS = 5.0
FACTOR = 3
SECONDS_MAX = 12 * 3600.0
# a delay is longer or shorter by up to this share, so that the retries of many deliveries do not coincide
JITTER = 0.2


def delay_seconds(attempts: int, *, chance: float) -> float:
    """The delay after so many failed attempts; `chance`, from 0 to 1, chooses within the jitter."""
    # the exponent is limited, because a float is
    delay = min(SECONDS_MAX, FIRST_SECONDS * FACTOR ** min(attempts - 1, 20))
    return delay * (1 - JITTER + 2 * JITTER * chance)


def next_delay_seconds(delivery: Delivery, reply: Reply, *, retry_seconds: float, chance: float) -> float | None:
    """The delay before the next attempt, not less than the receiver's Retry-After. None: there is no further attempt.

    That is so if the endpoint is gone, and if the attempt would be later than `retry_seconds` after the end of the job.
    """
    if reply.status == GONE:
        return None
    delay = max(delay_seconds(delivery.attempts, chance=chance), min(reply.retry_after_seconds, SECONDS_MAX))
    age = delivery.attempted_at - delivery.created_at
    return None if age + timedelta(seconds=delay) > timedelta(seconds=retry_seconds) else delay
