"""The settings: an invalid one prevents the start with a line that names it."""

import re
import subprocess
import sys

import httpx
import msgspec
import pytest

from db import settings
from db.settings import Settings, SettingsError
from tests.support import ROOT
from tests.support.eventually import PATIENCE_SECONDS


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HTTP_PORT", "eighty"),
        ("HTTP_PORT", "65536"),
        ("HTTP_HOST", "0.0.0.0"),  # noqa: S104  the test is about this address
        ("WORKER_POOL_SIZE", "0"),
        ("WORKER_POOL_SIZE", "1.5"),
        ("BATCH_SIZE", "-1"),
        ("BATCH_SIZE", "100001"),
        ("RECORD_MAX_BYTES", "1"),
        ("POLL_SECONDS", "0"),
        ("STOP_SECONDS", "soon"),
        ("METRICS_PUBLIC", "perhaps"),
        ("DATABASE_POOLER", "session"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
        ("API_KEYS", " , ,"),
        ("API_KEYS", "a-key-of-thirty-two-characters-00, sekret"),
        ("DATABASE_URL", "postgresql://user:sekret word@127.0.0.1/bulk"),
        ("DATABASE_REPLICA_URL", "sekret"),
        ("HEAD_MAX_BYTES", "100"),
        ("HEAD_SECONDS", "0"),
        ("STALL_SECONDS", "-1"),
        ("CONNECTIONS_MAX", "0"),
        ("UNPACK_RATIO_MAX", "0"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "grpc://sekret"),
    ],
)
def test_a_bad_value_names_its_variable(variable, value):
    """The message is one line, and starts with the name as it is written in the environment."""
    with pytest.raises(SettingsError, match=rf"^{variable}: [^\n]+$") as raised:
        settings.read({variable: value})
    assert "sekret" not in str(raised.value)


def test_every_field_can_be_set():
    """Each field is read from the variable of its name in capitals; an empty value counts as unset."""
    names = [field.name for field in msgspec.structs.fields(Settings)]
    defaults = Settings()
    written = {name.upper(): str(getattr(defaults, name)) for name in names if getattr(defaults, name) is not None}
    assert settings.read(written) == defaults
    assert settings.read({name.upper(): "" for name in names}) == defaults
    changed = settings.read({"BATCH_SIZE": "7", "POLL_SECONDS": "0.5", "DATABASE_URL": "postgresql://x/y"})
    assert (changed.batch_size, changed.poll_seconds, changed.database_url) == (7, 0.5, "postgresql://x/y")


def test_the_readme_names_every_setting():
    """Its table has one row for each setting and no others."""
    rows = re.findall(r"^\| `([A-Z_]+)` \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(field.name.upper() for field in msgspec.structs.fields(Settings))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_without_keys_loopback_is_allowed(host):
    """Other addresses are not, as in the table above; with keys any address is allowed."""
    assert settings.read({"HTTP_HOST": host}).http_host == host
    assert settings.read({"HTTP_HOST": "0.0.0.0", "API_KEYS": f"{'a' * 16}, {'b' * 16}"}).keys  # noqa: S104


def test_keys_have_names_and_roles():
    """NAME:ROLE:KEY, or only KEY, which is an admin without a name; the key itself is never in an error."""
    keys = settings.read({"API_KEYS": f"ada:admin:{'a' * 16}, {'b' * 16},grafana:read:{'c:' * 8}"}).keys
    assert [(key.name, key.role, key.key) for key in keys] == [
        ("ada", "admin", "a" * 16),
        (None, "admin", "b" * 16),
        ("grafana", "read", "c:" * 8),
    ]
    for bad in (f"ada:write:{'s' * 16}", f":read:{'s' * 16}", "ada:read:", f"a b:read:{'s' * 16}"):
        with pytest.raises(settings.SettingsError) as error:
            settings.read({"API_KEYS": bad})
        assert "API_KEYS" in str(error.value)
        assert "sss" not in str(error.value)


def test_a_key_is_not_shown():
    """The repr of an ApiKey, alone or within other values, has only its name and its role."""
    (key,) = settings.read({"API_KEYS": f"ada:admin:{'s' * 16}"}).keys
    assert repr([key]) == "[ApiKey(name='ada', role='admin')]"
    assert f"{key} {key!s} {key!r}".count("sss") == 0


@pytest.mark.parametrize("module", ["api", "workers", "db.migrate", "db.embedded"])
def test_every_program_refuses_a_bad_setting(module):
    """Each exits with an error and one line on stderr that names the variable, without a traceback."""
    words = {"db.migrate": ["up"], "db.embedded": ["url"]}.get(module, [])
    done = subprocess.run(
        [sys.executable, "-m", module, *words],
        cwd=ROOT,
        env={"BATCH_SIZE": "many"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode != 0
    assert len(done.stderr.splitlines()) == 1
    assert "BATCH_SIZE: " in done.stderr


def test_clients_close_idle_connections_first():
    """By default, also a balancer with an idle time of 60 s: a request that meets the end of its connection has no answer."""
    assert (httpx.Limits().keepalive_expiry or 0) < 60 < Settings().keep_alive_seconds
