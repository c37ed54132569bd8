"""Whether a position in the stream names the same sample as in the run that saved it, and on every rank."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from silc.distributed import all_gather_objects
from silc.text import plural


def check_same_data(saved: dict[str, Any] | None, now: dict[str, Any], path: Path, *, allowed: bool) -> str | None:
    """Compare what the position of a checkpoint counts in with what this run reads.

    Args:
        saved: `Loader.data` of the run that wrote the checkpoint; None: it was not trained on shards.
        now: of this run.
        path: of the checkpoint.
        allowed: `data.allow_changed`.

    Returns a note where they differ and that is allowed, else None.

    Raises ValueError where they differ and that is not allowed.
    """
    try:
        different = _differences(saved, now)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path / 'trainer.pt'} is damaged ({error!r:.200}); take an older checkpoint") from None
    if not different:
        return None
    listed = "; ".join(different)
    if allowed:
        return (
            f"note: {listed}: the run goes on at the same position, but in another order; samples of the current pass "
            "may come again or be left out (data.allow_changed)"
        )
    raise ValueError(
        f"cannot resume from {path}, whose position counts in other samples: {listed}. Give the data that it was "
        "trained on, or data.allow_changed=true to go on with these, where samples of the current pass may come again "
        "or be left out"
    )


def _differences(saved: dict[str, Any] | None, now: dict[str, Any], was: str = "it was") -> list[str]:
    """In words, each as "this is that now, it was other"."""
    if saved is None:
        return ["the checkpoint does not say which samples its position counts in"]
    names = sorted({*saved["order"], *now["order"]})
    order = [(name, now["order"].get(name), saved["order"].get(name)) for name in names]
    found = [f"the order's {name} is {after}, {was} {before}" for name, after, before in order if after != before]
    before, after = saved["sources"], now["sources"]
    if len(before) != len(after):
        return [*found, f"the number of sources is {len(after)}, {was} {len(before)}"]
    for number, (old, new) in enumerate(zip(before, after, strict=True)):
        which = f"source {number}" if len(after) > 1 else "the data"
        if (old["shards"], old["samples"]) != (new["shards"], new["samples"]):
            found.append(f"{which} is {_size(new)}, {was} {_size(old)}")
        elif old["identity"] != new["identity"]:
            found.append(f"{which} has shards of other names, sizes or order")
        if old["share"] != new["share"]:
            found.append(f"{which} has a share of {new['share']:.4g}, {was} {old['share']:.4g}")
    return found


def _size(source: dict[str, Any]) -> str:
    return f"{plural(source['samples'], 'sample')} in {plural(source['shards'], 'shard')}"


def check_same_everywhere(data: dict[str, Any]) -> None:
    """Raises ValueError on every rank where another reads other shards than the first one (collective)."""
    first, *others = all_gather_objects(data)
    different = [rank for rank, other in enumerate(others, start=1) if other != first]
    if different:
        rank = different[0]
        listed = "; ".join(_differences(first, others[rank - 1], was="on rank 0 it is"))
        raise ValueError(
            f"rank {rank} reads other data than rank 0 ({listed}): copy the same shards to every machine, "
            "to the same place"
        )
