"""Which shards a list of names stands for; what cannot be meant is refused in words, whatever its size."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from braceexpand import braceexpand
from hypothesis import given, settings
from hypothesis import strategies as st

from silc.data.shards import expand, expand_shards
from silc.data.shards.braces import count_names


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """x-00.tar to x-02.tar, and a file that is no shard."""
    for name in ("x-00.tar", "x-01.tar", "x-02.tar", "notes.txt"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def test_patterns(root, monkeypatch):
    paths = [str(root / f"x-0{i}.tar") for i in range(3)]
    assert expand_shards([f"{root}/x-{{00..02}}.tar"]) == paths
    assert expand_shards([f"{root}/x-*.tar"]) == paths
    assert expand_shards([f"{root}/x-0[02].tar"]) == paths[::2]
    assert expand_shards([str(root)]) == paths
    assert expand_shards([paths[2], paths[0]]) == [paths[2], paths[0]]
    assert expand_shards([f"{root}/{{x-00,x-0[12]}}.tar"]) == paths
    monkeypatch.setenv("HOME", str(root))
    assert expand_shards(["~/x-00.tar", "~/x-{01,02}.tar"]) == paths


def test_names_with_special_signs(root):
    for name in ("a[1].tar", "b*.tar", "line\nbreak.tar"):
        (root / name).write_bytes(name.encode())
        assert expand_shards([str(root / name)]) == [str(root / name)]
    (root / "f[1]").mkdir()
    (root / "f[1]/a.tar").write_bytes(b"")
    assert expand_shards([f"{root}/f[1]"]) == [f"{root}/f[1]/a.tar"]


REMOTE = ["s3://bucket/a/", "gs://bucket/a", "https://host:80/a.tar", "http://host/a%20b.tar", "az://box/set.manifest"]


def test_remote_names_are_left_as_they_are():
    """Nothing is asked of the network here."""
    assert expand_shards(REMOTE) == REMOTE
    assert expand_shards(["s3://b/{train,val}-{00..01}.tar"]) == [
        f"s3://b/{part}-{number}.tar" for part in ("train", "val") for number in ("00", "01")
    ]
    assert [expand.is_remote(name) for name in [*REMOTE, "S3://b/x.tar"]] == [True] * 6
    assert not any(map(expand.is_remote, ["/data/s3.tar", "s3:/x.tar", "file.tar", "pipe:s3://x", "c:x"]))


def test_manifests(root):
    (root / "some.manifest").write_text("")
    assert expand_shards([f"{root}/some.manifest"]) == [f"{root}/some.manifest"]
    (root / "shards.manifest").write_text("")
    assert expand_shards([str(root)], manifests=True) == [f"{root}/shards.manifest"]
    assert len(expand_shards([str(root)])) == 3
    with pytest.raises(ValueError, match=r"data\.shards: no such file or folder '.*/absent\.manifest'"):
        expand_shards([f"{root}/absent.manifest"])


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("{root}/x-{{00..05}}.tar", r"no such file or folder '.*x-03\.tar'$"),
        ("{root}/x-00.tar/y.tar", r"no such file or folder '.*x-00\.tar/y\.tar'$"),
        ("{root}/nothing-*.tar", r"no tar file matches '.*/nothing-\*\.tar'$"),
        ("{root}/empty", r"folder '.*empty' holds no \.tar; make shards of what is in it: silc shards pack$"),
        ("{root}/folder.tar/../folder*", r"folder\.tar' is a folder, not a tar file$"),
        ("{root}/pipe.tar", r"pipe\.tar' is a pipe, socket or device, not a tar file$"),
        ("/dev/zero", "'/dev/zero' is a pipe, socket or device, not a tar file$"),
        ("{root}/circle.tar", r"circle\.tar' cannot be read: Too many levels of symbolic links$"),
        ("{root}/" + "x" * 300, "' cannot be read: File name too long$"),
        ("s3://bucket/x-*.tar", r"'s3://bucket/x-\*\.tar' has a wildcard, and a remote store is not searched"),
        ("https://host/x.tar?key=1", "holds a query or fragment"),
        ("pipe:cat x.tar", "an address that begins with pipe: is a command and is not run"),
        ("PIPE:cat x.tar", "is a command and is not run"),
        ("ftp://host/x.tar", "'ftp://host/x.tar' has the unknown scheme 'ftp'; known are"),
        ("", "'' is no name of a file$"),
        ("a\0.tar", "is no name of a file$"),
        ("{root}/{{a,b", "its braces do not pair$"),
        ("{root}/a}}", "its braces do not pair$"),
    ],
)
def test_names_that_cannot_be_meant(root, pattern, says):
    (root / "empty").mkdir()
    (root / "folder.tar").mkdir()
    os.mkfifo(root / "pipe.tar")
    (root / "circle.tar").symlink_to(root / "circle.tar")
    with pytest.raises(ValueError, match=rf"^here: .*{says}"):
        expand_shards([pattern.format(root=root)], "here")


def test_no_shards_at_all():
    with pytest.raises(ValueError, match=r"^no shards given: set data\.shards to tar files"):
        expand_shards([])


@pytest.mark.parametrize(
    "patterns",
    [
        ["{0..99999999999}"],
        ["s3://b/{0..9999999}{0..9}.tar"],
        ["{0..9}" * 9],
        ["{a,b}" * 200],
        ["{" * 14 + "a" + ",b}" * 14 + "{0..99}" * 20],
        ["{a..z}" * 6],
        ["s3://b/{0..6000000}.tar", "s3://c/{0..6000000}.tar"],
    ],
)
def test_braces_are_counted_before_they_are_expanded(patterns, monkeypatch):
    """What passes is expanded one by one; the rest is refused without making a name of it."""
    made = []
    monkeypatch.setattr(expand, "braceexpand", lambda pattern: made.append(pattern) or iter(()))
    with pytest.raises(ValueError, match=r"more than 10,000,000 names; check the braces$") as error:
        expand_shards(patterns)
    assert made == patterns[:-1]
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("{" * 500 + "a" + ",b}" * 500, "nested more than 16 deep"),
        ("{0.." + "9" * 5000 + "}", "a number of more than 18 digits"),
        ("x" * 100_001, "more than 100,000 characters"),
    ],
)
def test_patterns_that_are_no_names(pattern, says):
    with pytest.raises(ValueError, match=says) as error:
        expand_shards([pattern])
    assert len(str(error.value)) < 400


def test_a_limit_on_what_wildcards_find(root, monkeypatch):
    monkeypatch.setattr(expand, "MAX_NAMES", 2)
    with pytest.raises(ValueError, match="more than 2 names"):
        expand_shards([f"{root}/x-*.tar"])


PIECES = st.sampled_from(
    ["a", "b", ",", "{", "}", "..", "0", "3", "07", "11", "-2", "..2}", "{1..4", "{a..e}", "\\", "z"]
)


@given(pattern=st.lists(PIECES, max_size=14).map("".join))
@settings(max_examples=600, deadline=None)
def test_no_fewer_names_are_counted_than_are_made(pattern):
    try:
        count = count_names(pattern)
    except ValueError:
        return
    names = list(braceexpand(pattern))
    assert len(names) <= count
    if not re.search(r"[a-z]\.\.[a-z]|\\", pattern):
        assert len(names) == count


def test_a_file_named_twice(root):
    a = str(root / "x-00.tar")
    for again in ([a, a], [str(root), a], [f"{root}/x-*.tar", str(root)]):
        with pytest.raises(ValueError, match=r"^data\.shards: .*x-0\d\.tar is named twice$"):
            expand_shards(again)
    (root / "soft.tar").symlink_to("x-00.tar")
    (root / "hard.tar").hardlink_to(a)
    (root / "folder").symlink_to(root)
    for again in ("soft.tar", "hard.tar", "folder/x-00.tar", "../" + root.name + "/x-00.tar"):
        with pytest.raises(ValueError, match=rf"x-00\.tar and .*{again} are the same file; name it once$"):
            expand_shards([a, f"{root}/{again}"])
    with pytest.raises(ValueError, match=r"^data\.shards: s3://b/a\.tar is named twice$"):
        expand_shards(["s3://b/a.tar", "s3://b/{a,b}.tar"])


def test_messages_stay_short(root):
    with pytest.raises(ValueError, match="no such file") as error:
        expand_shards([f"{root}/" + "y/" * 1000 + "x.tar"])
    assert len(str(error.value)) < 400


def test_a_wildcard_does_not_mean_the_index_beside_the_shards(root):
    before = expand_shards([f"{root}/*.tar"])
    for path in before:
        (root / f"{path}.idx").write_bytes(b"")
        (root / f"{path}.cap").write_bytes(b"")
    (root / "shards.manifest").write_text("")
    assert expand_shards([f"{root}/*.tar*"]) == before
    assert not [name for name in expand_shards([f"{root}/*"]) if name.endswith((".idx", ".cap", "shards.manifest"))]
