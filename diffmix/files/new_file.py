"""Writing a file that only one of several processes may make: on disks, and in buckets by
conditional writes.
"""

from __future__ import annotations

import builtins
import contextlib
import logging
import os
import urllib.parse
import uuid
from functools import lru_cache
from typing import Any

from diffmix.errors import UserError, reason
from diffmix.storage import Folder

log = logging.getLogger(__name__)


def write_new(folder: Folder, name: str, data: bytes) -> bool:
    """Write one file if there is none of this name. False: there is one, which stays.

    On disks and in S3 buckets (with boto3) exactly one of several processes gets True. Other object
    stores are only asked first; a warning says so once. Raises `UserError` where writing is not
    allowed.
    """
    if folder.is_local:
        return _link(folder, name, data)
    client = _s3_client(folder.uri) if folder.uri.startswith("s3://") else None
    if client is not None:
        return _put_new(client, folder, name, data)
    _warn_of_races(urllib.parse.urlsplit(folder.uri).scheme)
    if folder.exists(name):
        return False
    folder.write(name, data)
    return True


def _link(folder: Folder, name: str, data: bytes) -> bool:
    temporary = f".{uuid.uuid4().hex}.tmp"
    folder.write(temporary, data)
    path = f"{folder.path}/{name}"
    try:
        try:
            os.link(f"{folder.path}/{temporary}", path)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            with builtins.open(path, "xb") as file:
                file.write(data)
        return True
    except FileExistsError:
        return False
    finally:
        with contextlib.suppress(OSError):
            os.remove(f"{folder.path}/{temporary}")


def _put_new(client: Any, folder: Folder, name: str, data: bytes) -> bool:
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, key = f"{folder.path}/{name}".partition("/")
    try:
        client.put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
        return True
    except (BotoCoreError, ClientError) as error:
        answer = getattr(error, "response", {}).get("ResponseMetadata", {})
        if answer.get("HTTPStatusCode") in (409, 412):  # another's write is there, or under way
            return False
        raise UserError(f"{folder.uri}/{name} cannot be written ({reason(error)}).") from error


@lru_cache(maxsize=8)
def _s3_client(uri: str) -> Any:
    """A client with the address and keys that pyarrow takes from the URI or the environment; None
    without boto3.
    """
    try:
        import boto3
    except ImportError:
        return None
    parts = urllib.parse.urlsplit(uri)
    query = dict(urllib.parse.parse_qsl(parts.query))
    address = query.get("endpoint_override")
    if address and "://" not in address:
        address = f"{query.get('scheme', 'https')}://{address}"
    return boto3.client(
        "s3",
        endpoint_url=address,
        region_name=query.get("region"),
    )


@lru_cache(maxsize=8)
def _warn_of_races(scheme: str) -> None:
    log.warning(
        "Two runs that start at the same moment on one %s:// folder are not told apart%s.",
        scheme,
        "; install boto3 (diffmix-engine[cloud])" if scheme == "s3" else "",
    )
