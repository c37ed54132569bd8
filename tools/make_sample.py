"""The recipe of the embedded sample set: pinned packages of drawings in, WebDataset shards out, byte for byte.

    python tools/make_sample.py            fetch, verify, render, write silc/data/sample_set/drawings/
    python tools/make_sample.py --check    rebuild in memory and compare with the committed files

Eight sets of emoji with a permissive licence are fetched with `npm pack`, their tarballs compared with the pinned
integrity, and every drawing whose name is that of a Unicode emoji (emojibase's English label, letters and digits alone
compared) is rendered at 64 x 64 pixels and stored as WebP with alpha. One shard an artist, one sample a drawing:

    {artist}-{hexcode}.webp    RGBA, 64 x 64
    {artist}-{hexcode}.json    concept, hexcode, tags, group, subgroup, icon, artist, author, licence

The shards are compressed (two thirds of a plain tar of such small files would be padding) with bzip2, whose output,
unlike that of the several zlib in use, does not depend on who built the library. Needs npm, and resvg-py and Pillow as
the lock has them.
"""

from __future__ import annotations

import argparse
import base64
import bz2
import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import unicodedata
from dataclasses import asdict, dataclass
from pathlib import Path

import resvg_py
from PIL import Image
from tqdm import tqdm

SIZE = 64
WEBP = {"format": "WEBP", "quality": 90, "alpha_quality": 100, "method": 4}
OUTPUT = Path(__file__).resolve().parents[1] / "silc" / "data" / "sample_set" / "drawings"

# Flags and skin tones are variants of one drawing; letters, digits and keycaps are writing.
LEFT_OUT_GROUPS = {"component", "flags"}
LEFT_OUT_SUBGROUPS = {"alphanum", "keycap"}


@dataclass(frozen=True)
class Source:
    """A pinned package, and the attribution that its licence requires."""

    name: str
    package: str
    version: str
    integrity: str
    author: str
    url: str
    licence: str


LABELS = Source(
    "emojibase",
    "emojibase-data",
    "17.0.0",
    "sha512-Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
    "Miles Johnson",
    "https://github.com/milesj/emojibase",
    "MIT",
)
ARTISTS = (
    Source(
        "emojione",
        "@iconify-json/emojione",
        "1.2.3",
        "sha512-T9+T3HIbJNLKKsmxYKlaYhvnHYkz/HNYTV7SHCXVZPfeUi4FqskY70YeN8yYAZT8cCv7w5vJxS4Q1m8zb9CMMg==",
        "EmojiOne (EmojiTwo)",
        "https://github.com/EmojiTwo/emojitwo",
        "CC-BY-4.0",
    ),
    Source(
        "fluent-emoji",
        "@iconify-json/fluent-emoji",
        "1.2.7",
        "sha512-D8G6bKAyIsyxP1rzZtIWr/gg/fO4Rg1+DyCWlfqKK4h8W+4Em/Y0P6QYgJUQTlUcagzJvSyg+9OBv4hz4Hc/QA==",
        "Microsoft Corporation",
        "https://github.com/microsoft/fluentui-emoji",
        "MIT",
    ),
    Source(
        "fluent-emoji-flat",
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "sha512-RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
        "Microsoft Corporation",
        "https://github.com/microsoft/fluentui-emoji",
        "MIT",
    ),
    Source(
        "fxemoji",
        "@iconify-json/fxemoji",
        "1.2.2",
        "sha512-UAasRaxzFUKfIGSmLwnoarsssA4LX0VLLuEmplIqM6ZNQqIQRtav8tZ4H1neTlBreXuMQyAifr5jP4kn78DpiQ==",
        "Mozilla",
        "https://github.com/mozilla/fxemoji",
        "Apache-2.0",
    ),
    Source(
        "noto",
        "@iconify-json/noto",
        "1.2.9",
        "sha512-DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
        "Google Inc",
        "https://github.com/googlefonts/noto-emoji",
        "Apache-2.0",
    ),
    Source(
        "noto-v1",
        "@iconify-json/noto-v1",
        "1.2.5",
        "sha512-/DsVMius69Q0fRS53z7QK1TROSuar606jiIx+laXtdsYGMXpf6LtHBx6CGfoo3UHHb/XpBsw+1L1x3eyPqMuVA==",
        "Google Inc",
        "https://github.com/googlefonts/noto-emoji",
        "Apache-2.0",
    ),
    Source(
        "streamline-emojis",
        "@iconify-json/streamline-emojis",
        "1.2.4",
        "sha512-iNr9T9XuZVTyQPJO8ZlLxBzPkpi7qMl+z1l0C31vpEMqhPMelth3n7CeWQYtixdetDPdI81yeG4ROqjWpYJE6A==",
        "Streamline",
        "https://github.com/webalys-hq/streamline-vectors",
        "CC-BY-4.0",
    ),
    Source(
        "twemoji",
        "@iconify-json/twemoji",
        "1.2.5",
        "sha512-uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
        "Twitter, Inc and other contributors",
        "https://github.com/jdecked/twemoji",
        "CC-BY-4.0",
    ),
)


