"""The limit on export jobs: beyond it a request is answered 429 at once."""

from api.http.problems import limit_reached
from db.settings import Settings

RETRY_SECONDS = 5


def check_jobs(settings: Settings, live: int) -> None:
    """Raises `Problem` 429 if `live`, the number of jobs that are not final with the new one, is above the limit.

    Concurrent requests do not see each other's jobs, so the limit may be exceeded by a few.
    """
    if live > settings.export_jobs_max:
        raise limit_reached(
            "export_jobs_max", settings.export_jobs_max, "exports that are not final", retry_seconds=RETRY_SECONDS
        )
