"""Batches from a web server and from an S3 server, which fail now and then, are those from a disk, or end in words."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from silc.config import Config, SourceRule
from silc.data import Batch, build_loader
from silc.data.training_set import open_training_set
from silc.errors import RunStopped
from silc.storage import put
from tests.storage.servers import Faults

FAULTS = Faults(drop=0.1, cut=0.05, error=0.1)
BATCHES = 8


@pytest.fixture(params=["web", "s3"])
def remote(request, write_shards, tmp_path):
    """(local folder, its address on a server, the server)."""
    (folder,) = write_shards([40, 33, 21])
    open_training_set(Config(data={"shards": [folder], "unique_captions": True}))  # indexes it
    if request.param == "web":
        server = request.getfixturevalue("web")
        shutil.copytree(folder, tmp_path / "web" / "set")
        return folder, server.address("set/shards.manifest"), server
    bucket = request.getfixturevalue("faulty_s3")
    for path in Path(folder).iterdir():
        put(bucket.address(path.name), path.read_bytes())
    return folder, bucket.address(), bucket.server


def take(config: Config, count: int = BATCHES) -> list[Batch]:
    return list(itertools.islice(build_loader(config, rank=0, world=1), count))


def assert_same(found: list[Batch], expected: list[Batch]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one.keys, one.position, one.skipped) == (other.keys, other.position, other.skipped)
        assert torch.equal(one.large, other.large)
        assert torch.equal(one.tokens, other.tokens)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_batches_through_faults(remote, make_config, workers):
    folder, address, server = remote
    expected = take(make_config([folder], unique_captions=True))
    server.faults = FAULTS
    assert_same(take(make_config([address], workers=workers, unique_captions=True)), expected)
    assert server.counts["drop"] + server.counts["error"] + server.counts["cut"] > 0


def test_the_identity_of_the_data_is_that_of_the_folder(remote, make_config):
    folder, address, _ = remote
    here, there = (open_training_set(make_config([shards])) for shards in (folder, address))
    assert there.describe() == here.describe()
    assert (here.remote, there.remote) == (False, True)


def test_what_a_cache_has_is_not_asked_for_again(remote, make_config, tmp_path):
    folder, address, server = remote
    config = make_config([address], cache=str(tmp_path / "cache"), cache_gb=0.1)
    expected = take(make_config([folder]))
    assert_same(take(config), expected)
    asked = server.counts["GET"]
    assert_same(take(config), expected)
    assert server.counts["GET"] - asked <= 9  # the manifest, and of each shard the offsets and what is not cached


def test_a_cache_smaller_than_two_blocks_is_refused(remote, make_config, tmp_path):
    config = make_config([remote[1]], cache=str(tmp_path / "cache"), cache_gb=1e-6)
    with pytest.raises(ValueError, match=r"data\.cache_gb=1e-06 is less than two blocks of 16 samples.*take at least"):
        build_loader(config, rank=0, world=1)


def test_a_mixture_of_both(remote, make_config):
    folder, address, _ = remote
    config = make_config([])
    config.data.sources = [SourceRule(shards=[folder], weight=3.0), SourceRule(shards=[address], weight=1.0)]
    keys = [key for batch in take(config, 4) for key in batch.keys]
    assert len(keys) == 32


@pytest.mark.parametrize("workers", [0, 1])
def test_a_server_that_dies_ends_the_run_by_name(remote, make_config, workers):
    _, address, server = remote
    loader = build_loader(make_config([address], workers=workers, store_minutes=0.04), rank=0, world=1)
    batches = iter(loader)
    next(batches)
    server.die()
    with pytest.raises(RunStopped, match=r"00\d\.tar.* could not be read for \d+ s .*; check the store$"):
        list(itertools.islice(batches, 40))


def test_what_is_waited_for_is_known(remote, make_config):
    _, address, server = remote
    loader = build_loader(make_config([address], workers=1, store_minutes=0.08), rank=0, world=1)
    polled = loader.poll()
    next(batch for batch in polled if batch is not None)
    server.die()
    seen = []
    with pytest.raises(RunStopped):
        seen.extend(loader.waiting() for batch in polled if batch is None)
    assert any(one and ".tar" in one.address and one.tries > 0 and one.words for one in seen)


def refused(make_config: Callable[..., Config], shards: str) -> str:
    with pytest.raises(ValueError, match=r"data\.shards") as error:
        build_loader(make_config([shards]), rank=0, world=1)
    return str(error.value)


def test_without_an_index_the_message_names_the_command(web, write_shards, make_config, tmp_path):
    (folder,) = write_shards([8])
    shutil.copy(f"{folder}/000.tar", tmp_path / "web")
    assert "silc shards index" in refused(make_config, web.address("000.tar"))
    assert "silc shards index" in refused(make_config, web.address("{000..003}.tar"))


def test_addresses_with_secrets_or_of_unknown_stores_are_refused(make_config):
    for address in ("https://me:secret@host/x.tar", "https://host/x.tar?X-Amz-Signature=secret", "ftp://host/x.tar"):
        assert "secret" not in refused(make_config, address)
    assert "pipe:" in refused(make_config, "pipe:cat x.tar")