def fetch(source: Source, folder: Path) -> dict[str, bytes]:
    """JSON members of the pinned package, by path. Raises ValueError if its tarball is not the pinned one."""
    packed = subprocess.run(
        ["npm", "pack", f"{source.package}@{source.version}", "--silent", "--pack-destination", str(folder)],
        check=True,
        capture_output=True,
        text=True,
    )
    tarball = folder / packed.stdout.split()[-1]
    found = "sha512-" + base64.b64encode(hashlib.sha512(tarball.read_bytes()).digest()).decode()
    if found != source.integrity:
        raise ValueError(f"{source.package}@{source.version}: integrity {found}, pinned {source.integrity}")
    with tarfile.open(tarball) as members:
        return {
            member.name.removeprefix("package/"): members.extractfile(member).read()
            for member in members
            if member.isfile() and member.name.endswith(".json")
        }


def reduced(name: str) -> str:
    """Letters and digits of a name: 'Man’s shoe', 'mans-shoe' and 'mansshoe' are one."""
    plain = unicodedata.normalize("NFKD", name.lower()).encode("ascii", "ignore").decode()
    return re.sub("[^a-z0-9]", "", plain)


def read_concepts(files: dict[str, bytes]) -> dict[str, dict[str, object]]:
    """Reduced label -> concept (label, hexcode, tags, names of group and subgroup)."""
    names = json.loads(files["meta/groups.json"])
    concepts = {}
    for entry in json.loads(files["en/data.json"]):
        if "group" not in entry:
            continue
        group, subgroup = names["groups"][str(entry["group"])], names["subgroups"][str(entry["subgroup"])]
        if group in LEFT_OUT_GROUPS or subgroup in LEFT_OUT_SUBGROUPS:
            continue
        concepts[reduced(entry["label"])] = {
            "concept": entry["label"],
            "hexcode": entry["hexcode"].lower(),
            "tags": entry.get("tags", []),
            "group": group,
            "subgroup": subgroup,
        }
    return concepts


def match_icons(icons: dict[str, object], concepts: dict[str, dict[str, object]]) -> dict[str, str]:
    """Reduced label -> icon name. A drawing represents at most one concept; its own name comes before an alias.

    Left out are aliases that rotate or mirror a drawing, which are other images, and a drawing that repeats an earlier
    one, used by the artist for two concepts: no image may have two true captions.
    """
    named = {reduced(icon): icon for icon in sorted(icons["icons"])}
    aliases = icons.get("aliases", {})
    for alias in sorted(aliases):
        entry = aliases[alias]
        while set(entry) == {"parent"} and entry["parent"] in aliases:
            entry = aliases[entry["parent"]]
        if set(entry) == {"parent"}:
            named.setdefault(reduced(alias), entry["parent"])
    matched, bodies = {}, set()
    by_own_name = sorted((reduced(named[key]) != key, key) for key in named if key in concepts)
    for _, key in by_own_name:
        body = icons["icons"][named[key]]["body"]
        if body not in bodies:
            bodies.add(body)
            matched[key] = named[key]
    return matched


