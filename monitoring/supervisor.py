"""Detects that the supervising process has died."""

from monitoring import multiprocess


class Supervisor:
    """The process with the id SUPERVISOR_PID. Without an id there is no supervisor, and it is never gone."""

    def __init__(self, pid: int | None) -> None:
        self._identity = None if pid is None else multiprocess.identity_of(pid)

    def is_gone(self) -> bool:
        return self._identity is not None and not multiprocess.is_alive(self._identity)
