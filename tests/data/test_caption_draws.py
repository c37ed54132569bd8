"""Captions in training: one of several is drawn by position, a field of a JSON is found; what is none is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from silc.data.loader import build_loader
from silc.data.randomness import Purpose, uniform_rows
from silc.data.splits import CAPTIONS, TarSplit
from silc.data.tokenizer import build_tokenizer
from silc.errors import RunStopped

NUMBERS = "one", "two", "three", "four", "five"


def five(shard: int, number: int, sample: dict) -> None:
    sample["txt"] = "\r\n".join(f"{word} dogs {number}" for word in NUMBERS) + "\n"


def batches(config, count: int, rank: int = 0, world: int = 1, start: int = 0):
    loader = build_loader(config, rank=rank, world=world, start_position=start)
    return [batch for batch, _ in zip(loader, range(count), strict=False)]


def texts(config, tokens: np.ndarray) -> list[int]:
    """Which of the five captions each row of tokens is."""
    tokenizer = build_tokenizer("open_clip_bpe", config.model.text.context_length)
    known = {
        tokenizer([f"{word} dogs {n}"])[0].numpy().tobytes(): i for i, word in enumerate(NUMBERS) for n in range(40)
    }
    return [known[row.tobytes()] for row in tokens]


def test_one_of_several_captions_is_drawn_by_position(write_shards, make_config, capsys):
    config = make_config(write_shards([40], five), batch=8)
    one = np.concatenate([batch.tokens.numpy() for batch in batches(config, 20)])
    assert "samples with several captions: one is drawn each time; data.caption_lines=false" in capsys.readouterr().out
    drawn = texts(config, one)
    assert set(drawn) == set(range(5))
    assert drawn == [int(5 * uniform_rows(0, Purpose.CAPTION, position, 1, 1)[0, 0]) for position in range(160)]
    halves = [[batch.tokens.numpy() for batch in batches(config, 20, rank, 2)] for rank in range(2)]
    assert np.array_equal(np.concatenate([part for pair in zip(*halves, strict=True) for part in pair]), one)
    later = np.concatenate([batch.tokens.numpy() for batch in batches(config, 10, start=80)])
    assert np.array_equal(later, one[80:])


def test_the_text_may_be_one_caption(write_shards, make_config, capsys):
    config = make_config(write_shards([8], five), batch=8, caption_lines=False)
    tokenizer = build_tokenizer("open_clip_bpe", config.model.text.context_length)
    (batch,) = batches(config, 1)
    known = {tuple(tokenizer(["\r\n".join(f"{word} dogs {n}" for word in NUMBERS)])[0].tolist()) for n in range(8)}
    assert {tuple(row) for row in batch.tokens.tolist()} == known
    assert "several captions" not in capsys.readouterr().out


def test_a_single_line_is_what_it_was(write_shards, make_config):
    shards = write_shards([16])
    both = [
        [batch.tokens for batch in batches(make_config(shards, batch=8, caption_lines=lines), 4)]
        for lines in (True, False)
    ]
    assert all(np.array_equal(a, b) for a, b in zip(*both, strict=True))


def in_json(shard: int, number: int, sample: dict) -> None:
    sample["json"] = json.dumps({"key": str(number), "caption": f"thing {number}", "url": "http://x"}).encode()
    sample["txt"] = f"other {number}"


def test_a_field_of_a_json_is_trained_on_and_evaluated(write_shards, make_config):
    shards = write_shards([16], in_json)
    config = make_config(shards, batch=8, caption_key="json:caption", unique_captions=True, shuffle_block=16)
    plain = make_config(write_shards([16], lambda _, n, s: s.update(txt=f"thing {n}"), name="plain"), batch=8)
    rows = [{tuple(row) for batch in batches(each, 2) for row in batch.tokens.tolist()} for each in (config, plain)]
    assert rows[0] == rows[1]
    split = TarSplit(config.data, shards, title="x")
    assert CAPTIONS in split.has
    assert split.captions(3) == ["thing 3"]
    other = make_config(shards, batch=8, caption_key="json:number")
    assert CAPTIONS not in TarSplit(other.data, shards, title="x").has


def test_equal_captions_in_json_are_kept_apart(write_shards, make_config):
    def same(shard: int, number: int, sample: dict) -> None:
        sample["json"] = json.dumps({"number": number, "caption": f"thing {number % 8}"}).encode()

    config = make_config(
        write_shards([32], same), batch=8, caption_key="json:caption", unique_captions=True, shuffle_block=32
    )
    for batch in batches(config, 4):
        assert len({tuple(row) for row in batch.tokens.tolist()}) == 8


@pytest.mark.parametrize(
    ("key", "says"),
    [
        (
            "json",
            r"data\.caption_key=json: the captions are JSON, such as \{.*name the field .*=json:caption \(fields with",
        ),
        (
            "json:captoin",
            r"no field captoin in the json of 8 samples; did you mean data\.caption_key=json:caption\? \(",
        ),
        ("json:url.x", r"no field url\.x in the json"),
        ("txt:caption", r"the members \.txt are not JSON, but such as other 0"),
    ],
)
def test_captions_that_are_none_are_refused_before_training(write_shards, make_config, key, says):
    config = make_config(write_shards([16], in_json), batch=8, caption_key=key)
    with pytest.raises(ValueError, match=says):
        build_loader(config, rank=0, world=1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"caption": "a dog"}', r"name the field that holds the caption: data\.caption_key=txt:caption"),
        ('[{"text": "a dog"}]', r"caption_key=txt:text"),
        ('["a dog", "a cat"]', r"write several captions as lines"),
    ],
)
@pytest.mark.parametrize("others", [0, 3])
def test_json_among_few_other_captions_is_refused_too(write_shards, make_config, text, says, others):
    config = make_config(write_shards([16], lambda _, n, s: s.update(txt=text if n >= others else "a dog")), batch=8)
    with pytest.raises(ValueError, match=says):
        build_loader(config, rank=0, world=1)


def test_a_caption_of_braces_among_others_is_a_caption(write_shards, make_config):
    config = make_config(write_shards([16], lambda _, n, s: s.update(txt="{}" if n == 3 else "a dog")), batch=8)
    assert len(batches(config, 1)) == 1


def test_remote_captions_are_looked_at_with_the_first_batch(write_shards, make_config, monkeypatch):
    monkeypatch.setattr("silc.data.training_set.TrainingSet.remote", property(lambda self: True))
    monkeypatch.setattr("silc.data.training_set.check_captions", lambda *_: 0)
    config = make_config(write_shards([16], in_json), batch=8, caption_key="json")
    with pytest.raises(RunStopped, match="the captions are JSON"):
        batches(config, 1)


def test_what_img2dataset_writes_is_read_as_it_is(tmp_path, make_config, write_shards):
    """Shards with its members and its files beside them: 00000.parquet, 00000_stats.json."""

    def change(shard: int, number: int, sample: dict) -> None:
        info = {"caption": f"thing {number}", "url": "http://x/1.jpg", "key": f"{number:09}", "status": "success"}
        sample |= {"json": json.dumps(info | {"error_message": None, "exif": "{}"}).encode()}

    (folder,) = write_shards([16, 8], change)
    for shard, count in enumerate((16, 8)):
        (tmp_path / "set" / f"{shard:03}.parquet").write_bytes(b"PAR1")
        (tmp_path / "set" / f"{shard:03}_stats.json").write_text(json.dumps({"count": count, "successes": count}))
    loader = build_loader(make_config([folder], batch=8), rank=0, world=1)
    assert loader.samples_per_pass == 24
    assert len(next(iter(loader)).keys) == 8
