"""Presets, overrides and their errors: from YAML and `key=value` words to a :class:`silc.config.Config`, and back to
text.

Order of precedence, last wins: dataclass defaults < the preset a preset `extends` < the preset < `--config` file <
command line.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import itertools
import json
import re
import shlex
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from silc.config import Config, ParameterRule, SourceRule
from silc.presets import PRESETS
from silc.yaml_safe import plain_value, read_plain

_ADAPTER = TypeAdapter(Config)

# Keys and values that had another name. Presets, checkpoints and command lines that use it stay valid.
RENAMED = {
    "eval.picture": "eval.contact_sheet",
    "eval.test_pictures": "eval.test_images",
    "eval.train_pictures": "eval.train_images",
}
# Keys that hold a list of sections -> (what one is called, its class, how to write the list).
_ENTRIES = {
    "optim.rules": ("rule", ParameterRule, "[{pattern: ^text, lr: 0}]"),
    "data.sources": ("source", SourceRule, "[{shards: [/data/a], weight: 3}, {shards: [/data/b], weight: 1}]"),
}
EXAMPLES = {"int": "500", "float": "0.001", "bool": "true", "str": "NAME"}  # by type
SHOWN, LONGEST = 20, 200  # mistakes in a message, characters of a value in it
RENAMED_BACKENDS = {"reference": "torch"}  # values of the keys of `kernels`


def load_config(
    preset: str | Path, overrides: Iterable[str] = (), *, presets: Path = PRESETS, file: Path | None = None
) -> Config:
    """Resolve a run's configuration.

    preset: a name in the folder `presets`, or a path to a YAML file, which may extend one of these or one beside it.
    file: one more YAML file laid over it. overrides: words `section.key=value`, the value in YAML. Raises ValueError
    naming the key, and the nearest valid one.

    Where `train.steps` is given, the preset's warm-up and cool-down shrink to at most half of the run together, or to
    their share in the preset if that is larger; `notes` of the configuration says so. Those that are given stay.
    """
    name, base = _read_preset(preset, (presets,))
    base.pop("notes", None)  # of the loader, about another run: a run's config.yaml can be a preset
    given = {} if file is None else _read_yaml(file)
    words = list(overrides)
    for word in words:
        if word.startswith("preset="):
            raise ValueError(f"{word!r}: a preset is chosen by --preset {word.partition('=')[2]}")
    given = _overridden(given, words)
    config = _with_schedule_that_fits(base, given, build(_merge(base, given) | {"preset": name}))
    known = set(valid_keys())
    for unverified in config.unverified:
        if unverified not in known:
            raise ValueError(
                f"preset {name}: `unverified` lists {unverified!r:.80}, which is not a key{_nearest(unverified, known)}"
            )
    return config


def build(tree: dict[str, Any]) -> Config:
    """A :class:`Config` from nested plain values. Raises ValueError with one line for each mistake."""
    tree = _with_lists(_with_new_names(tree))
    _refuse_booleans(tree)
    try:
        return _ADAPTER.validate_python(tree)
    except ValidationError as error:
        known = set(valid_keys()) | {dotted.rsplit(".", 1)[0] for dotted in valid_keys() if "." in dotted}
        lines = [_explain(item, known) for item in error.errors()[:SHOWN]]
        lines += [f"and {error.error_count() - SHOWN} more"] if error.error_count() > SHOWN else []
        raise ValueError("configuration:\n  " + "\n  ".join(lines)) from None


def read_config(path: Path) -> Config:
    """The configuration in a file that :func:`to_yaml` wrote. Raises ValueError as :func:`load_config` does."""
    try:
        return build(_as_earlier(_read_yaml(path)))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def override(config: Config, words: Iterable[str]) -> Config:
    """A configuration with words `section.key=value` applied. Raises ValueError as :func:`load_config` does."""
    return build(_overridden(to_dict(config), list(words)))


def check_words(words: Sequence[str]) -> None:
    """Refuse words that are not `section.key=value`, and lists that a shell has taken apart. Raises ValueError."""
    lists = {dotted for dotted, kind, *_ in describe() if kind.startswith("list[")}
    plain: dict[str, list[str]] = {}
    before = ""
    for position, word in enumerate(words):
        dotted, equals, text = word.partition("=")
        if equals and dotted:
            before = dotted
            if dotted in lists and not text.lstrip().startswith("["):
                plain.setdefault(dotted, []).append(text)
            continue
        if word in valid_keys():
            raise ValueError(f"{word!r} has no value; write {word}=VALUE")
        if before in plain and words[position - 1].startswith(f"{before}="):
            strays = [other for other in words[position:] if "=" not in other]
            values = [plain[before][-1], *strays]
            raise ValueError(f"{word!r} after {words[position - 1]!r}: {_quote_list(before, values)}")
        previous = words[position - 1] if position else ""
        if previous.count("[") > previous.count("]"):
            whole = " ".join([previous, *itertools.takewhile(lambda other: "=" not in other, words[position:])])
            raise ValueError(f"{word!r} after {previous!r}: put the list in quotes: {shlex.quote(whole)}")
        raise ValueError(f"{word!r} is not an override; write section.key=value, as in optim.lr=3e-4")
    for dotted, values in plain.items():
        if len(values) > 1:
            raise ValueError(
                f"{dotted} is given {len(values)} times, and only the last would count: put a pattern with braces "
                f"into quotes, or {_quote_list(dotted, values)}"
            )


def with_new_name(word: str) -> str:
    """A word `section.key=value` with its key and value under their present names."""
    dotted, equals, value = word.partition("=")
    if dotted.startswith("kernels."):
        value = RENAMED_BACKENDS.get(value.strip(), value)
    return f"{RENAMED.get(dotted, dotted)}{equals}{value}"


def to_dict(config: Config) -> dict[str, Any]:
    """Nested plain values; `build` of them gives the same configuration."""
    return _ADAPTER.dump_python(config, mode="json")


def to_yaml(config: Config) -> str:
    """The resolved configuration as YAML, in the order of the dataclasses."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, width=120)


