"""Which runs answer the claims: each variant at each number of pairs with each seed, all by configuration alone.

The variants are SILC and the baselines of the paper and of its reviewers (arXiv 2310.13355, sections 4 and 5): what
SILC gains over CLIP could come from the additional views, from averaged weights, from the additional work or from
DINO's global crops, and not from local-to-global distillation.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from silc import config_io
from silc.config import TASKS, Config
from silc.config_rules import has_evaluation_data
from silc.train.estimate import step_flops

SILC = "silc"
MEASURED = tuple(task for task in TASKS if task != "validation_loss")  # no claim: a loss says nothing of other tasks
SHOTS = 5  # images per class, of the few-shot metric in the tables
_PLAIN = ("views.n_global=0", "views.n_local=0", "objective.distill=false", "objective.contrastive_views=original")
_VIEWS = ("views.n_local=0", "objective.distill=false", "objective.contrastive_views=each_global")
# Variant -> what it changes in a preset of SILC, as the presets of the baselines do.
VARIANTS: dict[str, tuple[str, ...]] = {
    "clip": _PLAIN,
    "clip_views": (*_VIEWS, "objective.ema=true", "objective.head_only_ema=false"),  # it averages the image tower
    "clip_compute": _PLAIN,
    "silc_global": ("views.n_local=0", "objective.global_to_global=true"),
    SILC: (),
}
# Keys that the plan sets for each run, and a user may not: from --pairs, --seeds, --out, or by the variant.
OWN = ("train.steps", "train.seed", "train.out", "train.resume", *(word.partition("=")[0] for word in _PLAIN))
CHOSEN = ("optim.", "objective.")  # sections of which a variant may have keys of its own

Chosen = Mapping[str, Sequence[str]]  # variant -> its words section.key=value


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        variant: key of VARIANTS.
        pairs: that SILC sees, a whole number of batches; `clip_compute` sees more.
        seed: of weights, data order and augmentation.
        config: resolved; its `train.out` is the run's folder.
        chosen: words of this variant alone, as `optim.lr=0.002`.
    """

    variant: str
    pairs: int
    seed: int
    config: Config
    chosen: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        assert self.config.train.out is not None  # the plan names it
        return Path(self.config.train.out)

    @property
    def words(self) -> list[str]:
        """Overrides for launch/train.py beside the preset."""
        train = self.config.train
        return [
            *VARIANTS[self.variant],
            *self.chosen,
            f"train.steps={train.steps}",
            f"train.seed={self.seed}",
            f"train.out={train.out}",
            "train.resume=auto",
        ]

    @property
    def seen(self) -> int:
        """Pairs that this run sees."""
        return self.config.train.global_batch * self.config.train.steps

    @property
    def flops(self) -> float:
        """Of the whole training."""
        return step_flops(self.config) * self.seen


@dataclass(frozen=True)
class Recipe:
    """What the runs of a plan have in common.

    Attributes:
        preset, presets, words: of SILC, as `config_io.load_config` takes them.
        out: folder of the run folders.
        chosen: words of single variants, laid over `words`.
    """

    preset: str
    presets: Path
    words: Sequence[str]
    out: Path
    chosen: Chosen

    def silc(self) -> Config:
        """The configuration of SILC. Raises ValueError for a preset that is not SILC's, and for words that the plan
        sets itself."""
        silc = config_io.load_config(self.preset, self.words, presets=self.presets)
        _refuse_own(silc, config_io.load_config(self.preset, presets=self.presets))
        if not silc.objective.distill or not silc.views.n_global:
            raise ValueError(f"preset {self.preset} distils nothing; give one of SILC, as sample or silc_vit_b16")
        refuse_unseen(silc)
        for words in self.chosen.values():
            _refuse_chosen(words)
            config_io.override(silc, words)  # for its ValueError, whether or not a run of the variant is planned
        return silc

    def run(self, silc: Config, variant: str, pairs: int, seed: int) -> Run:
        """One run; silc: as of :meth:`silc`."""
        chosen = tuple(self.chosen.get(variant, ()))

        def load(*more: str) -> Config:
            words = [*self.words, *VARIANTS[variant], *chosen, *more]
            return config_io.load_config(self.preset, words, presets=self.presets)

        steps = pairs // silc.train.global_batch
        if variant == "clip_compute":
            ours = config_io.override(silc, self.chosen.get(SILC, ()))  # what is trained as SILC: its own words change
            steps = round(steps * step_flops(ours) / step_flops(load()))  # the operations, as head_only_ema does
        folder = self.out / f"{variant}-{pairs}-seed{seed}"
        config = load(f"train.steps={steps}", f"train.seed={seed}", f"train.out={folder}", "train.resume=auto")
        return Run(variant, pairs, seed, config, chosen)


