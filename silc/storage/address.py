"""What an address is: a path of the local file system, or a URL of a remote store.

    /data/00000.tar, ~/data/00000.tar, file:///data/00000.tar
    s3://bucket/00000.tar                       also s3a://; any store that speaks S3, by AWS_ENDPOINT_URL
    gs://bucket/00000.tar                       also gcs://
    az://container/00000.tar                    also azure:// and adl://; AZURE_STORAGE_ACCOUNT_NAME names the account
    abfs://container@account.dfs.core.windows.net/00000.tar     also abfss://
    https://host/00000.tar                      also http://; never signed

An address never holds credentials: they come from the environment or from the usual files (`~/.aws`), and addresses are
shown in messages and logs. In http addresses the usual percent-encoding holds; keys of the other stores are literal.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
from typing import NamedTuple
from urllib.parse import quote, unquote

LONGEST = 4096  # characters
SHOWN = 200  # characters of an address in a message
SCHEMES = {
    "http": "http",
    "https": "https",
    "s3": "s3",
    "s3a": "s3",
    "gs": "gs",
    "gcs": "gs",
    "az": "az",
    "azure": "az",
    "adl": "az",
    "abfs": "abfs",
    "abfss": "abfs",
}
"""Scheme of an address -> the one by which its store is opened."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/]*)/?(.*)", re.DOTALL)
_CONTROL = re.compile(r"[\0-\x1f\x7f]")
_PASSWORD = re.compile(r"@|:(?!\d*$)")  # in a host: a user name, or what follows a colon and is no port
_IPV6 = re.compile(r"^\[[0-9A-Fa-f:.]+\]")
_URL_SAFE = "/!$&'()*+,;=:@~"  # what a path of a URL holds as it is, besides letters, digits and -._


class Remote(NamedTuple):
    """A remote address taken apart.

    scheme: a value of SCHEMES; host: the host, bucket or container; path: the object's key, not percent-encoded.
    """

    scheme: str
    host: str
    path: str


def is_remote(address: str) -> bool:
    """Whether an address names something in a remote store, not a local path."""
    found = _URL.fullmatch(address)
    return found is not None and found[1].lower() != "file"


def check_address(address: str, what: str) -> None:
    """Refuse an address that cannot be read, or that holds credentials.

    what: where it is given, for the message.

    Raises:
        ValueError: a command (pipe:), an unknown scheme, a user name or password, a query or fragment, a part of the
            path that is empty, "." or ".."; or a remote address while the package obstore is not installed.
    """
    shown = shorten(address)
    if not address or len(address) > LONGEST or _CONTROL.search(address):
        raise ValueError(
            f"{what}: {shown!r} is not an address: it is empty, longer than {LONGEST} characters, or holds control "
            "characters"
        )
    if re.match(r"pipe:", address, re.IGNORECASE):
        raise ValueError(f"{what}: an address that begins with pipe: is a command and is not run; give the files")
    url = _URL.fullmatch(address)
    if url is None:
        return
    scheme, host, path = url[1].lower(), url[2], url[3]
    if scheme == "file":
        if host not in ("", "localhost"):
            raise ValueError(f"{what}: {shown!r} names a file of another machine; give file:///path, or the path")
        return
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise ValueError(f"{what}: {shown!r} has the unknown scheme {scheme[:20]!r}; known are {known} and local paths")
    if _names_user(scheme, host):
        raise ValueError(
            f"{what}: {shown!r} holds a user name or password; leave them out, credentials are taken from the "
            "environment or from the usual files of the store"
        )
    if "?" in address or "#" in address:
        raise ValueError(f"{what}: {shown!r} holds a query or fragment; give the address without it")
    if not host:
        raise ValueError(f"{what}: {shown!r} lacks the {'host' if scheme in ('http', 'https') else 'bucket'}")
    decoded = _decoded(scheme, path)
    if _CONTROL.search(decoded):
        raise ValueError(f"{what}: {shown!r} holds control characters")
    if path and any(part in ("", ".", "..") for part in decoded.removesuffix("/").split("/")):
        raise ValueError(f'{what}: {shown!r} holds a part that is empty, "." or ".."; object stores cannot read it')
    if importlib.util.find_spec("obstore") is None:
        raise ValueError(
            f"{what}: {shown!r} is in a remote store, which needs the package obstore: pip install 'silc[remote]'"
        )


@functools.lru_cache(maxsize=4096)
def split_remote(address: str) -> Remote:
    """Scheme, host and path of a remote address. Raises ValueError as :func:`check_address` does."""
    check_address(address, "address")
    url = _URL.fullmatch(address)
    if url is None or url[1].lower() == "file":
        raise ValueError(f"{shorten(address)!r} is a local path, not the address of a remote store")
    scheme = url[1].lower()
    return Remote(SCHEMES[scheme], url[2], _decoded(scheme, url[3]).rstrip("/"))


def local_path(address: str) -> str:
    """The path that a local address names: `~` and file:// are resolved. Raises ValueError for a remote one."""
    if is_remote(address):
        raise ValueError(f"{shorten(address)!r} is not on a local disk")
    url = _URL.fullmatch(address)
    return os.path.expanduser(address) if url is None else "/" + unquote(url[3])


def join(folder: str, name: str) -> str:
    """The address of the file or object `name` (with slashes: in subfolders) in a folder; an absolute name stays."""
    if is_remote(name):
        return name
    if not is_remote(folder):
        return os.path.join(local_path(folder), os.path.expanduser(name))
    return f"{folder.rstrip('/')}/{quote(name, _URL_SAFE) if _is_http(folder) else name}"


def beside(address: str, suffix: str) -> str:
    """The address of a file beside another, named like it with `suffix` appended."""
    return address + suffix


def name_of(address: str) -> str:
    """The name without its folders, as a file would have it."""
    if not is_remote(address):
        return os.path.basename(local_path(address))
    return split_remote(address).path.rpartition("/")[2]


def folder_of(address: str) -> str:
    """The address of the folder that a file or object lies in, for :func:`join`."""
    if not is_remote(address):
        return os.path.dirname(local_path(address))
    return address.rpartition("/")[0] if split_remote(address).path else address


def shorten(address: str, limit: int = SHOWN) -> str:
    """An address for messages: without a password or query if there is one, and with its last `limit` characters."""
    url = _URL.match(address)
    if url is not None and url[1].lower() != "file":
        host, path = url[2], url[3]
        if _names_user(url[1].lower(), host):
            host, path = "***", path.rpartition("@")[2]  # a password may hold a slash
        address = re.split(r"[?#]", f"{url[1]}://{host}/{path}", maxsplit=1)[0].rstrip("/")
    address = "".join(sign if sign.isprintable() else "?" for sign in address[-LONGEST:])
    return address if len(address) <= limit else "..." + address[-limit:]


def _names_user(scheme: str, host: str) -> bool:
    """Whether a host comes with a user name or password; container@account of abfs is neither."""
    if SCHEMES.get(scheme) == "abfs" and re.fullmatch(r"[^@:]+@[^@:]+", host):
        return False
    return _PASSWORD.search(_IPV6.sub("", host)) is not None


def _is_http(address: str) -> bool:
    return re.match(r"https?://", address, re.IGNORECASE) is not None


def _decoded(scheme: str, path: str) -> str:
    return unquote(path) if scheme in ("http", "https") else path