def valid_keys() -> list[str]:
    """Every dotted key, sections and the keys of list entries left out."""
    return [dotted for dotted, *_ in describe() if "[]" not in dotted]


def describe() -> Iterator[tuple[str, str, str, str]]:
    """(dotted key, type, default, meaning) of every key, in order: the source of the configuration reference.

    The keys of a list's entries follow the list, as `optim.rules[].lr`.
    """
    yield from _rows()


@functools.cache
def _rows() -> tuple[tuple[str, str, str, str], ...]:
    return tuple(_describe(Config, ""))


def reference_markdown() -> str:
    """The configuration reference as a Markdown table, one section a table."""
    rows, section = [], None
    for dotted, kind, default, doc in describe():
        head = dotted.partition("[]")[0].rsplit(".", 1)[0] if "." in dotted else "(top)"
        if head != section:
            rows += ["", f"**`{head}`**", "", "| key | type | default | meaning |", "|---|---|---|---|"]
            section = head
        cells = (f"`{dotted}`", f"`{kind}`".replace("|", "\\|"), f"`{default}`", doc.replace("|", "\\|"))
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows).strip() + "\n"


def _describe(cls: Any, prefix: str) -> Iterator[tuple[str, str, str, str]]:
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint, dotted = hints[field.name], prefix + field.name
        if dataclasses.is_dataclass(hint):
            yield from _describe(hint, dotted + ".")
            continue
        info = cls.__pydantic_fields__[field.name]
        default = info.get_default(call_default_factory=True)
        shown = "required" if info.is_required() else "null" if default is None else _flow(default)
        yield dotted, _type_name(hint), shown, info.description or ""
        for entry in typing.get_args(hint) if typing.get_origin(hint) is list else ():
            if dataclasses.is_dataclass(entry):
                yield from _describe(entry, dotted + "[].")


def _flow(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True, width=999).split("\n...")[0].strip()


def _type_name(hint: Any) -> str:
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return " | ".join(str(a) for a in typing.get_args(hint))
    if origin in (typing.Union, types.UnionType):
        return " | ".join(_type_name(a) for a in typing.get_args(hint))
    if origin in (list, tuple):
        return f"{origin.__name__}[{', '.join(_type_name(a) for a in typing.get_args(hint))}]"
    return "null" if hint is type(None) else hint.__name__


