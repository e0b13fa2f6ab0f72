"""An S3-compatible server in the process of the tests, and a bucket of it for each test."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "aws_region": "us-east-1"}


@dataclass(frozen=True)
class Bucket:
    """A bucket of the test's own."""

    endpoint: str
    name: str
    client: Any

    @property
    def settings(self) -> dict[str, str]:
        """For a service: it and its libraries read them from the environment."""
        return KEYS | {"aws_endpoint_url": self.endpoint, "export_dir": f"s3://{self.name}/some/exports"}

    def names(self) -> list[str]:
        return [found["Key"] for found in self.client.list_objects_v2(Bucket=self.name).get("Contents", [])]

    def uploads(self) -> list[str]:
        """The uploads that were begun and neither completed nor aborted."""
        return [found["Key"] for found in self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", [])]

    def put(self, key: str, body: bytes, **attributes: str) -> str:
        """Stores an object. Returns its address."""
        self.client.put_object(Bucket=self.name, Key=key, Body=body, **attributes)
        return f"s3://{self.name}/{key}"


@contextmanager
def server() -> Iterator[str]:
    """The address of the server."""
    started = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    started.start()
    host, port = started.get_host_and_port()
    yield f"http://{host}:{port}"
    started.stop()


def create(endpoint: str, name: str) -> Bucket:
    keys = {name: KEYS[name] for name in ("aws_access_key_id", "aws_secret_access_key")}
    client = boto3.client("s3", endpoint_url=endpoint, region_name=KEYS["aws_region"], **keys)
    # a process keeps its connections by the name of the bucket, so no two tests may share one
    bucket = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")[:60].strip("-")
    client.create_bucket(Bucket=bucket)
    return Bucket(endpoint, bucket, client)
