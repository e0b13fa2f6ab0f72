"""The context of a request, what the start of a process costs without tracing, and what is documented."""

import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

from db.settings import Settings
from monitoring import tracing
from tests.support import ROOT
from tests.support.eventually import PATIENCE_SECONDS
from tests.support.otlp import CLIENT_SPAN, TRACE, TRACEPARENT

DATABASE = "postgresql://127.0.0.1:1/x"


@pytest.mark.parametrize(
    ("headers", "context"),
    [
        ([TRACEPARENT], TRACEPARENT),
        ([f"00-{TRACE}-{CLIENT_SPAN}-00"], f"00-{TRACE}-{CLIENT_SPAN}-00"),
        # flags that this version does not know
        ([f"00-{TRACE}-{CLIENT_SPAN}-fd"], f"00-{TRACE}-{CLIENT_SPAN}-01"),
        # later versions
        ([f"01-{TRACE}-{CLIENT_SPAN}-01"], TRACEPARENT),
        ([f"cc-{TRACE}-{CLIENT_SPAN}-01-what-the-future-brings"], TRACEPARENT),
        ([f"cc-{TRACE}-{CLIENT_SPAN}-01."], None),
        ([f"ff-{TRACE}-{CLIENT_SPAN}-01"], None),
        ([f"00-{TRACE}-{CLIENT_SPAN}-01-more"], None),
        ([f"00-{'0' * 32}-{CLIENT_SPAN}-01"], None),
        ([f"00-{TRACE}-{'0' * 16}-01"], None),
        ([TRACEPARENT.upper()], None),
        ([f"00-{TRACE}-{CLIENT_SPAN}-1"], None),
        ([f"00-{TRACE[1:]}-{CLIENT_SPAN}-01"], None),
        ([f"{TRACEPARENT}\n"], None),
        (["' OR 1=1"], None),
        ([""], None),
        ([], None),
        ([TRACEPARENT, TRACEPARENT], None),
    ],
)
def test_a_malformed_context_is_ignored(headers, context):
    """As W3C Trace Context says; a context of a later version is read as far as this version knows it."""
    assert tracing.received(headers) == context


def test_without_a_recorder_spans_pass_the_context_on():
    """The client's context is stored with the job, so that the spans of other processes have it."""
    assert tracing.new_span_id() is None
    with tracing.server_span("POST", TRACEPARENT) as request, tracing.span("chunk", request.traceparent, {}) as span:
        assert span.traceparent == TRACEPARENT
    assert tracing.log_fields(TRACEPARENT) == {"trace_id": TRACE}
    assert tracing.log_fields(None) == {}


@pytest.mark.parametrize(
    "modules", [["api.__main__", "api.app", "api.http.server"], ["workers.__main__", "workers.webhooks.deliverer"]]
)
def test_without_an_endpoint_opentelemetry_is_not_imported(modules):
    """Neither at the start nor by the modules that are imported later."""
    program = f"""
import importlib, sys
from db.settings import Settings
from monitoring import tracing
tracing.require(Settings())
with tracing.recording(Settings(), process="api"):
    for module in {modules}:
        importlib.import_module(module)
print([name for name in sys.modules if name.startswith(("opentelemetry", "monitoring.otlp"))])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
@pytest.mark.parametrize("module", ["api", "workers"])
def test_an_endpoint_needs_the_extra(tmp_path, module, variable):
    """Without it the process exits with one line that names the variable and the extra."""
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").write_text("raise ModuleNotFoundError\n")
    line = refusal(tmp_path, module, {"PYTHONPATH": str(tmp_path), variable: "http://127.0.0.1:1"})
    assert re.fullmatch(rf"(api: )?{variable}: needs OpenTelemetry, .* extra tracing\n", line), line


@pytest.mark.parametrize("module", ["api", "workers"])
@pytest.mark.parametrize(
    ("variable", "value"),
    # the queue is smaller than a batch; the other one is read at the import
    [("OTEL_BSP_MAX_QUEUE_SIZE", "4"), ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "many")],
)
def test_a_variable_that_opentelemetry_refuses_prevents_the_start(tmp_path, module, variable, value):
    """Workers do not start, die and get replaced over it."""
    line = refusal(tmp_path, module, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", variable: value})
    assert re.fullmatch(r"(api: )?OTEL_\*: OpenTelemetry refuses one of its variables: .+\n", line), line


def refusal(folder: Path, module: str, environment: dict[str, str]) -> str:
    """The line with which the process refuses to start."""
    done = subprocess.run(
        [sys.executable, "-m", module],
        cwd=ROOT,
        env={"DATABASE_URL": DATABASE, "DATA_DIR": str(folder / "data"), **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert (done.returncode, done.stdout) == (2, "")
    return done.stderr


def test_lines_of_the_exporter_are_throttled(monkeypatch, caplog):
    """Of equal lines of OpenTelemetry's loggers one is logged, in the format of all lines, and then one each minute."""
    library = logging.getLogger("opentelemetry")
    monkeypatch.setattr(library, "handlers", [])
    monkeypatch.setattr(library, "propagate", True)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    settings = Settings(otel_exporter_otlp_endpoint="http://127.0.0.1:1")
    with tracing.recording(settings, process="api"):
        for second in range(100):
            logging.getLogger("opentelemetry.exporter.test").warning("no reply, retrying in %ss", second)
    assert [record.message for record in caplog.records] == ["no reply, retrying in 0s"]


def test_the_readme_names_every_attribute():
    """Its table has one row for each attribute that the code sets, and no others."""
    modules = [path for folder in ("api", "workers", "monitoring") for path in (ROOT / folder).rglob("*.py")]
    source = "".join(map(Path.read_text, modules))
    used = set(re.findall(r'"((?:bulk|http|url)\.[a-z_.]+)": |set_attribute\("([a-z.]+)"', source))
    rows = re.findall(r"^\| ((?:`[a-z_.]+`(?:, )?)+) \|", (ROOT / "monitoring" / "README.md").read_text(), re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([a-z_]+\.[a-z_.]+)`", row)]
    assert sorted(named) == sorted(key or one for key, one in used)
