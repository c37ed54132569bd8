"""Connections to remote stores, by obstore.

obstore hangs in a forked process once its parent has used it, even with a new store. So it is imported and used at the
first remote read, in the process that reads; a process that will fork reads through :func:`silc.storage.fetch_apart`.
"""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from silc.files import check_regular
from silc.storage.address import Remote
from silc.storage.aws_files import MAX_FILE, BadSettings, read_settings
from silc.storage.store import Limits

HOSTS = 64  # stores that are kept; one for each bucket or host
RUNTIME_THREADS = "2"  # of obstore in each process; its default, one for each core, times the workers of a node is many
KEYS_LAST = 900.0  # seconds, after which keys are read again from the files
_ENDPOINT = re.compile(r"https?://[A-Za-z0-9._~:/\[\]-]+", re.IGNORECASE)

_used_by: int | None = None  # process that used obstore first


def obstore() -> Any:
    """The module, imported with the first call.

    Raises RuntimeError in a process that was forked from one that had used it: every call would hang there.
    """
    global _used_by
    if _used_by is None:
        os.environ.setdefault("TOKIO_WORKER_THREADS", RUNTIME_THREADS)
        _used_by = os.getpid()
    if _used_by != os.getpid():
        raise RuntimeError(
            f"process {os.getpid()} was forked from process {_used_by}, which had read from a remote store, and cannot "
            "do so itself; read by silc.storage.fetch_apart before the fork, or start processes by spawn"
        )
    import obstore

    return obstore


class Connections:
    """obstore's stores, one for each bucket or host, opened at first use."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._stores: OrderedDict[tuple[str, str], Any] = OrderedDict()
        self._lock = threading.Lock()

    def to(self, place: Remote) -> Any:
        """The store that holds an object; keys in it are `place.path`.

        Raises:
            ValueError: settings of the environment or of ~/.aws that obstore does not take.
            RuntimeError: see :func:`obstore`.
        """
        obstore()
        key = place.scheme, place.host
        with self._lock:
            if key not in self._stores:
                self._stores[key] = _open(place, self._limits)
                if len(self._stores) > HOSTS:
                    self._stores.popitem(last=False)
            self._stores.move_to_end(key)
            return self._stores[key]

    def close(self) -> None:
        """Forget all stores; connections end when nobody uses them."""
        with self._lock:
            self._stores.clear()


def _open(place: Remote, limits: Limits) -> Any:
    from obstore import store

    stores: Any = store
    retry = {"max_retries": 0}  # retry.py tries again: one place that counts, waits and gives up
    try:
        if place.scheme in ("http", "https"):
            client = _client(limits, plain=place.scheme == "http")
            return stores.HTTPStore(f"{place.scheme}://{place.host}", client_options=client, retry_config=retry)
        if place.scheme == "s3":
            settings = read_settings(os.environ)
            provider: Any = _keys_of_files if settings.keys is not None else None
            if settings.by_boto:
                from obstore.auth.boto3 import Boto3CredentialProvider

                provider = Boto3CredentialProvider()
            client = _client(limits, plain=_plain_endpoint(os.environ, "AWS", settings.options.get("endpoint", "")))
            client |= _authority(os.environ)
            options: dict[str, Any] = {"config": settings.options, "credential_provider": provider}
            return stores.S3Store(place.host, **options, client_options=client, retry_config=retry)
        client = _client(limits, plain=_plain_endpoint(os.environ, {"gs": "GOOGLE"}.get(place.scheme, "AZURE")))
        return stores.from_url(f"{place.scheme}://{place.host}", client_options=client, retry_config=retry)
    except BadSettings:
        raise
    except Exception as error:  # of obstore or boto3: their texts hold values of the environment
        wrong = type(error).__name__
    raise ValueError(f"{place.scheme}://{place.host} cannot be set up: {wrong}; {_ADVICE[place.scheme]}")


def _keys_of_files() -> dict[str, Any]:
    """For obstore, which asks again before they expire: tools that renew keys write them to the files."""
    keys = read_settings(os.environ).keys
    if keys is None:
        raise BadSettings("the keys in the files of ~/.aws have been removed")
    return {"token": None} | keys | {"expires_at": datetime.now(UTC) + timedelta(seconds=KEYS_LAST)}


_ADVICE = {
    "http": "check the address",
    "https": "check the address",
    "s3": "check the variables AWS_* and ~/.aws",
    "gs": "check the variables GOOGLE_* and the credentials file that they name",
    "az": "check the variables AZURE_*; AZURE_STORAGE_ACCOUNT_NAME must be set",
    "abfs": "check the variables AZURE_*",
}


def _client(limits: Limits, *, plain: bool) -> dict[str, Any]:
    """plain: whether http without encryption is allowed."""
    options: dict[str, Any] = {
        "connect_timeout": timedelta(seconds=limits.connect),
        "read_timeout": timedelta(seconds=limits.stall),
        "timeout": timedelta(seconds=limits.request),
    }
    return options | {"allow_http": True} if plain else options


def _plain_endpoint(environ: Mapping[str, str], prefix: str, endpoint: str = "") -> bool:
    """Whether the user has named an endpoint without encryption, as a store on this machine or in a cluster has it.

    endpoint: of ~/.aws/config. Raises BadSettings where an endpoint is no URL.
    """
    names = ("ENDPOINT_URL_S3", "ENDPOINT_URL", "ENDPOINT", "STORAGE_ENDPOINT", "BASE_URL")
    named = {f"{prefix}_{name}": environ.get(f"{prefix}_{name}", "") for name in names}
    for variable, url in (named | {"endpoint_url of ~/.aws/config": endpoint}).items():
        if url and not _ENDPOINT.fullmatch(url):
            raise BadSettings(f"{variable} is no address of a server; write https://host or https://host:port")
    emulator = prefix == "AZURE" and bool(environ.get("AZURE_STORAGE_USE_EMULATOR"))
    return emulator or any(url.lower().startswith("http://") for url in [*named.values(), endpoint])


def _authority(environ: Mapping[str, str]) -> dict[str, Any]:
    """The certificate authority of a store of one's own, named as for Amazon's tools."""
    path = environ.get("AWS_CA_BUNDLE")
    if not path:
        return {}
    try:
        check_regular(path, 16 * MAX_FILE)
        return {"root_certificate": Path(path).read_bytes()}
    except (OSError, ValueError) as error:
        raise BadSettings(f"AWS_CA_BUNDLE={path} cannot be read ({type(error).__name__})") from None
