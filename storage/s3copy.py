"""A copy inside S3 that never replaces an object."""

from __future__ import annotations

import errno
from typing import Any

from botocore.exceptions import ClientError  # type: ignore[import-untyped]

_RANGE = 1 << 30
_TAKEN = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412", "409"})


def error_code(error: BaseException | None) -> str:
    """Return S3's own word for an error, '' if there is none; s3fs keeps it in the cause."""
    while error is not None:
        if isinstance(error, ClientError):
            return str(error.response.get("Error", {}).get("Code", ""))
        error = error.__cause__
    return ""


def copy_if_absent(fs: Any, source: str, goal: str, size: int) -> None:
    """Copy an object of `size` bytes on the server; raises FileExistsError if the goal exists.

    CopyObject has a condition on few servers, completing a multipart upload has it on most: so the copy is a
    multipart upload whose parts are copied. An S3 that knows no conditions at all gets a plain copy.
    """
    bucket, key, _ = fs.split_path(goal)
    place = {"Bucket": bucket, "Key": key}
    try:
        if size == 0:
            fs.call_s3("put_object", **place, Body=b"", IfNoneMatch="*")
        else:
            _copy_parts(fs, source, place, size)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            fs.cp_file(source, goal)
            return
        if error_code(error) in _TAKEN:
            raise FileExistsError(errno.EEXIST, "the object exists already", goal) from error
        raise


def _copy_parts(fs: Any, source: str, place: dict[str, str], size: int) -> None:
    upload = {**place, "UploadId": fs.call_s3("create_multipart_upload", **place)["UploadId"]}
    try:
        parts = []
        for number, start in enumerate(range(0, size, _RANGE), start=1):
            span = f"bytes={start}-{min(start + _RANGE, size) - 1}"
            reply = fs.call_s3("upload_part_copy", **upload, PartNumber=number, CopySource=source, CopySourceRange=span)
            parts.append({"PartNumber": number, "ETag": reply["CopyPartResult"]["ETag"]})
        fs.call_s3("complete_multipart_upload", **upload, MultipartUpload={"Parts": parts}, IfNoneMatch="*")
    except BaseException:
        fs.call_s3("abort_multipart_upload", **upload)
        raise
