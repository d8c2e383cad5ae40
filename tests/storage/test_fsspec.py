"""What only the fsspec element has: conditions, replaced objects, credentials and stores that are away."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, NoCredentialsError  # type: ignore[import-untyped]

from dtscore.errors import (
    CredentialsError,
    ElementUnavailableError,
    FileMissingError,
    PermissionRefusedError,
    SourceChangedError,
    WorkError,
)
from storage.file import FileElement
from storage.fsspec import FsspecElement, fsspec_error
from storage.registry import make
from storage.s3copy import copy_if_absent
from tests.services import S3Server, free_port
from tests.storage.conftest import Put, s3_settings
from tests.storage.helpers import land_one
from tests.storage.test_contract import read
from tests.storage.test_landing import PATH, _Hooked


@pytest.fixture
def cloud(s3: S3Server, tmp_path: Path) -> Iterator[FsspecElement]:
    """An element on the S3 endpoint."""
    element = make(s3_settings(s3, tmp_path))
    assert isinstance(element, FsspecElement)
    yield element
    element.close()


@pytest.mark.parametrize("size", [0, 5, 20 << 20])
def test_the_copy_is_conditional_at_the_server(cloud: FsspecElement, put: Put, size: int) -> None:
    """Without our own look before: the server itself refuses to copy over an object that exists."""
    content = os.urandom(size)
    put(cloud, "a", content)
    source, goal = cloud._full("a"), cloud._full("b")
    copy_if_absent(cloud._fs, source, goal, size)
    assert read(cloud, "b") == content
    put(cloud, "c", b"other")
    with pytest.raises(FileExistsError):
        copy_if_absent(cloud._fs, cloud._full("c"), goal, 5)
    assert read(cloud, "b") == content


def test_a_refused_copy_leaves_no_upload(cloud: FsspecElement, put: Put, s3: S3Server) -> None:
    """Neither a refused copy nor a writer that was given up leaves an unfinished upload, which would cost money."""
    put(cloud, "a", b"12345")
    put(cloud, "b", b"12345")
    with pytest.raises(FileExistsError):
        copy_if_absent(cloud._fs, cloud._full("a"), cloud._full("b"), 5)
    writer = cloud.create("c")
    writer.write(memoryview(bytes(40 << 20)))
    writer.close()
    assert cloud._fs.list_multipart_uploads(s3.bucket) == []
    assert cloud.find("c") is None


def test_a_replaced_object_is_a_changed_source(cloud: FsspecElement, source: FileElement, put: Put) -> None:
    """An object replaced by one of the same size, in the same second, is noticed by its tag."""
    put(cloud, PATH, bytes(3_000_000))

    def replace() -> None:
        cloud.remove(PATH)
        put(cloud, PATH, b"1" * 3_000_000)

    with pytest.raises(SourceChangedError):
        land_one(_Hooked(cloud, replace), source)


def test_a_missing_bucket_is_an_outage(s3: S3Server, tmp_path: Path) -> None:
    """Writing to a bucket that is not there is the element's outage, and no bucket is made."""
    element = make(s3_settings(s3, tmp_path, url="s3://no-such-bucket-here/x"))
    with pytest.raises(ElementUnavailableError):
        element.probe()
    with pytest.raises(ElementUnavailableError):
        element.probe()


def test_a_store_that_is_away_is_an_outage(s3: S3Server, tmp_path: Path) -> None:
    """Nobody listening at the endpoint is an outage."""
    config = json.dumps({"retries": {"max_attempts": 0}, "connect_timeout": 1})
    away = {"option_endpoint_url": f"http://127.0.0.1:{free_port()}", "option_config_kwargs": config}
    element = make(s3_settings(s3, tmp_path, **away))
    with pytest.raises(ElementUnavailableError) as caught:
        element.stat("x")
    assert caught.value.outage


def _refusal(code: str, error: OSError) -> OSError:
    error.__cause__ = ClientError({"Error": {"Code": code, "Message": code}}, "PutObject")
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (_refusal("InvalidAccessKeyId", PermissionError("x")), CredentialsError),
        (_refusal("SignatureDoesNotMatch", PermissionError("x")), CredentialsError),
        (NoCredentialsError(), CredentialsError),
        (_refusal("AccessDenied", PermissionError("x")), PermissionRefusedError),
        (_refusal("NoSuchKey", FileNotFoundError("x")), FileMissingError),
        (_refusal("SlowDown", OSError("x")), ElementUnavailableError),
        (TimeoutError(), ElementUnavailableError),
    ],
)
def test_refusals_of_s3_become_ours(error: Exception, expected: type[WorkError]) -> None:
    """What S3 says in its own words becomes the error that decides whether to try again."""
    found = fsspec_error(error, "cloud", "writing 'x'")
    assert type(found) is expected
    assert found.element == "cloud"
