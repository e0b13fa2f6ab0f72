"""The database's exceptions that callers distinguish, so that only db imports the driver."""

import psycopg
from psycopg.errors import (
    DeadlockDetected,
    LockNotAvailable,
    ProgramLimitExceeded,
    RaiseException,
    ReadOnlySqlTransaction,
    SerializationFailure,
)
from psycopg_pool import PoolTimeout

# The server cannot be reached, is stopping, is out of disk space, or every connection is in use: the same request may succeed
# later. PoolTimeout is an OperationalError too, and is listed for the reader. A read-only server is most often a standby that a
# failover has left at the old address.
READ_ONLY = ReadOnlySqlTransaction
UNAVAILABLE: tuple[type[Exception], ...] = (psycopg.OperationalError, PoolTimeout, READ_ONLY)


class ConnectionLost(psycopg.OperationalError):
    """The connection of a pool was lost while it was in use. It is unknown whether a COMMIT that was sent took place."""


# PostgreSQL aborted this transaction because of a conflict with another. Retry it immediately on the same connection.
RETRYABLE: tuple[type[Exception], ...] = (DeadlockDetected, SerializationFailure, LockNotAvailable)

# The wait for a lock has exceeded lock_timeout.
BLOCKED = LockNotAvailable

# PostgreSQL refuses the content of a row: a value, a constraint, an index entry that is too large, a trigger's RAISE.
REFUSED_ROW: tuple[type[Exception], ...] = (
    psycopg.DataError,
    psycopg.IntegrityError,
    ProgramLimitExceeded,
    RaiseException,
)


class MigrationsMissing(Exception):
    """The database is older than this code; the message names the migrations."""


class UnsupportedDatabase(Exception):
    """The service does not work with this database as it is configured; the message gives the reason in one sentence."""


# The database lacks a table or column that this code needs, or is not configured as this code needs it.
OUTDATED: tuple[type[Exception], ...] = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    MigrationsMissing,
    UnsupportedDatabase,
)


# Any other error of the database: a fault in a statement of ours, or a trigger or constraint that an operator has added.
DATABASE_ERROR = psycopg.Error


def sqlstate(error: Exception) -> str | None:
    """The SQLSTATE of `error`, for the log; None when it did not come from the server."""
    return error.sqlstate if isinstance(error, psycopg.Error) else None
