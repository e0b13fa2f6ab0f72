"""Webhooks: the setting and its errors, the signatures, the delays between attempts."""

import json
import re
import subprocess
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from db import settings
from db.settings import SettingsError
from db.webhooks.deliveries import Delivery
from db.webhooks.endpoints import EVENTS, Endpoint
from tests.support import ROOT
from tests.support.eventually import PATIENCE_SECONDS
from tests.support.webhooks import OTHER_SECRET, SECRET
from workers.webhooks.request import Reply, headers
from workers.webhooks.schedule import SECONDS_MAX, delay_seconds, next_delay_seconds

URL = "https://crm.example.org/hook?token=sekret"
DAYS = 3 * 24 * 3600.0
# members of an endpoint that replace the valid ones; None: without the member
BAD = {
    "[0]: Object missing required field `name`": {"name": None},
    "[0].name: Expected `str` matching regex": {"name": "sekret name"},
    "[0]: has a member other than name, url, secrets, events": {"sekret": "x"},
    "[0]: Object missing required field `url`": {"url": None},
    "[0].url: Expected `str`, got `int`": {"url": 5},
    "[0].url: is not an http:// or https:// URL": {"url": "ftp://sekret"},
    "[0]: Object missing required field `secrets`": {"secrets": None},
    "[0].secrets: Expected `array` of length >= 1": {"secrets": []},
    "[0].secrets[1]: is not whsec_ and the base64 of 24 to 64 bytes": {"secrets": [SECRET, "whsec_sekret"]},
    "[0].events: Expected `array` of length >= 1": {"events": []},
    "[0].events[1]: is none of import.completed, ": {"events": ["import.failed", "sekret"]},
}
BAD_URLS = [
    "sekret",
    "//sekret",
    "https://",
    "https://host:0/",
    "https://host:99999/",
    "https://ho st/sekret",
    "https://[sekret/",
]
BAD_SECRETS = [
    "sekret",
    SECRET.removeprefix("whsec_"),
    "whsec_",
    "whsec_c2VrcmV0",
    "whsec_" + "A" * 200,
    f"{SECRET}sekret!",
]


def endpoint(**members: object) -> dict[str, object]:
    valid = {"name": "crm", "url": URL, "secrets": [SECRET]}
    return {name: value for name, value in (valid | members).items() if value is not None}


def read(*endpoints: dict[str, object]) -> tuple[Endpoint, ...]:
    return settings.read({"WEBHOOKS": json.dumps(endpoints)}).webhook_endpoints


def test_endpoints_are_read_from_json():
    """Several, each with its secrets and the events that it gets; without `events` all of them."""
    crm, audit = read(endpoint(), endpoint(name="audit", secrets=[SECRET, OTHER_SECRET], events=["export.failed"]))
    assert (crm.name, crm.url, crm.keys, crm.events) == ("crm", URL, [b"secret-of-the-first-endpoint"], EVENTS)
    assert (len(audit.keys), audit.events) == (2, ("export.failed",))
    assert settings.read({}).webhook_endpoints == ()
    assert settings.read({"WEBHOOKS": "[]"}).webhook_endpoints == ()


