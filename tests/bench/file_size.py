r"""Files of 10,000 to millions of records: what a record costs, and how much memory each process takes.

Each import has a service and a database of its own, so that nothing is left of the file before.
"""

from functools import partial

from tests.bench import files, memory, timed_import
from tests.bench.environment import Environment
from tests.bench.files import File
from tests.bench.report import Figure, at_most
from tests.support.api_client import Api

# what "flat" means, for the cost of a record and for memory
FLAT = 1.15


async def run(env: Environment) -> list[Figure]:
    by_size = {records: files.users(env, records) for records in env.size.file_records}
    costs: dict[int, list[float]] = {records: [] for records in by_size}
    copies: dict[int, list[float]] = {records: [] for records in by_size}
    peaks: dict[str, dict[int, list[float]]] = {"the API": {}, "a worker": {}}

    async def measure(file: File) -> float:
        async with timed_import.opened(env, "sizes") as api:
            is_first = len(costs[file.records]) % 2 == 0
            if is_first:
                copies[file.records].append(await _copy(api, file))
            await timed_import.emptied(api, "users")
            forget_peaks(api)
            cost = 1e6 * await timed_import.imported(api, file) / file.records
            for process, megabytes in peaks_mb(api).items():
                peaks[process].setdefault(file.records, []).append(megabytes)
            if not is_first:
                copies[file.records].append(await _copy(api, file))
        costs[file.records].append(cost)
        return cost

    contenders = {f"{records:,} records": partial(measure, file) for records, file in by_size.items()}
    await timed_import.rounds(env, "files", "µs a record", contenders, env.size.rounds_of_long)
    return _costs(costs, copies) + [
        figure for process, by_records in peaks.items() if by_records for figure in _memory(process, by_records)
    ]


async def _copy(api: Api, file: File) -> float:
    await timed_import.emptied(api, "users")
    return 1e6 * timed_import.copied(api, file) / file.records


def forget_peaks(api: Api) -> None:
    if memory.IS_KNOWN and api.service.api and api.service.workers:
        for pid in (api.service.api.pid, *api.service.workers.children()):
            memory.forget_peak(pid)


def peaks_mb(api: Api) -> dict[str, float]:
    """The peak memory of the API, and the highest of any worker; empty where the system does not report it."""
    if not memory.IS_KNOWN or not api.service.api or not api.service.workers:
        return {}
    return {
        "the API": memory.peak_mb(api.service.api.pid),
        "a worker": max(memory.peak_mb(pid) for pid in api.service.workers.children()),
    }


def _costs(costs: dict[int, list[float]], copies: dict[int, list[float]]) -> list[Figure]:
    smallest, largest = min(costs), max(costs)
    figures = [
        Figure(
            name=f"cost of a record, file of {records:,}",
            unit="µs",
            samples=costs[records],
            yardstick=r"psql \copy of the same file",
            yardstick_samples=copies[records],
        )
        for records in costs
    ]
    growth = Figure(
        name=f"cost of a record, file of {largest:,}",
        unit="µs",
        samples=costs[largest],
        yardstick=f"file of {smallest:,}",
        yardstick_samples=costs[smallest],
        target=at_most(FLAT),
    )
    # the tables grow with the file, also for psql
    theirs = Figure(
        name=rf"cost of a record by \copy, file of {largest:,}",
        unit="µs",
        samples=copies[largest],
        yardstick=rf"\copy, file of {smallest:,}",
        yardstick_samples=copies[smallest],
    )
    return [*figures, growth, theirs]


def _memory(process: str, peaks: dict[int, list[float]]) -> list[Figure]:
    smallest = min(peaks)
    return [
        Figure(
            name=f"peak memory of {process}, file of {records:,}",
            unit="MB",
            samples=megabytes,
            yardstick=f"file of {smallest:,}" if records != smallest else None,
            yardstick_samples=peaks[smallest] if records != smallest else [],
            target=at_most(FLAT) if records == max(peaks) else None,
        )
        for records, megabytes in peaks.items()
    ]