def render(icons: dict[str, object], name: str) -> bytes:
    """One icon as WebP with alpha, SIZE x SIZE, centered in the square."""
    icon = icons["icons"][name]
    left, top = icon.get("left", 0), icon.get("top", 0)
    width = icon.get("width", icons.get("width", 16))
    height = icon.get("height", icons.get("height", 16))
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}" width="{SIZE}" height="{SIZE}">{icon["body"]}</svg>'
    )
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True))
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGBA").save(buffer, **WEBP)
    return buffer.getvalue()


def build_shard(
    artist: Source, icons: dict[str, object], concepts: dict[str, dict[str, object]]
) -> tuple[bytes, set[str]]:
    """The compressed tar of one artist, with sorted members and fixed owner and time; and the hexcodes in it."""
    matched = match_icons(icons, concepts)
    samples = sorted((concepts[key]["hexcode"], concepts[key], icon) for key, icon in matched.items())
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for hexcode, concept, icon in tqdm(samples, desc=artist.name, unit="drawing", leave=False):
            meta = concept | {"icon": icon, "artist": artist.name, "author": artist.author, "licence": artist.licence}
            text = json.dumps(meta, sort_keys=True, ensure_ascii=False).encode()
            for extension, data in (("json", text), ("webp", render(icons, icon))):
                member = tarfile.TarInfo(f"{artist.name}-{hexcode}.{extension}")
                member.size, member.mode = len(data), 0o644
                tar.addfile(member, io.BytesIO(data))
    return bz2.compress(buffer.getvalue(), 9), {hexcode for hexcode, _, _ in samples}


def notice() -> str:
    """The attribution that the licences require, for each source."""
    lines = [
        "The images in this folder are drawings by the artists below, rendered at 64 x 64 pixels.",
        "Names, tags and groups come from emojibase. The licence of each image is in its json member.",
        "The full notice, with the licences, is NOTICE at the root of the project.",
        "",
    ]
    for source in (*ARTISTS, LABELS):
        lines += [
            f"{source.name}: by {source.author}, {source.url}",
            f"    package {source.package} {source.version}, licence {source.licence}",
        ]
    return "\n".join(lines) + "\n"


def build() -> dict[str, bytes]:
    """Every file of the folder of drawings, by name: a shard for each artist, manifest.json, NOTICE."""
    with tempfile.TemporaryDirectory() as scratch:
        concepts = read_concepts(fetch(LABELS, Path(scratch)))
        files, shards, drawn = {}, {}, set()
        for artist in ARTISTS:
            icons = json.loads(fetch(artist, Path(scratch))["icons.json"])
            data, hexcodes = build_shard(artist, icons, concepts)
            name = f"{artist.name}.tar.bz2"
            files[name] = data
            drawn |= hexcodes
            shards[name] = asdict(artist) | {
                "drawings": len(hexcodes),
                "bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
            }
            print(f"{name}: {len(hexcodes)} drawings, {len(data) / 1e6:.2f} MB", flush=True)
    manifest = {
        "size": SIZE,
        "drawings": sum(shard["drawings"] for shard in shards.values()),
        "concepts": len(drawn),
        "bytes": sum(shard["bytes"] for shard in shards.values()),
        "labels": asdict(LABELS),
        "shards": shards,
    }
    files["manifest.json"] = (json.dumps(manifest, indent=1) + "\n").encode()
    files["NOTICE"] = notice().encode()
    return files


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="rebuild in memory and compare; write nothing")
    check = parser.parse_args().check
    files = build()
    if not check:
        OUTPUT.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (OUTPUT / name).write_bytes(data)
        print(f"wrote {len(files)} files, {sum(map(len, files.values())) / 1e6:.2f} MB, to {OUTPUT}")
        return 0
    committed = {path.name: path.read_bytes() for path in OUTPUT.iterdir() if path.is_file()}
    different = sorted(name for name in files | committed if files.get(name) != committed.get(name))
    print(f"differ: {', '.join(different) or 'none'} of {len(files)} files rebuilt")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
