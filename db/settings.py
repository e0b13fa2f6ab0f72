"""The settings: one frozen struct, read from the environment once, at the start of each process."""

import os
import re
from collections.abc import Mapping
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from db import locations
from db.webhooks import endpoints
from db.webhooks.endpoints import Endpoint

Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Bytes = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]


# long enough that a random key cannot be guessed; `openssl rand -hex 16` makes one of 32 characters
API_KEY_MIN_CHARACTERS = 16


class SettingsError(Exception):
    """A setting is missing or invalid; the message names it in one line."""


# the name of an API key
_KEY_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """One of API_KEYS. A key with the role `read` may only send requests that change nothing."""

    name: str | None
    role: Literal["admin", "read"]
    key: str

    def __repr__(self) -> str:
        """Without the key, so that no log has it."""
        return f"ApiKey(name={self.name!r}, role={self.role!r})"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Each field is read from the environment variable of the same name in capitals. README.md describes them for users."""

    http_host: str = "127.0.0.1"
    http_port: Annotated[int, Meta(ge=0, le=65535)] = 8080
    # comma-separated, each KEY or NAME:ROLE:KEY with the role admin or read; without keys the service listens on loopback only
    api_keys: str = ""
    # how long a download ticket is valid
    ticket_seconds: Annotated[float, Meta(ge=1, le=86_400)] = 60.0
    # comma-separated host names by which clients may call this service, besides localhost and loopback addresses; if unset and
    # API_KEYS is set, any name
    hosts: str = ""
    # whether /metrics is served without a key
    metrics_public: bool = False
    # required by every process of the service; if unset, `python -m db.embedded run` starts PostgreSQL under DATA_DIR and sets it
    database_url: str | None = None
    # a hot standby of it, from which streaming exports read
    database_replica_url: str | None = None
    # `transaction` if both URLs lead to PgBouncer in transaction mode; session mode needs no setting
    database_pooler: Literal["none", "transaction"] = "none"
    # statement_timeout of the service's statements; a connection without a reply 5 s after it is closed
    statement_seconds: Annotated[float, Meta(ge=1, le=3600)] = 60.0
    data_dir: str = "./.data"
    # a folder, or s3://bucket/prefix, for which the AWS_* variables are read too: see db/exports/storage/bucket.py
    export_dir: str = "./exports"
    # how clients download a file from a bucket: by a redirect to its URL there, or through the API
    export_download: Literal["redirect", "through"] = "redirect"
    # comma-separated, each s3://bucket/prefix: objects below one of them may be imported from
    import_sources: str = ""
    # s3://bucket/prefix, to which clients upload objects that may be imported; and how long such a URL is valid
    upload_dir: str | None = None
    upload_url_seconds: Annotated[float, Meta(ge=1, le=7 * 86_400)] = 3600.0
    log_format: Literal["auto", "json", "console"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    # where spans are sent, in general and the whole URL; the OTEL_* variables that OpenTelemetry reads itself have no field
    otel_exporter_otlp_endpoint: str | None = None
    otel_exporter_otlp_traces_endpoint: str | None = None

    worker_pool_size: Annotated[int, Meta(ge=1, le=1000)] = 10
    # workers of one pool that process imports at the same time; if unset, as many as the machine has cores if PostgreSQL runs on
    # it too, otherwise all
    import_workers_max: Annotated[int, Meta(ge=1, le=1000)] | None = None
    # records per chunk, and the maximum bytes per chunk
    batch_size: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    chunk_max_bytes: Bytes = 8 * 1024 * 1024
    # chunks of one import that a worker claims at once; fewer if there are not enough for all workers, or if together they
    # exceed chunk_max_bytes
    claim_chunks_max: Annotated[int, Meta(ge=1, le=1000)] = 8
    # the sample that a claim chooses from has 16 jobs
    claim_imports_max: Annotated[int, Meta(ge=1, le=16)] = 16
    # processes of the API that share its listening socket; each has the limits of one API process
    api_processes: Annotated[int, Meta(ge=1, le=64)] = 1
    # maximum database connections of one API process, without those of its streams
    api_pool_size: Annotated[int, Meta(ge=1, le=1000)] = 10
    # concurrent streaming exports of one API process, each with its own database connection
    streams_max: Annotated[int, Meta(ge=1, le=1000)] = 10
    # export jobs that are not final; more are answered 429
    export_jobs_max: Count = 100
    # workers of one pool that write exports at the same time; if unset, all but one, which is reserved for imports
    export_workers_max: Annotated[int, Meta(ge=1, le=1000)] | None = None
    # sessions of PostgreSQL that read one export at the same time, if it is large and has no filter
    export_sessions: Annotated[int, Meta(ge=1, le=16)] = 2

    # limits on what a client sends: an upload, both as sent and decompressed
    upload_max_bytes: Bytes = 10 * 1024**3
    # errors reported for one record, and errors stored for one import; further ones are only counted
    record_errors_max: Annotated[int, Meta(ge=1, le=10_000)] = 100
    import_errors_max: Count = 100_000
    record_max_bytes: Annotated[int, Meta(ge=1024, le=64 * 1024 * 1024)] = 1024 * 1024
    json_body_max_bytes: Bytes = 8 * 1024 * 1024
    # of all JSON objects that one API process receives at the same time
    json_buffers_max_bytes: Bytes = 64 * 1024 * 1024
    # of all chunks and records of uploads that one API process holds; beyond it chunks are stored before they are full
    upload_buffers_max_bytes: Bytes = 32 * 1024 * 1024
    # maximum ratio of decompressed to compressed size, checked from 16 MiB on; gzip compresses text 3 to 50 times
    unpack_ratio_max: Count = 250
    # an XLSX file, which is read as a whole; the memory and the CPU time of the process that reads it; such processes at once
    xlsx_max_bytes: Bytes = 64 * 1024 * 1024
    xlsx_memory_bytes: Annotated[int, Meta(ge=128 * 1024 * 1024)] = 512 * 1024 * 1024
    xlsx_seconds: Annotated[int, Meta(ge=1, le=86_400)] = 120
    xlsx_processes_max: Annotated[int, Meta(ge=1, le=1000)] = 2
    # size of the request line and the headers, and number of headers
    head_max_bytes: Annotated[int, Meta(ge=1024, le=1024 * 1024)] = 64 * 1024
    headers_max: Annotated[int, Meta(ge=10, le=10_000)] = 100

    # time in which a client must send the head of a request, and how long a connection may be idle between two requests
    head_seconds: Seconds = 10.0
    keep_alive_seconds: Seconds = 75.0
    # how long a client may read nothing of its response, or send its body slower than `body_rate_min` bytes per second
    stall_seconds: Seconds = 60.0
    body_rate_min: Count = 128
    # maximum duration of a streaming export: vacuum cannot remove dead rows meanwhile
    stream_seconds_max: Seconds = 6 * 3600.0
    # connections that one API process holds at the same time; each counts towards its limit of open files
    connections_max: Count = 800

    # how long after the end of its API process an unfinished upload is removed
    upload_grace_seconds: Seconds = 60.0

    # beyond these a new import is answered 429: imports that are not final, unsealed uploads included; the bytes of their files,
    # counted once they are sealed; uploads that one API process receives at the same time
    queue_jobs_max: Count = 1000
    queue_bytes_max: Bytes = 50 * 1024**3
    uploads_max: Count = 200

    # the queue: README.md describes these settings, db/README.md the protocol
    claim_grace_seconds: Seconds = 5.0
    attempts_max: Count = 12
    crashes_max: Count = 4
    poll_seconds: Seconds = 1.0
    upkeep_seconds: Seconds = 3.0
    # how long a final job is kept, with its errors and an import's file; the records that it stored are not deleted
    job_retention_seconds: Seconds = 7 * 24 * 3600.0
    # how long the file of an export is kept
    export_retention_seconds: Seconds = 24 * 3600.0
    # a JSON array of the endpoints to which the ends of jobs are sent: see db/webhooks/endpoints.py
    webhooks: str = ""
    # how long a request to an endpoint may take, and how long after the end of a job it is repeated
    webhook_timeout_seconds: Annotated[float, Meta(gt=0, le=300)] = 20.0
    webhook_retry_seconds: Annotated[float, Meta(ge=0)] = 3 * 24 * 3600.0
    # concurrent requests of one machine to one endpoint
    webhook_requests_max: Annotated[int, Meta(ge=1, le=1000)] = 4
    # after the signal to stop: how long the API still accepts requests, with /ready at 503, before it closes its listener
    drain_seconds: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    # after the signal to stop, and for the API after drain_seconds: how long a process may continue what it has begun
    stop_seconds: Seconds = 4.0
    # a process whose end is a signal to stop: `make run` sets honcho's, which stops no process when it is killed itself
    supervisor_pid: Annotated[int, Meta(ge=1)] | None = None

    @property
    def keys(self) -> tuple[ApiKey, ...]:
        """Raises `SettingsError`."""
        return tuple(_api_key(part) for part in (part.strip() for part in self.api_keys.split(",")) if part)

    @property
    def webhook_endpoints(self) -> tuple[Endpoint, ...]:
        """Raises `SettingsError`."""
        try:
            return endpoints.decode(self.webhooks)
        except endpoints.InvalidEndpoints as error:
            raise SettingsError(f"WEBHOOKS: {error}") from None

    @property
    def export_workers(self) -> int:
        """The number of workers of the pool that take exports: at least one, and never all of several."""
        return max(1, min(self.export_workers_max or self.worker_pool_size, self.worker_pool_size - 1))

    @property
    def host_names(self) -> frozenset[str]:
        return frozenset(name for name in (part.strip().lower() for part in self.hosts.split(",")) if name)

    @property
    def hosts_checked(self) -> bool:
        """Whether the Host header of a request must be a known name."""
        return bool(self.host_names) or not self.keys

    @property
    def source_prefixes(self) -> tuple[str, ...]:
        """The prefixes of the objects that may be imported."""
        named = tuple(part for part in (part.strip() for part in self.import_sources.split(",")) if part)
        return (*named, self.upload_dir) if self.upload_dir else named

    @property
    def traces_variable(self) -> str | None:
        """The variable that names where spans are sent; None: they are not recorded."""
        if self.otel_exporter_otlp_traces_endpoint is not None:
            return "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
        return None if self.otel_exporter_otlp_endpoint is None else "OTEL_EXPORTER_OTLP_ENDPOINT"

    @property
    def data_path(self) -> Path:
        return Path(self.data_dir).resolve()

    @property
    def metrics_path(self) -> Path:
        """The folder in which the processes of this machine write their metrics; a scrape sums them."""
        return self.data_path / "metrics"


def read(environ: Mapping[str, str]) -> Settings:
    """The settings in `environ`; an empty value counts as unset. Raises `SettingsError`."""
    fields = {f.name: f.name.upper() for f in msgspec.structs.fields(Settings)}
    given = {name: environ[variable] for name, variable in fields.items() if environ.get(variable)}
    try:
        settings = msgspec.convert(given, Settings, strict=False)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$.")
        raise SettingsError(f"{path.rstrip('`').upper()}: {reason}") from None
    _check_keys(settings)
    # decodes and checks them
    _ = settings.webhook_endpoints
    for variable, url in (
        ("DATABASE_URL", settings.database_url),
        ("DATABASE_REPLICA_URL", settings.database_replica_url),
    ):
        if url is not None and not _readable(url):
            raise SettingsError(f"{variable}: is not postgresql://user:password@host:port/database, percent-encoded")
    for variable, url in (
        ("OTEL_EXPORTER_OTLP_ENDPOINT", settings.otel_exporter_otlp_endpoint),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", settings.otel_exporter_otlp_traces_endpoint),
    ):
        if url is not None and not url.startswith(("http://", "https://")):
            raise SettingsError(f"{variable}: is not the URL of a collector, http://host:4318 for example")
    if _bad_place(settings.export_dir):
        raise SettingsError(f"EXPORT_DIR: {settings.export_dir} is neither a folder nor s3://bucket/prefix")
    for prefix in settings.source_prefixes:
        if not locations.is_prefix(prefix):
            variable = "UPLOAD_DIR" if prefix == settings.upload_dir else "IMPORT_SOURCES"
            raise SettingsError(f"{variable}: {prefix} is not s3://bucket/prefix")
    return settings


@cache
def load() -> Settings:
    """The settings of this process."""
    return read(os.environ)


def _api_key(text: str) -> ApiKey:
    name, _, rest = text.partition(":")
    role, is_named, key = rest.partition(":")
    if not is_named:
        return ApiKey(name=None, role="admin", key=text)
    if not _KEY_NAME.fullmatch(name) or role not in ("admin", "read") or not key:
        # the text may contain a key, so the message does not quote it
        raise SettingsError("API_KEYS: a key is KEY or NAME:ROLE:KEY, where ROLE is admin or read")
    return ApiKey(name=name, role=role, key=key)


def _check_keys(settings: Settings) -> None:
    if settings.api_keys and not settings.keys:
        raise SettingsError("API_KEYS: has separators but no key")
    if any(len(key.key) < API_KEY_MIN_CHARACTERS for key in settings.keys):
        raise SettingsError(f"API_KEYS: a key has fewer than {API_KEY_MIN_CHARACTERS} characters")
    if not settings.keys and not _loopback(settings.http_host):
        raise SettingsError(
            f"HTTP_HOST: {settings.http_host} is not a loopback address, which needs API_KEYS to be set"
        )


def _readable(url: str) -> bool:
    """Whether libpq can parse the URL. Checked before connecting, because libpq's error message would show the password."""
    try:
        conninfo_to_dict(url)
    except ProgrammingError:
        return False
    return True


def _bad_place(export_dir: str) -> bool:
    scheme, separator, place = export_dir.partition("://")
    return bool(separator) and (scheme != "s3" or not place.partition("/")[0])


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
