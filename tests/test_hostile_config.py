"""Configuration files of any contents are read, or refused in a few words, in time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silc import config_io
from silc.commands import claims, train
from silc.yaml_safe import read_plain

HOSTILE = {
    "Latin-1": "train: {out: caf\xe9}".encode("latin-1"),
    "UTF-16": "train: {steps: 5}".encode("utf-16"),
    "binary": bytes(range(256)),
    "lists in lists": b"[" * 20_000,
    "mappings in mappings": b"{a: " * 10_000,
    "lists in a key": b"train: " + b"[" * 120 + b"]" * 120,
    "merge keys": b"<<: {" * 3000,
    "base 60": b"train: {steps: " + b"1:" * 200_000 + b"1}",  # took 40 s
    "base 60, a fraction": b"optim: {lr: " + b"1:" * 300 + b"1.5}",  # an OverflowError
    "5,000 digits": b"train: {steps: " + b"9" * 5000 + b"}",
    "4,000 digits": b"train: {steps: " + b"9" * 4000 + b"}",
    "hexadecimal digits": b"train: {steps: 0x" + b"f" * 500_000 + b"}",
    "a long value": b"train: {steps: " + b"x" * 500_000 + b"}",
    "a long list of text": b"data: {shards: '" + b"a," * 200_000 + b"'}",
    "a long key": b"x" * 1000 + b": 1",
    "thousands of keys": b"".join(b"k%d: 1\n" % number for number in range(1000)),  # 60,000 took two minutes
    "thousands of keys in a section": b"optim: {" + b", ".join(b"k%d: 1" % number for number in range(1000)) + b"}",
    "no boolean": b"train: {steps: !!bool x}",  # a KeyError
    "no number": b'optim: {lr: !!float ""}',  # an IndexError
    "no date": b"train: {steps: !!timestamp x}",  # an AttributeError
    "a long text that is no boolean": b"train: {steps: !!bool " + b"x" * 100_000 + b"}",
    "a long alias": b"a: *" + b"x" * 300_000,
    "a key twice": b'"' + b"x" * 500 + b'": 1\n"' + b"x" * 500 + b'": 2',
    "more than a mebibyte": b"#" * ((1 << 20) + 1),
}


def refused(path: Path) -> None:
    for read in (lambda: config_io.load_config("sample", file=path), lambda: config_io.read_config(path)):
        with pytest.raises(ValueError, match=r"\w") as caught:
            read()
        assert type(caught.value) is ValueError  # its subclasses are Python's own words
        assert len(str(caught.value)) < 10_000
        assert "codec" not in str(caught.value)
        assert "sys.set_int_max" not in str(caught.value)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_refused_in_words(tmp_path, name):
    path = tmp_path / "x.yaml"
    path.write_bytes(HOSTILE[name])
    refused(path)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "loop", "nothing", "not to be read"])
def test_what_is_no_file_is_refused(tmp_path, kind, capsys):
    path = tmp_path / "x.yaml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "not to be read":
        path.symlink_to("/proc/self/mem")
    refused(path)
    for main, words in ((train.main, ["--config"]), (train.main, ["--preset"]), (claims.main, ["--preset"])):
        with pytest.raises(SystemExit, match="2"):
            main([*words, str(path), "--dry-run"])
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1
        assert len(said) < 2000


def test_a_command_ends_in_one_line(tmp_path, capsys):
    for name in ("Latin-1", "base 60"):
        path = tmp_path / "x.yaml"
        path.write_bytes(HOSTILE[name])
        for words in (["--config", str(path)], ["--preset", str(path)]):
            with pytest.raises(SystemExit, match="2"):
                train.main([*words, "--dry-run"])
            assert "Traceback" not in capsys.readouterr().err


PLAIN = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.sampled_from(["auto", "~"])
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(st.text(max_size=9), st.integers()), inner)
    ),
    max_leaves=8,
)
KEYS = st.sampled_from([*config_io.valid_keys(), "extends", "notes", "kernels", "data", "train", "optim.rules"])


@given(st.dictionaries(KEYS, PLAIN, max_size=3))
@settings(max_examples=120, deadline=None)
def test_any_tree_is_a_configuration_or_a_value_error(values):
    tree: dict = {}
    for dotted, value in values.items():
        section, _, name = dotted.partition(".")
        if not name:
            tree[section] = value
        elif isinstance(tree.setdefault(section, {}), dict):
            tree[section][name] = value
    try:
        config_io.build({key: value for key, value in tree.items() if key != "extends"})
    except ValueError as error:
        assert len(str(error)) < 10_000  # noqa: PT017


@given(st.one_of(st.binary(max_size=60), st.text("[]{}:,-&*!?|>'\"%@` \n\tab<1.~#\\", max_size=40).map(str.encode)))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_yaml_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(data)
    try:
        config_io.load_config("sample", file=path)
    except ValueError as error:
        assert type(error) is ValueError  # noqa: PT017


def test_numbers_are_read_as_before(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("[1, 0x1f, 1_000, 0b11, 1:30, 1.5, 1e3, 1.0e+3, .inf, -0.5, 010]")
    assert read_plain(path) == [1, 31, 1000, 3, 90, 1.5, "1e3", 1000.0, float("inf"), -0.5, 8]
