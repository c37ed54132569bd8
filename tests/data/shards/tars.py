"""Tars for tests, and what they hold: a slow, obvious reading with tarfile."""

from __future__ import annotations

import io
import itertools
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hypothesis import strategies as st

IMAGES = ("jpg", "jpeg", "png", "webp")
FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
FOLDER, SYMLINK, HARDLINK, PIPE = "5", "2", "1", "6"  # types of entries
Entry = tuple[str, bytes | str]  # a name, and the bytes of a file, or the type of something else


def pack(entries: Sequence[Entry], form: int = tarfile.USTAR_FORMAT, **options) -> bytes:
    """A tar of files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, **options) as tar:
        add(tar, entries, form)
    return buffer.getvalue()


def add(tar: tarfile.TarFile, entries: Sequence[Entry], form: int) -> None:
    for name, data in entries:
        info = tarfile.TarInfo(name)
        if isinstance(data, str):
            info.type, info.linkname, data = data.encode(), "elsewhere", b""
        if form == tarfile.PAX_FORMAT:
            info.mtime = 1.5  # needs an extended header
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))


def append(path: Path, entries: Sequence[Entry], form: int = tarfile.USTAR_FORMAT) -> None:
    """As `tar -r` does."""
    with tarfile.open(path, "a", format=form) as tar:
        add(tar, entries, form)


class Content(NamedTuple):
    """What a tar holds: (key, extension -> bytes) of each sample, and the number of lost ones by reason."""

    samples: list[tuple[str, dict[str, bytes]]]
    lost: dict[str, int]


def files(data: bytes) -> list[tuple[str, str, bytes]]:
    """(key, extension, bytes) of every file of a sample, in order."""
    found = []
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            base = member.name.split("/")[-1]
            if not member.isreg() or member.issparse() or "." not in base[1:] or base.startswith("."):
                continue
            first = member.name.split("/")[0]
            if first.startswith("__") and first.endswith("__") and len(first) > 3:
                continue
            key = member.name[: len(member.name) - len(base)] + base.split(".")[0]
            found.append((key, base.split(".", 1)[1].lower(), tar.extractfile(member).read()))
    return found


def content(data: bytes, images: Sequence[str] = IMAGES) -> Content:
    """What should be found in a tar, by the rules as they are written down."""
    runs = [(key, list(run)) for key, run in itertools.groupby(files(data), key=lambda file: file[0])]
    lost: Counter[str] = Counter()
    usable: dict[str, list[tuple[int, dict[str, bytes]]]] = {}
    for number, (key, run) in enumerate(runs):
        times = Counter(extension for _, extension, _ in run)
        lost["key comes twice"] += max(times.values()) - 1
        merged = dotted(set(times), images)
        lost["dot in the name"] += merged
        if not merged or set(times) & set(images):
            usable.setdefault(key, []).append((number, {extension: data for _, extension, data in run}))
    chosen = []
    for key, versions in usable.items():
        everything = set().union(*(members for _, members in versions))
        lost["key comes twice"] += max(sum(e in members for _, members in versions) for e in everything) - 1
        number, members = versions[-1]
        if set(members) == everything:
            chosen.append((number, key, members))
        else:
            lost["members not adjacent"] += 1
    chosen.sort(key=lambda sample: sample[0])
    return Content([(key, members) for _, key, members in chosen], {reason: n for reason, n in lost.items() if n})


def dotted(extensions: set[str], images: Sequence[str]) -> int:
    """How many samples x.01.jpg, x.02.jpg ... of one key are."""
    most: list[set[str]] = []
    for image in images:
        stems = {e.rpartition(".")[0] for e in extensions if e.endswith(f".{image}")}
        if extensions & set(images):
            companions = [e for e in extensions if e.rpartition(".")[2] not in images and "." in e]
            stems &= {e.rpartition(".")[0] for e in companions}
        most.append(stems)
    return len(set().union(*most)) if any(len(stems) > 1 for stems in most) else 0


KEYS = ["a", "b", "c", "d/a", "d.e/a", "./a", "-", "été", "long/" * 30 + "x", "__a", "a b"]
EXTENSIONS = [
    "jpg",
    "png",
    "txt",
    "json",
    "JPG",
    "mask.png",
    "depth.png",
    "0.jpg",
    "0.txt",
    "1.jpg",
    "1.txt",
    "cls",
    "tar.gz",
]
ODD = [
    ("README", b"no extension"),
    (".hidden", b"x"),
    ("d/.hidden.jpg", b"x"),
    ("__meta__/x.jpg", b"x"),
    ("d.e", FOLDER),
    ("a.jpg", SYMLINK),
    ("b.txt", HARDLINK),
    ("c.png", PIPE),
]


@st.composite
def entries(draw: st.DrawFn, keys: Sequence[str] = KEYS, extensions: Sequence[str] = EXTENSIONS) -> list[Entry]:
    """Files of samples: mostly side by side, sometimes apart, again, or with other things between them."""
    found: list[Entry] = []
    for key in draw(st.lists(st.sampled_from(keys), max_size=8)):
        for extension in draw(st.lists(st.sampled_from(extensions), min_size=1, max_size=4)):
            found.append((f"{key}.{extension}", b"%d" % len(found) * draw(st.sampled_from([0, 1, 300, 600]))))
    found += draw(st.lists(st.sampled_from(ODD), max_size=2))
    for _ in range(draw(st.sampled_from([0, 0, 1, 3]))):
        if found:
            found.insert(draw(st.integers(0, len(found) - 1)), found.pop(draw(st.integers(0, len(found) - 1))))
    return found
