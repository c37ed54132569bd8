"""CLIP_benchmark's figures beside those of `silc evaluate`, for a model trained on the sample set.

    python -m tests.soak.clip_benchmark_figures MODEL [--out FOLDER]

MODEL is a run folder (its newest checkpoint is exported) or an export. The unseen artist of the sample set is written
in CLIP_benchmark's layout, and both tools' own command lines measure the export on these files, three times:

1. As it is. Scenes share captions ("two cats"): `silc evaluate` counts an equal caption of another image as a hit,
   CLIP_benchmark as a miss, so that its recall is lower. Classification is the same.
2. The first image of each caption. All figures are the same.
3. The same images enlarged to another size and shape, which both tools bring to the model's size: torchvision's bicubic
   filter on PIL images in fixed point there, torch's antialiased one here. One level in a thousand differs, by one,
   and an image in some hundreds changes sides.

Beside that, CLIP_benchmark drops transparency, which `silc evaluate` lays on white; the sample set has none.

The last column is CLIP_benchmark without --no_amp: its default is bfloat16 on a CPU, `silc evaluate` computes in fp32
there.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from silc.config import Config
from silc.data.sample_set.cache import default_root, ensure_sample
from silc.data.splits import DataSet
from silc.evaluate.datasets import of_sample
from silc.interchange.read import is_readable, read
from silc.train import checkpoint
from silc.train.export import write_export
from tests.evaluate.benchmark_tool import (
    TOOL,
    Sample,
    our_figures,
    our_words,
    run,
    their_figures,
    their_words,
    write_set,
)

LARGER = (118, 96)  # pixels, of images that are enlarged


def png(image: Image.Image) -> bytes:
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return encoded.getvalue()


def samples(data: DataSet) -> list[Sample]:
    """The images of the test split, with class and captions."""
    split = data.test
    return [
        Sample(png(Image.fromarray(split.image(i).numpy())), "png", split.label(i), tuple(split.captions(i)))
        for i in range(len(split))
    ]


def enlarged(some: Sequence[Sample]) -> list[Sample]:
    out = []
    for one in some:
        with Image.open(io.BytesIO(one.image)) as image:
            out.append(Sample(png(image.resize(LARGER, Image.Resampling.BICUBIC)), "png", one.label, one.captions))
    return out


def of_distinct_captions(some: Sequence[Sample]) -> list[Sample]:
    """The first image of each caption."""
    first = {one.captions: one for one in reversed(some)}
    return list(reversed(first.values()))


def measure(export: Path, out: Path, some: Sequence[Sample], data: DataSet) -> list[tuple[str, float, float, float]]:
    """(CLIP_benchmark's metric, silc's value, its value, its value with amp); files go into `out`."""
    known = [one for one in some if one.label is not None]
    sets = {
        "zeroshot_classification": write_set(
            out / "classes", known, classes=data.classes, templates=data.templates or ()
        ),
        "zeroshot_retrieval": write_set(out / "captions", [one for one in some if one.captions]),
    }
    run(["-m", "silc", "evaluate", *our_words(export, *sets.values(), out)], out)
    ours, rows = our_figures(out), []
    for task, folder in sets.items():
        for amp in (False, True):
            run(["-c", TOOL, *their_words(export, folder, task, out / f"{task}{amp}.json", amp=amp)], out)
        plain, lower = (their_figures(out / f"{task}{amp}.json") for amp in (False, True))
        rows += [(metric, ours[metric], plain[metric], lower[metric]) for metric in plain]
    return rows


def opened(model: Path, out: Path) -> tuple[Path, Config]:
    """An export of the model, and the configuration it was trained with, as far as that is known."""
    if is_readable(model):
        return model, read(model).config()
    path = checkpoint.find(model)
    write_export(path, out / "exported")
    return out / "exported", checkpoint.load_config(path)


def main() -> int:
    """Print the tables. Returns 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="run folder or export")
    parser.add_argument("--out", type=Path, help="keep the data sets and the results here (default: nowhere)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        out = (args.out or Path(scratch)).resolve()
        out.mkdir(parents=True, exist_ok=True)
        export, config = opened(args.model.resolve(), out)
        scenes, concepts = config.data.sample_scenes, config.data.sample_concepts
        data = of_sample(config, ensure_sample(default_root(), concepts=concepts, scenes_train=scenes))
        everything = samples(data)
        several = of_distinct_captions(everything)
        for name, some in (
            ("as they are", everything),
            ("of distinct captions", several),
            ("enlarged", enlarged(several)),
        ):
            folder = out / name.replace(" ", "_")
            folder.mkdir()
            print(f"\n{len(some)} images, {name}\n{'metric':28}{'silc':>10}{'CLIP_benchmark':>16}{'with amp':>10}")
            for metric, *values in measure(export, folder, some, data):
                print(f"{metric:28}" + "".join(f"{v:{w}.4f}" for v, w in zip(values, (10, 16, 10), strict=True)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