def _with_schedule_that_fits(base: dict[str, Any], given: dict[str, Any], config: Config) -> Config:
    """`config`, which is `base` with `given` laid over it, its warm-up and cool-down scaled where they must be.

    In a run of given length those of the preset take at most half of the steps, or the share that they have in the
    preset if that is more. Beside one that is given the other takes no more than the steps which that one leaves.
    """
    steps, names = config.train.steps, ("warmup_steps", "cooldown_steps")
    asked = [name for name in names if name in (given.get("optim") or {})]
    shorter = "steps" in (given.get("train") or {})
    if len(asked) == 2 or not (asked or shorter):
        return config
    before = build(base)
    own = before.optim.warmup_steps + before.optim.cooldown_steps
    most = max(steps // 2, min(own, before.train.steps) * steps // before.train.steps) if shorter else steps
    most = min(most, steps - sum(getattr(config.optim, name) for name in asked))
    free = {name: getattr(config.optim, name) for name in names if name not in asked}
    total = sum(free.values())
    if total <= most or most < 0:  # below 0: what was asked for exceeds the run, which is refused as such
        return config
    scaled = {name: value * most // total for name, value in free.items() if value}
    changes = " and ".join(f"optim.{name} scaled from {free[name]} to {value}" for name, value in scaled.items())
    note = f"train.steps={steps}: {changes}, so that warm-up and cool-down leave room in the run"
    return dataclasses.replace(config, optim=dataclasses.replace(config.optim, **scaled), notes=[*config.notes, note])


def _read_preset(
    preset: str | Path, folders: tuple[Path, ...], here: Path = Path(), seen: tuple[Path, ...] = ()
) -> tuple[str, dict[str, Any]]:
    """(name, tree) of a preset: a name in one of the folders, or a file, looked up from `here`.

    What it extends is looked up beside it first. seen: the files that extend this one, resolved.
    """
    if not isinstance(preset, str | Path):
        raise ValueError(f"a preset is a name, or the path of a YAML file, not {preset!r:.80}")
    named = Path(preset).suffix not in (".yaml", ".yml")
    places = [folder / f"{preset}.yaml" for folder in folders] if named else [here / preset]
    found = [place for place in places if _is_file(place)]
    if not found:
        names = sorted({p.stem for folder in folders for p in folder.glob("*.yaml")})
        name = str(preset)[:80]
        raise ValueError(f"no preset {name!r}{_nearest(name, names)}; presets: {', '.join(names)}")
    others = [place for place in found if place.resolve() not in seen[-1:]]  # sample.yaml may extend the package's
    path = (others or found)[0]
    if path.resolve() in seen:
        raise ValueError(f"presets extend each other in a circle: {' -> '.join(p.stem for p in (*seen, path))}")
    tree = _read_yaml(path)
    parent = tree.pop("extends", None)
    if parent is not None:
        try:
            beside = (path.parent, *(folder for folder in folders[-1:] if folder != path.parent))
            tree = _merge(_read_preset(parent, beside, path.parent, (*seen, path.resolve()))[1], tree)
        except ValueError as error:
            raise ValueError(f"{path}: extends: {error}") from None
    return path.stem, tree


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = read_plain(path)
    except OSError as error:
        raise ValueError(f"cannot read the configuration file {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {_shown(str(error), 5 * LONGEST)}") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{path} must hold a mapping of sections, not {type(tree).__name__}")
    return _with_new_names(tree)


def _overridden(tree: dict[str, Any], words: Sequence[str]) -> dict[str, Any]:
    check_words(words)
    for word in words:
        tree = _merge(tree, _parse_override(word))
    return tree


def _parse_override(word: str) -> dict[str, Any]:
    dotted, _, text = word.partition("=")
    try:
        value = plain_value(text)
    except yaml.YAMLError as error:
        if re.search(r'"[^"]*\\', text):
            raise ValueError(
                f"{word!r}: the value is not valid YAML; in double quotes YAML reads \\ as an escape: write \\\\ for "
                "each, or single quotes"
            ) from None
        hint = "; put text with braces in quotes inside a list: ['{00..99}.tar']" if "{" in text else ""
        raise ValueError(f"{word!r}: the value is not valid YAML{hint}: {_one_line(error)}") from None
    except RecursionError:
        raise ValueError(f"{word[:80]!r}: the value is nested too deeply") from None
    if dotted.count(".") > 9:  # no key is as deep
        raise ValueError(f"unknown key {dotted[:80]!r}")
    if value is None and not text.strip():
        _refuse_no_value(dotted)
    for part in reversed(dotted.split(".")):
        value = {part: value}
    return _with_new_names(value)


def _refuse_no_value(dotted: str) -> None:
    """Raises ValueError for a key without a value that cannot be null."""
    row = next((row for row in describe() if row[0] == dotted), None)
    if row is not None and "null" not in row[1].split(" | "):
        example = f"{dotted}={EXAMPLES.get(row[1], row[2])}"
        kind = {"int": "a whole number", "float": "a number", "bool": "true or false"}.get(row[1], "a value")
        raise ValueError(f"{dotted}= has no value; give {kind}, as in {example}")


def _one_line(error: yaml.YAMLError) -> str:
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    if problem is None:
        return str(error).partition("\n")[0]
    return problem if mark is None else f"{problem}, at character {mark.column + 1}"


def _quote_list(dotted: str, values: Sequence[str]) -> str:
    """How to write several values of a key, for the end of a message."""
    plain = [yaml.safe_load(value) if re.fullmatch(r"\d+", value) else value for value in values]
    return f"write one list in quotes: {shlex.quote(f'{dotted}={json.dumps(plain, ensure_ascii=False)}')}"


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Mappings merge key by key; anything else, lists included, is replaced."""
    out = dict(base)
    for name, value in over.items():
        both = isinstance(value, dict) and isinstance(out.get(name), dict)
        out[name] = _merge(out[name], value) if both else value
    return out


def _with_new_names(tree: dict[str, Any]) -> dict[str, Any]:
    """`tree` with keys and backends under their present names; a key given under both names is left to be refused."""
    for old, new in RENAMED.items():
        (section, before), after = old.split("."), new.rsplit(".", 1)[1]
        inside = tree.get(section)
        if isinstance(inside, dict) and before in inside and after not in inside:
            tree = tree | {section: {after if name == before else name: value for name, value in inside.items()}}
    kernels = tree.get("kernels")
    if isinstance(kernels, dict):
        given = kernels.items()
        tree = tree | {"kernels": {op: RENAMED_BACKENDS.get(str(name), name) for op, name in given}}
    return tree


def _as_earlier(tree: dict[str, Any]) -> dict[str, Any]:
    """A run's `tree` as its version meant it: without data.tokenizer_clean, Hugging Face tokenizers had whitespace."""
    data = tree.get("data")
    if not isinstance(data, dict) or "tokenizer_clean" in data or data.get("tokenizer") in (None, "open_clip_bpe"):
        return tree
    return tree | {"data": data | {"tokenizer_clean": "whitespace"}}


def _with_lists(tree: dict[str, Any]) -> dict[str, Any]:
    """`tree` with a single value, where a list of plain values is expected, as a list of one.

    Raises ValueError for text with a comma outside braces: it may be a name with a comma, or several names.
    """
    for dotted, kind, *_ in describe():
        section, _, name = dotted.rpartition(".")
        inside = tree.get(section)
        if not (kind.startswith("list[") and isinstance(inside, dict)) or dotted in _ENTRIES:
            continue
        value = inside.get(name)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            continue
        if isinstance(value, str) and "," in re.sub(r"\{[^{}]*\}", "", value):
            several = _quote_list(dotted, [part.strip() for part in value.split(",")])
            single = shlex.quote(f"{dotted}={json.dumps([value], ensure_ascii=False)}")
            raise ValueError(
                f"configuration:\n  {dotted}={_shown(value)}: {_shown(several)}; a name with a comma: {_shown(single)}"
            )
        tree = tree | {section: inside | {name: [value]}}
    return tree


def _refuse_booleans(tree: dict[str, Any]) -> None:
    """True is no number: pydantic would take it for 1."""
    for dotted, kind, *_ in describe():
        value: Any = tree
        for part in dotted.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, bool) and kind != "bool":
            raise ValueError(f"configuration:\n  {dotted}={value}: input should be {kind}, not a boolean")


def _explain(item: Any, known: set[str]) -> str:
    dotted = ".".join(str(part) for part in item["loc"])[:LONGEST]
    entry = re.fullmatch(r"(\w+\.\w+)\.\d+\.\w+", dotted)
    if item["type"] == "unexpected_keyword_argument":
        if entry and entry[1] in _ENTRIES:
            name, cls, _ = _ENTRIES[entry[1]]
            return f"unknown key {dotted!r}; a {name} has {', '.join(field.name for field in dataclasses.fields(cls))}"
        return f"unknown key {dotted!r}{_nearest(dotted, known)}"
    if item["type"] == "missing":
        section, _, name = dotted.rpartition(".")
        return f"{section} has no {name}"
    message = f"{dotted}={_shown(repr(item['input']))}: {item['msg'][0].lower()}{item['msg'][1:]}"
    return message + _way_out(dotted, item)


def _shown(text: str, most: int = LONGEST) -> str:
    return text if len(text) <= most else f"{text[:most]}..."


def _way_out(dotted: str, item: Any) -> str:
    """What to write instead, for the end of a message; empty where the message says it."""
    given = item["input"]
    if dotted in _ENTRIES:
        return f", as in {_ENTRIES[dotted][2]}"
    if item["type"] == "int_parsing" and isinstance(given, str):
        try:
            number = float(given.replace("_", ""))
        except ValueError:
            return ""
        return f"; write {number:.0f}" if number.is_integer() else ""
    if item["type"] == "literal_error" and isinstance(given, str):
        return _nearest(given, re.findall(r"'([^']*)'", item["ctx"]["expected"]))
    return ""


def _nearest(word: str, known: Iterable[str]) -> str:
    word, known = word[:LONGEST], list(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if not close:
        leaf = word.rsplit(".", 1)[-1]
        by_leaf = {k.rsplit(".", 1)[-1]: k for k in known}
        close = [by_leaf[m] for m in difflib.get_close_matches(leaf, by_leaf, n=1, cutoff=0.6)]
    return f"; did you mean {close[0]!r}?" if close else ""