def runs(
    recipe: Recipe, pairs: Sequence[int] | None, seeds: Sequence[int], variants: Iterable[str] | None = None
) -> list[Run]:
    """All runs: the smallest first, then all variants of a seed, so that tables can be read early and are balanced.

    Args:
        recipe: of all of them.
        pairs: numbers of pairs SILC sees, taken as whole batches; None: a quarter, half and all of what the preset is
            trained on.
        seeds: each gives a run of its own.
        variants: some of VARIANTS; None: all.

    Raises ValueError as :meth:`Recipe.silc` does.
    """
    silc = recipe.silc()
    batch = silc.train.global_batch
    whole = silc.train.steps * batch
    wanted = [whole // 4, whole // 2, whole] if pairs is None else pairs
    for count in wanted:
        if count < batch:
            raise ValueError(f"--pairs {count} is less than one batch (train.global_batch={batch})")
    for seed in seeds:
        if seed < 0:
            raise ValueError(f"--seeds {seed}: seeds are 0 or more")
    counts = sorted({round(count / batch) * batch for count in wanted})
    some = set(VARIANTS if variants is None else variants)
    order = [variant for variant in VARIANTS if variant in some]
    return [
        recipe.run(silc, variant, count, seed)
        for count, seed, variant in itertools.product(counts, dict.fromkeys(seeds), order)
    ]


def runs_in(recipe: Recipe) -> list[Run]:
    """The runs of this recipe whose folders are in `recipe.out`, whatever they hold, in the order of :func:`runs`."""
    pattern = re.compile(r"([a-z_]+)-([1-9][0-9]*)-seed(0|[1-9][0-9]*)")
    names = [pattern.fullmatch(path.name) for path in recipe.out.glob("*-seed*")]
    found = {(int(name[2]), int(name[3]), name[1]) for name in names if name and name[1] in VARIANTS}
    if not found:
        return []
    silc, order = recipe.silc(), list(VARIANTS)
    ordered = sorted(found, key=lambda one: (*one[:2], order.index(one[2])))
    planned = []
    for pairs, seed, variant in ordered:
        if pairs >= silc.train.global_batch:
            with contextlib.suppress(ValueError):  # more pairs or a larger seed than any run has
                planned.append(recipe.run(silc, variant, pairs, seed))
    return planned


def _refuse_own(config: Config, preset: Config) -> None:
    for key in OWN:
        section, name = key.split(".")
        value = getattr(getattr(config, section), name)
        if value != getattr(getattr(preset, section), name):
            raise ValueError(
                f"{key}={value} is for the plan to set: it differs from run to run; see --pairs, --seeds, --out"
            )


def _refuse_chosen(words: Iterable[str]) -> None:
    """Raises ValueError for words that a single variant may not have."""
    given = {word.partition("=")[0] for word in itertools.chain(*VARIANTS.values())} - {"objective.head_only_ema"}
    for word in words:
        key = word.partition("=")[0]
        if not word.startswith(CHOSEN):
            raise ValueError(
                f"--for {word}: a variant may have keys of {' and '.join(CHOSEN)} of its own; give it for all runs"
            )
        if key in given:
            raise ValueError(f"--for {word}: {key} is what makes the variants; take another key")


def refuse_unseen(config: Config) -> None:
    """Raises ValueError for what would leave the tables empty after all the training."""
    after = config.eval.after
    if "student" not in config.eval.models:
        raise ValueError("eval.models has no student: CLIP has no teacher, so the tables compare students")
    if not set(after) & set(MEASURED):
        found = f"eval.after=[{', '.join(after)}] has no task of the tables" if after else "eval.after is empty"
        raise ValueError(f"{found}: nothing would be on the pages; give some of {', '.join(MEASURED)}, or leave it out")
    if not has_evaluation_data(config):
        raise ValueError(
            "there is no data set to measure on: give eval.classification, eval.retrieval or "
            "eval.segmentation=LAYOUT:FOLDER"
        )
    if "fewshot" in after and SHOTS not in config.eval.shots:
        raise ValueError(f"eval.shots={config.eval.shots} lacks {SHOTS}, the images per class that the tables show")


def measured(words: Sequence[str]) -> list[str]:
    """What is evaluated after each run, unless `words` say otherwise: every task of a claim, both image towers."""
    defaults = {
        "eval.after": f"[{','.join(MEASURED)}]",
        "eval.models": "[student,teacher]",
        "eval.report": "false",  # a page and a picture of each of hundreds of runs
        "eval.contact_sheet": "false",
    }
    given = {word.partition("=")[0] for word in words}
    return [f"{key}={value}" for key, value in defaults.items() if key not in given]
