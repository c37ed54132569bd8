"""The model card of an export: what the model is, what it was trained on and how, and how to load it.

Cards are published: folders, addresses of stores and names of accounts are left out; what comes from a configuration or
from data is escaped.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

import silc
from silc import config_io
from silc.config import Config
from silc.data.sample_set.concepts import ARTISTS, split_artists
from silc.data.sample_set.render import DRAWINGS
from silc.evaluate.datasets import sample_in_words
from silc.evaluate.report.rendering import markdown_code, markdown_text, render, short
from silc.evaluate.results import read_results
from silc.interchange import write
from silc.interchange.source import Source
from silc.interchange.timm_names import timm_name
from silc.interchange.write.compare import Compared
from silc.interchange.write.formats import LIBRARY, Format
from silc.interchange.write.onnx import OPSET
from silc.interchange.write.tokenizer import hub_name
from silc.storage.address import LONGEST, shorten
from silc.text import plural
from silc.train import checkpoint, manifest

TEMPLATES = Path(write.__file__).with_name("templates")
LISTED = 20  # shards that a card names
ROWS = 200  # of the table of metrics
# Packages that have a part in what was written, by format.
_PACKAGES: dict[Format, tuple[str, ...]] = {
    "open_clip": ("open_clip_torch", "timm"),
    "hf": ("transformers", "tokenizers"),
    "timm": ("timm",),
    "onnx": ("onnx", "onnxscript", "onnxruntime", "open_clip_torch", "timm", "tokenizers"),
}
# Keys that hold addresses, of which the last name remains.
PLACES = {"shards", "tokenizer", "classification", "retrieval", "segmentation", "classes", "init"}
# Keys that say nothing of the model and name places or accounts.
LEFT_OUT = {"": ("notes",), "train": ("out", "resume", "wandb_project"), "data": ("cache",)}
_LICENCE = re.compile(
    r"^(?P<artist>[\w-]+): by (?P<author>.+), https?://\S+\n.*, licence (?P<licence>\S+)$", re.MULTILINE
)


@dataclass(frozen=True)
class History:
    """How a model came about, as far as its checkpoint says.

    Attributes:
        config: the configuration of the run.
        step: of the checkpoint.
        metrics: rows of the last evaluation, if that was of this step: task, metric, value, chance, data.
    """

    config: Config
    step: int
    metrics: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def of(cls, path: Path, model: str) -> History | None:
        """That of a checkpoint, and the metrics of `model` (student or teacher) beside it; None for another folder.

        Raises ValueError for a checkpoint that is damaged.
        """
        if not (path / manifest.NAME).is_file():
            return None
        step = manifest.read(path).step
        kept = read_results(path.parent.parent) if path.parent.name == "checkpoints" else None
        rows = [] if kept is None or kept.step != step else [row for row in kept.results if row["model"] == model]
        metrics = tuple(
            {"task": row["task"], "metric": name, "data": _name(str(row.get("data", ""))), **found}
            for row in rows
            for name, found in row["metrics"].items()
            if not name.endswith("_std")
        )
        return cls(checkpoint.load_config(path), step, metrics[:ROWS])


def card(source: Source, to: Format, model: str, history: History | None, compared: Compared | None) -> str:
    """The text of README.md, Markdown with Hugging Face's front matter.

    Args:
        source: what is exported.
        to: the format.
        model: student or teacher.
        history: where the source is a checkpoint.
        compared: what the comparison with the other library found.
    """
    config = None if history is None else history.config
    shown = "" if config is None else yaml.safe_dump(_public(config), sort_keys=False, width=120)
    return render(
        "card.md.j2",
        TEMPLATES,
        front=_front_matter(source, to, config),
        title=_title(config),
        what=_what(source, to, model, config),
        method=config is not None and config.objective.distill,
        assumed=[f"{markdown_code(key)}: {markdown_text(why)}" for key, why in source.assumed.items()],
        vision=source.model.vision,
        text=source.model.text,
        parameters={name: f"{_parameters(source, name + '.'):,}" for name in ("visual", "text")},
        to=to,
        opset=OPSET,
        timm_knows=timm_name(source.model.vision) is not None,
        sigmoid=source.logit_bias is not None,
        data=[] if history is None else _data(history),
        license="not known" if config is None else _licence(config),
        metrics=() if history is None else history.metrics,
        model=model,
        config=shown,
        fence="`" * (1 + max([2, *(len(run) for run in re.findall("`+", shown))])),
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        versions=_versions(to),
        compared=compared,
    )


def _front_matter(source: Source, to: Format, config: Config | None) -> str:
    """YAML between dashes, as Hugging Face's hub reads it."""
    described = {
        "library_name": {"hf": "transformers", "onnx": "onnx"}.get(to, to),
        "pipeline_tag": "image-feature-extraction" if to == "timm" else "zero-shot-image-classification",
        "license": "other",
        "license_name": "not-stated",
        "tags": [
            "silc",
            "clip",
            "siglip",
            *(["onnx"] if to == "onnx" else []),
            *([] if config is None else ["arxiv:2310.13355"]),
        ],
    }
    return f"---\n{yaml.safe_dump(described, sort_keys=False)}---\n"