@pytest.mark.needs("openssl")
def test_the_example_of_the_readme_is_valid():
    """Its command sets WEBHOOKS to one endpoint with a new secret."""
    text = (ROOT / "README.md").read_text()
    [command] = re.findall(r"^export WEBHOOKS=.+?(?=^```)", text, re.DOTALL | re.MULTILINE)
    done = subprocess.run(
        ["sh", "-c", f'{command}printf %s "$WEBHOOKS"'],
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    [crm] = settings.read({"WEBHOOKS": done.stdout}).webhook_endpoints
    assert (crm.name, [len(key) for key in crm.keys], len(crm.events)) == ("crm", [32], 3)


@pytest.mark.parametrize(("message", "members"), BAD.items())
def test_an_error_names_the_member(message, members):
    """The message has the place of the member and what it must be, and no value, which may be a secret."""
    with pytest.raises(SettingsError) as raised:
        read(endpoint(**members))
    assert str(raised.value).startswith(f"WEBHOOKS: {message}")
    assert "sekret" not in str(raised.value)


@pytest.mark.parametrize(
    "members", [*({"url": url} for url in BAD_URLS), *({"secrets": [text]} for text in BAD_SECRETS)]
)
def test_urls_and_secrets_are_checked(members):
    """At the start, not at the first delivery."""
    (name,) = members
    with pytest.raises(SettingsError, match=rf"^WEBHOOKS: \[0\]\.{name}") as raised:
        read(endpoint(**members))
    assert "sekret" not in str(raised.value)


def test_names_are_unique():
    """The second endpoint with a name is refused, because deliveries have only the name."""
    with pytest.raises(SettingsError, match=r"^WEBHOOKS: \[1\]\.name: another endpoint has it too$"):
        read(endpoint(), endpoint())


@pytest.mark.parametrize("text", ["sekret", "{}", '"sekret"', "[1]", '[{"name": "sekret"'])
def test_what_is_no_array_of_objects_is_refused(text):
    """With one line that names the setting and does not quote it."""
    with pytest.raises(SettingsError, match=r"^WEBHOOKS: [^\n]+$") as raised:
        settings.read({"WEBHOOKS": text})
    assert "sekret" not in str(raised.value)


def test_an_endpoint_is_shown_without_its_url_and_secrets():
    """A URL may contain a token."""
    text = repr(read(endpoint()))
    assert "crm" in text
    assert "sekret" not in text
    assert SECRET not in text


def delivery(*, attempts: int = 1, age_seconds: float = 0.0) -> Delivery:
    now = datetime.now(UTC)
    return Delivery(
        id=UUID(int=7),
        endpoint="crm",
        event="import.completed",
        kind="import",
        job_id=UUID(int=8),
        lease=attempts,
        attempts=attempts,
        attempted_at=now,
        created_at=now - timedelta(seconds=age_seconds),
        traceparent=None,
    )


def test_each_secret_signs():
    """Another implementation accepts the request with each of the secrets, and with no other one."""
    [crm] = read(endpoint(secrets=[SECRET, OTHER_SECRET]))
    body = b'{"type":"import.completed"}'
    signed = headers(crm, delivery(), body)
    for secret in (SECRET, OTHER_SECRET):
        assert Webhook(secret).verify(body, signed) == {"type": "import.completed"}
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + "A" * 32).verify(body, signed)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body + b" ", signed)


def test_a_signature_is_that_of_the_specification():
    """`v1,` and the HMAC-SHA256 of id, timestamp and body, as the other implementation computes it."""
    [crm] = read(endpoint(secrets=[SECRET, OTHER_SECRET]))
    one = delivery()
    signed = headers(crm, one, b"{}")
    expected = [Webhook(secret).sign(str(one.id), one.attempted_at, "{}") for secret in (SECRET, OTHER_SECRET)]
    assert signed["webhook-signature"] == " ".join(expected)


def test_delays_grow_to_half_a_day():
    """5 s, then three times the one before, each with a jitter of a fifth."""
    assert [delay_seconds(attempts, chance=0.5) for attempts in (1, 2, 3, 9, 10)] == [5, 15, 45, 32805, SECONDS_MAX]
    assert delay_seconds(10**6, chance=0.5) == SECONDS_MAX
    assert [delay_seconds(1, chance=chance) for chance in (0.0, 1.0)] == pytest.approx([4.0, 6.0])


def test_the_last_attempt_is_within_the_time_for_retries():
    """Attempts that fail one after the other are repeated for nearly three days, and then no more."""
    age, attempts, failed = 0.0, 1, Reply(status=500, error="HTTP 500")
    while delay := next_delay_seconds(
        delivery(attempts=attempts, age_seconds=age), failed, retry_seconds=DAYS, chance=0.5
    ):
        age, attempts = age + delay, attempts + 1
    assert (attempts, DAYS - SECONDS_MAX < age <= DAYS) == (14, True)
    assert next_delay_seconds(delivery(), failed, retry_seconds=0, chance=0.5) is None


def test_a_receiver_may_ask_for_a_longer_delay():
    """Retry-After is respected up to half a day; a shorter one than the usual delay has no effect."""

    def delay(seconds: int) -> float | None:
        reply = Reply(status=503, error="HTTP 503", retry_after_seconds=seconds)
        return next_delay_seconds(delivery(), reply, retry_seconds=DAYS, chance=0.5)

    assert [delay(seconds) for seconds in (0, 1, 600, 10**8)] == [5, 5, 600, SECONDS_MAX]


def test_an_endpoint_that_is_gone_gets_no_further_attempt():
    """A response 410 ends the delivery."""
    assert next_delay_seconds(delivery(), Reply(status=410, error="HTTP 410"), retry_seconds=DAYS, chance=0.5) is None
