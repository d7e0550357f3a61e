"""Why a disk or a bucket refused, in words that say what to do; which refusals are about one object, which about all.

The S3 libraries are only asked when they were loaded. No text holds a credential.
"""

import errno
import shutil
import sys
from pathlib import Path

from pipeline.folders import reason

BAD_CREDENTIALS = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"}
OBJECT_CODES = {"NoSuchKey", "404", "AccessDenied", "InvalidObjectState"}
"""What a server says about one object alone: gone, not for this user, or moved to an archive that must be thawed."""
BUSY_CODES = {"SlowDown", "RequestLimitExceeded", "TooManyRequests", "429"}
CLOCK_CODES = {"RequestTimeout", "408", "RequestTimeTooSkewed", "RequestExpired"}
PERMISSIONS = {
    "read": "s3:GetObject",
    "write": "s3:PutObject",
    "move": "s3:GetObject, s3:PutObject and s3:DeleteObject",
    "delete": "s3:DeleteObject",
    "list": "s3:ListBucket",
    "look for": "s3:GetObject and s3:ListBucket",
}
"""What a bucket's policy must allow, by what is done."""
DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


def is_s3(uri: str) -> bool:
    """Return whether a URI names something in a bucket."""
    return uri.startswith("s3://")


def read_errors() -> tuple[type[Exception], ...]:
    """Return what a broken read or write can raise; the S3 libraries are only asked when they were loaded."""
    if "botocore" not in sys.modules:
        return (OSError,)
    from aiohttp import ClientError as HttpError
    from botocore.exceptions import BotoCoreError, ClientError

    return (OSError, BotoCoreError, ClientError, HttpError)


def error_code(error: BaseException) -> str:
    """Return the code a bucket's server gave (`AccessDenied`, `SlowDown`, `404`), empty when none did."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def http_status(error: BaseException) -> int:
    """Return the HTTP status that a bucket's server answered with, 0 when it did not answer."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None) or {}
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def is_busy(code: str) -> bool:
    """Return whether a server's code asks for fewer requests: its own, or that of the keys' service behind it."""
    return code in BUSY_CODES or "throttl" in code.lower()


def is_outage(error: BaseException, uri: str) -> bool:
    """Return whether a failed read is about a whole bucket or the way to it, not about this one object.

    A request that is wrong (4xx) is wrong for this object, unless its code is about who asks, when, or how often.
    """
    if not is_s3(uri):
        return False
    code = error_code(error)
    if not code or code in OBJECT_CODES:
        return not code and not isinstance(error, FileNotFoundError)
    is_ours = code in BAD_CREDENTIALS | CLOCK_CODES | {"NoSuchBucket"} or is_busy(code)
    return is_ours or http_status(error) // 100 != 4


def explain(error: BaseException, uri: str, action: str = "") -> str:
    """Return why an operation failed and what to look at, without any credential.

    Args:
        error: what the disk or the S3 library raised.
        uri: what it was about.
        action: key of PERMISSIONS, where it is known.
    """
    if not is_s3(uri):
        return _explain_disk(error, uri, action)
    bucket = uri.removeprefix("s3://").partition("/")[0]
    code = error_code(error)
    name = type(error).__name__
    if code == "NoSuchBucket":
        return f"no bucket {bucket!r} at this endpoint; check the name and AWS_ENDPOINT_URL"
    if code in BAD_CREDENTIALS:
        return (
            f"the credentials were refused ({code}); check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,"
            " AWS_SESSION_TOKEN and AWS_PROFILE"
        )
    if name in ("NoCredentialsError", "PartialCredentialsError"):
        return (
            "no credentials; set AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or a machine role"
        )
    if isinstance(error, PermissionError):
        return (
            f"access denied ({code or 'no code'}); the credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,"
            f" AWS_PROFILE) are wrong or may not do this in bucket {bucket!r}"
            + (f": allow them {PERMISSIONS[action]}" if action in PERMISSIONS else "")
        )
    if isinstance(error, FileNotFoundError):
        return f"no such object or folder in bucket {bucket!r}"
    if name in ("EndpointConnectionError", "ConnectTimeoutError", "ClientConnectorError"):
        return "nothing answers at the endpoint; check AWS_ENDPOINT_URL and the network"
    return f"{name}: {error}" + (f" ({code})" if code and code not in str(error) else "")


def _explain_disk(error: BaseException, uri: str, action: str) -> str:
    number = getattr(error, "errno", None)
    if number in DISK_FULL:
        folder = next((at for at in Path(uri).absolute().parents if at.exists()), Path("/"))
        free_bytes, total_bytes = shutil.disk_usage(folder).free, shutil.disk_usage(folder).total
        return (
            f"{reason(error)}: found {free_bytes:,} of {total_bytes:,} bytes free there (or a quota used up), expected"
            " room for this file; free some space, then run the same command again to go on, or give another folder"
        )
    if number == errno.EROFS:
        return f"{reason(error)}; mount it for writing, or give a folder on another disk"
    if isinstance(error, NotADirectoryError | FileExistsError) and action == "write":
        for file in filter(Path.is_file, Path(uri).absolute().parents):
            return f"{file} is a file, expected a folder; give another place, or move the file away"
    if isinstance(error, PermissionError) and action == "write":
        return f"{reason(error)}: it may not write there; change the folder's owner or mode, or give another folder"
    return reason(error)
