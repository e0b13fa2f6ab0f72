"""The exceptions of the database that callers above tell apart, so that they need not know the driver."""

import psycopg
from psycopg.errors import DeadlockDetected, LockNotAvailable, ReadOnlySqlTransaction, SerializationFailure
from psycopg_pool import PoolTimeout

# The server cannot be reached, is stopping, is out of room, or every connection is taken: nothing is wrong with the request,
# and the same request may well succeed a little later. PoolTimeout is an OperationalError too; it is named for the reader.
# A server that takes no writes is most often a standby that a failover has left at the old address.
READ_ONLY = ReadOnlySqlTransaction
UNAVAILABLE: tuple[type[Exception], ...] = (psycopg.OperationalError, PoolTimeout, READ_ONLY)

# Two transactions got into each other's way and this one gave in: at once again, in place.
RETRYABLE: tuple[type[Exception], ...] = (DeadlockDetected, SerializationFailure, LockNotAvailable)


class MigrationsMissing(Exception):
    """The database is older than this code; the message names the migrations."""


# The database lacks a table or column that this code knows: its migrations have not been applied.
OUTDATED: tuple[type[Exception], ...] = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    MigrationsMissing,
)


def sqlstate(error: Exception) -> str | None:
    """The server's code for `error`, for the log; None when the server never answered."""
    return error.sqlstate if isinstance(error, psycopg.Error) else None
