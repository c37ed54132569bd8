"""CLIP_benchmark's own command line beside `silc evaluate`, on the same files: its WebDataset layout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import webdataset as wds

ROOT = Path(__file__).resolve().parents[2]
# timm does not know towers of all sizes by name: the import tells it, as in every program that opens such an export.
TOOL = "import silc.model.timm_tower; from clip_benchmark.cli import main; main()"
AT = (1, 5, 10)
# CLIP_benchmark's name -> (our task, our metric). Text retrieval is that of the texts of an image.
SAME = {
    "acc1": ("zeroshot_classification", "top1"),
    "acc5": ("zeroshot_classification", "top5"),
    "mean_per_class_recall": ("zeroshot_classification", "mean_per_class"),
} | {
    f"{theirs}_retrieval_recall@{k}": ("retrieval", f"{ours}_r{k}")
    for theirs, ours in (("text", "image_to_text"), ("image", "text_to_image"))
    for k in AT
}


@dataclass(frozen=True)
class Sample:
    """An image file with its class, or with its captions.

    suffix: of the file, such as png.
    """

    image: bytes
    suffix: str
    label: int | None = None
    captions: tuple[str, ...] = ()


def write_set(
    folder: Path, samples: Iterable[Sample], *, classes: Sequence[str] = (), templates: Sequence[str] = ()
) -> str:
    """A data set in CLIP_benchmark's layout; without classes one for retrieval. Returns LAYOUT:FOLDER.

    templates: with {} for the class name.
    """
    (folder / "test").mkdir(parents=True)
    (folder / "test/nshards.txt").write_text("1\n")
    with wds.TarWriter(str(folder / "test/0.tar")) as writer:
        for number, one in enumerate(samples):
            known = {"cls": str(one.label)} if classes else {"txt": "\n".join(one.captions)}
            writer.write({"__key__": f"s{number:06}", one.suffix: one.image} | known)
    if classes:
        (folder / "classnames.txt").write_text("\n".join(classes) + "\n")
        prompts = [template.replace("{}", "{c}") for template in templates]
        (folder / "zeroshot_classification_templates.txt").write_text("\n".join(prompts) + "\n")
    else:
        (folder / "dataset_type.txt").write_text("retrieval\n")
    return f"wds:{folder}"


def their_words(export: Path, data: str, task: str, out: Path, *, amp: bool = False) -> list[str]:
    """Words of `clip_benchmark` that measure an export. data: LAYOUT:FOLDER; out: the JSON that it writes.

    amp: its default, bfloat16 on a CPU.
    """
    folder = Path(data.partition(":")[2])
    words = ["eval", "--model_type", "open_clip", "--model", f"local-dir:{export.resolve()}", "--pretrained", ""]
    words += ["--dataset", f"wds/{folder.name}", "--dataset_root", str(folder), "--task", task, "--output", str(out)]
    return [*words, "--num_workers", "0", "--recall_k", *map(str, AT), *([] if amp else ["--no_amp"])]


def our_words(export: Path, classification: str, retrieval: str, out: Path) -> list[str]:
    """Words of `silc evaluate`. classification, retrieval: LAYOUT:FOLDER; out: the folder it writes to."""
    return [
        *(str(export), "--tasks=zeroshot_classification,retrieval", "--out", str(out)),
        *("eval.report=false", f"eval.classification={classification}", f"eval.retrieval={retrieval}"),
    ]


def their_figures(out: Path) -> dict[str, float]:
    """CLIP_benchmark's metrics by its names."""
    found: dict[str, float] = json.loads(out.read_text())["metrics"]
    return found


def our_figures(out: Path) -> dict[str, float]:
    """The same metrics of `silc evaluate`, by CLIP_benchmark's names."""
    results = json.loads((out / "evaluation.json").read_text())["results"]
    values = {(row["task"], name): metric["value"] for row in results for name, metric in row["metrics"].items()}
    return {theirs: values[own] for theirs, own in SAME.items()}


def run(command: list[str], folder: Path) -> None:
    """A process of this Python, on one thread of the CPU. Raises RuntimeError where it fails."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    alone = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=os.environ | alone,
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
