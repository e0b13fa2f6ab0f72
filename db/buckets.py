"""Buckets of S3 or a compatible service. obstore reads credentials, region and endpoint from the AWS_* variables."""

from datetime import timedelta

from obstore.store import S3Store

CONNECT_SECONDS_MAX = 5
# how long a connection may deliver nothing
SILENCE_SECONDS_MAX = 30
RETRIES_MAX = 4


def store(url: str, *, request_seconds_max: int, retry_seconds_max: int) -> S3Store:
    """The bucket of s3://bucket/prefix, whose keys are below the prefix.

    A request may take `request_seconds_max`, until the end of its response. One that fails, also in the middle of a response,
    is repeated for the missing bytes, at most RETRIES_MAX times and during `retry_seconds_max`.
    """
    return S3Store.from_url(
        url,
        # AWS_ENDPOINT_URL decides between http and https
        client_options={
            "timeout": timedelta(seconds=request_seconds_max),
            "read_timeout": timedelta(seconds=SILENCE_SECONDS_MAX),
            "connect_timeout": timedelta(seconds=CONNECT_SECONDS_MAX),
            "allow_http": True,
        },
        retry_config={"max_retries": RETRIES_MAX, "retry_timeout": timedelta(seconds=retry_seconds_max)},
    )
