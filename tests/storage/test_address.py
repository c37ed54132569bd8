"""What an address is, and what is refused."""

from __future__ import annotations

import os
import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from silc.storage import beside, check_address, folder_of, is_remote, join, local_path, name_of, shorten
from silc.storage.address import SCHEMES, Remote, split_remote

NAMES = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="/?#"), min_size=1).filter(
    lambda name: name not in (".", "..")
)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("s3://bucket/a/b.tar", Remote("s3", "bucket", "a/b.tar")),
        ("S3A://bucket/a%20b.tar", Remote("s3", "bucket", "a%20b.tar")),
        ("gs://bucket", Remote("gs", "bucket", "")),
        ("gcs://bucket/", Remote("gs", "bucket", "")),
        ("az://container/x", Remote("az", "container", "x")),
        (
            "abfss://container@account.dfs.core.windows.net/x",
            Remote("abfs", "container@account.dfs.core.windows.net", "x"),
        ),
        ("https://host:8443/a%20b+c/", Remote("https", "host:8443", "a b+c")),
        ("http://[::1]:80/x@y:z", Remote("http", "[::1]:80", "x@y:z")),
    ],
)
def test_remote_addresses(address, expected):
    assert is_remote(address)
    check_address(address, "x")
    assert split_remote(address) == expected
    assert shorten(address) == address.rstrip("/")


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("/data/a.tar", "/data/a.tar"),
        ("data/a b?#%20.tar", "data/a b?#%20.tar"),
        ("~/a.tar", os.path.expanduser("~/a.tar")),
        ("file:///data/a%20b.tar", "/data/a b.tar"),
        ("FILE://localhost/x", "/x"),
        ("c:d", "c:d"),
    ],
)
def test_local_addresses(address, path):
    assert not is_remote(address)
    check_address(address, "x")
    assert local_path(address) == path
    assert name_of(address) == path.rpartition("/")[2]
    assert folder_of(address) == os.path.dirname(path)
    with pytest.raises(ValueError, match="is a local path"):
        split_remote(address)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("", "is empty"),
        ("a\nb", "control characters"),
        ("http://host/%0ab", "control characters"),
        ("x" * 5000, "longer than 4096 characters"),
        ("pipe:cat x", "is a command and is not run"),
        ("PIPE:cat x", "is a command and is not run"),
        ("hdfs://x/y", "unknown scheme 'hdfs'; known are http://, https://, s3://"),
        ("file://host/x", "of another machine"),
        ("s3:///x", "lacks the bucket"),
        ("https:///x", "lacks the host"),
        ("s3://b/x?y", "holds a query or fragment"),
        ("s3://b/x#y", "holds a query or fragment"),
        ("https://me@host/x", "holds a user name or password"),
        ("https://me:pw/d@host/x", "holds a user name or password"),
        ("abfs://a:b@host/x", "holds a user name or password"),
        ("s3://b//x", 'empty, "." or ".."'),
        ("s3://b/a/../x", 'empty, "." or ".."'),
        ("http://b/a/%2e%2E/x", 'empty, "." or ".."'),
        ("s3://b/a/./x", 'empty, "." or ".."'),
    ],
)
def test_refusals_name_the_place(address, words):
    with pytest.raises(ValueError, match=rf"^data\.shards: .*{words}") as caught:
        check_address(address, "data.shards")
    assert len(str(caught.value)) < 600


def test_a_remote_address_needs_obstore(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"data: 's3://b/x' is in a remote store.* pip install 'silc\[remote\]'"):
        check_address("s3://b/x", "data")
    check_address("/x", "data")


@given(name=NAMES, folder=st.sampled_from(["s3://b", "s3://b/c/", "https://host/c", "gs://b/c d", "/tmp/x", "rel"]))
def test_what_is_joined_comes_apart(folder, name):
    address = join(folder, name)
    if not (is_remote(name) or name.startswith(("~", "file:")) or is_remote(address) != is_remote(folder)):
        assert name_of(address) == name
        assert folder_of(address) == folder.rstrip("/")
        assert name_of(beside(address, ".idx")) == name + ".idx"


@given(st.sampled_from(sorted(SCHEMES)), st.lists(NAMES, min_size=1, max_size=4))
def test_subfolders_are_joined(scheme, names):
    folder = f"{scheme}://host/top"
    inside = posixpath.join(*names)
    assert split_remote(join(folder, inside)).path == f"top/{inside}"


def test_absolute_names_stay():
    assert join("s3://b/c", "https://h/x") == "https://h/x"
    assert join("/a", "s3://b/x") == "s3://b/x"
    assert join("/a", "/x") == "/x"


@given(st.text())
def test_messages_are_short_and_printable(text):
    shown = shorten(text * 50)
    assert len(shown) <= 203
    assert shown.isprintable()