def _title(config: Config | None) -> str:
    if config is None:
        return "Image and text towers"
    return f"{'SILC' if config.objective.distill else 'Contrastive model'}, preset {short(config.preset, 100)}"


def _what(source: Source, to: Format, model: str, config: Config | None) -> str:
    towers = {
        "student": "the student",
        "teacher": "the teacher's image tower (the moving average) with the student's text tower",
    }
    held = f"This folder is for {LIBRARY[to]}" + (" and holds the image tower alone" if to == "timm" else "") + "."
    if config is None:
        return f"An image-text model, converted from {source.kind} by silc {silc.__version__}. {held}"
    distilled = " and local-to-global self-distillation" if config.objective.distill else ", without self-distillation"
    return (
        f"An image-text model trained with silc: contrastive pretraining ({config.objective.contrastive} "
        f"loss){distilled}. The weights are {towers[model]}, exported by silc {silc.__version__}. {held}"
    )


def _parameters(source: Source, prefix: str) -> int:
    return sum(value.numel() for name, value in source.weights.items() if name.startswith(prefix))


def _data(history: History) -> list[str]:
    """Lines of Markdown: the data by name, and how much of them was seen."""
    data, train = history.config.data, history.config.train
    if data.sources:
        lines = [f"{_listed(one.shards)}, weight {one.weight:g}" for one in data.sources]
    elif data.shards:
        lines = [_listed(data.shards)]
    else:
        scenes, artists = sample_in_words(data), split_artists(data.sample_unseen)[0]
        lines = [f"the sample set embedded in silc, drawings of emoji: {scenes}", *_artists(artists)]
    pairs = history.step * train.global_batch
    lines.append(
        f"{plural(pairs, 'pair')} seen: {plural(history.step, 'step')} of {plural(train.global_batch, 'pair')}"
    )
    if train.init is not None:
        lines.append(
            f"begun with the weights of {markdown_code(_name(train.init))}, and with what those were trained on"
        )
    return lines


def _listed(shards: list[str]) -> str:
    names = ", ".join(markdown_code(short(_name(shard), 200)) for shard in shards[:LISTED])
    return names + (f" and {len(shards) - LISTED} more" if len(shards) > LISTED else "")


def _artists(trained: Sequence[str]) -> list[str]:
    """Artists and licences of the drawings that were trained on, and of the names of all."""
    notice = (DRAWINGS / "NOTICE").read_text(encoding="utf-8")
    return [
        f"of these, `{found['artist']}` is by {found['author']}, licence {found['licence']}"
        for found in _LICENCE.finditer(notice)
        if found["artist"] in trained or found["artist"] not in ARTISTS
    ]


def _licence(config: Config) -> str:
    own = bool(config.data.shards or config.data.sources)
    return config.data.license or ("not stated" if own else "those of its parts above")


def _public(config: Config) -> dict[str, Any]:
    """The configuration without places and accounts: of a path its last name remains."""
    tree = config_io.to_dict(config)
    for section, keys in LEFT_OUT.items():
        inside = tree[section] if section else tree
        for key in keys:
            inside.pop(key, None)
    tokenizer = config.data.tokenizer
    public: dict[str, Any] = _without_places(tree)
    if hub_name(tokenizer) == tokenizer:
        public["data"]["tokenizer"] = tokenizer
    return public


def _without_places(value: Any, key: str = "") -> Any:
    """The values below a key of a configuration; of those that are addresses the last name."""
    if isinstance(value, dict):
        return {name: _without_places(inside, name) for name, inside in value.items()}
    if isinstance(value, list | tuple):
        return [_without_places(inside, key) for inside in value]
    return _name(value) if isinstance(value, str) and key in PLACES else value


def _name(address: str) -> str:
    """The last name of an address, without folders in its braces either: `/a/{b/0,c/1}.tar` is `{0,1}.tar`."""
    shown = shorten(address, LONGEST)
    return _last(shown.rstrip("/\\")) or shown


def _last(text: str) -> str:
    """What follows the last slash of a text, in each alternative that braces hold too."""
    outer: list[_Group] = []
    inner = _Group()
    for sign in text:
        if sign in "/\\":
            inner.last, inner.folders = "", True
        elif sign == "{":
            outer.append(inner)
            inner = _Group()
        elif sign == "," and outer:
            inner.before += inner.last + ","
            inner.last = ""
        elif sign == "}" and outer:
            closed, inner = inner, outer.pop()
            # What stands before alternatives with folders is part of the first folder's path.
            inner.last = f"{'' if closed.folders else inner.last}{{{closed.before}{closed.last}}}"
            inner.folders |= closed.folders
        else:
            inner.last += sign
    return re.split(r"[/\\]", text)[-1] if outer else inner.last


@dataclass
class _Group:
    """Braces that are not closed yet: the alternatives before the last comma, the last one, whether one has folders."""

    before: str = ""
    last: str = ""
    folders: bool = False


def _versions(to: Format) -> list[str]:
    found = [f"silc {silc.__version__}", f"Python {platform.python_version()}"]
    for name in ("torch", "safetensors", *_PACKAGES[to]):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return found
