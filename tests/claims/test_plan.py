"""The runs that answer the claims: baselines as their presets say, equal operations, mistakes found at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from silc import config_io
from silc.claims import plan
from silc.claims.metrics import CLAIMS
from silc.config_rules import validate
from silc.train.estimate import step_flops

PRESETS = Path(__file__).resolve().parents[2] / "silc" / "presets"


def recipe(*words: str, preset: str = "sample", out: Path = Path("out"), **chosen: list[str]) -> plan.Recipe:
    return plan.Recipe(preset, PRESETS, words, out, chosen)


def runs(
    *words: str, preset: str = "sample", pairs=(6400, 3200), seeds=(0, 7), variants=None, **chosen: list[str]
) -> list[plan.Run]:
    return plan.runs(recipe(*words, preset=preset, **chosen), pairs, seeds, variants)


@pytest.mark.parametrize(("variant", "preset"), [("clip", "clip_vit_b16"), ("clip_views", "clip_views_vit_b16")])
def test_a_variant_is_the_baseline_of_that_name(variant, preset):
    run = next(r for r in runs(preset="silc_vit_b16", pairs=[1 << 33], seeds=[0]) if r.variant == variant)
    ours, theirs = (
        config_io.to_dict(config) for config in (run.config, config_io.load_config(preset, presets=PRESETS))
    )
    averaged = ours["objective"].pop("ema")  # for a column of its own; the student is not changed by it
    assert averaged == (variant == "clip_views")
    del theirs["objective"]["ema"]
    for section in ("model", "views", "objective", "optim", "data", "engine", "eval"):
        assert ours[section] == theirs[section], section


def test_every_variant_at_every_size_with_every_seed_the_small_ones_first():
    found = [(run.pairs, run.seed, run.variant) for run in runs()]
    assert found == [(pairs, seed, variant) for pairs in (3200, 6400) for seed in (0, 7) for variant in plan.VARIANTS]
    assert len({run.folder for run in runs()}) == len(found)


def test_some_variants_keep_their_order():
    assert [run.variant for run in runs(pairs=[640], seeds=[0], variants=["silc", "clip"])] == ["clip", "silc"]


def test_silc_without_local_crops_distils_from_one_global_view_to_the_other():
    run = next(r for r in runs(pairs=[6400], seeds=[0]) if r.variant == "silc_global")
    assert (run.config.views.n_local, run.config.views.n_global) == (0, 2)
    assert run.config.objective.distill
    assert run.config.objective.global_to_global
    validate(run.config, 1)


def test_a_variant_may_have_a_learning_rate_of_its_own():
    found = runs("optim.lr=0.003", pairs=[6400], seeds=[0], clip=["optim.lr=0.002", "optim.weight_decay=0.1"])
    assert {run.variant: run.config.optim.lr for run in found} == dict.fromkeys(plan.VARIANTS, 0.003) | {"clip": 0.002}
    assert found[0].words[4:6] == ["optim.lr=0.002", "optim.weight_decay=0.1"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("train.global_batch=32", "keys of optim. and objective. of its own"),
        ("objective.distill=true", "objective.distill is what makes the variants"),
        ("objective.ema=true", "objective.ema is what makes the variants"),
        ("optim.rate=1", "optim.rate"),
    ],
)
def test_what_a_variant_may_not_have_of_its_own(word, message):
    with pytest.raises(ValueError, match=message):
        runs(pairs=[6400], clip=[word])
    with pytest.raises(ValueError, match=message):
        runs(pairs=[6400], variants=["silc"], clip=[word])


def test_all_see_as_many_pairs_but_one_that_does_as_many_operations():
    by_variant = {run.variant: run for run in runs(pairs=[64000], seeds=[3])}
    silc, longer = by_variant["silc"], by_variant["clip_compute"]
    assert {by_variant[variant].config.train.steps for variant in plan.VARIANTS if variant != "clip_compute"} == {1000}
    one_step = step_flops(longer.config) * longer.config.train.global_batch
    assert abs(longer.flops - silc.flops) <= one_step / 2
    assert longer.config.train.steps > 2 * silc.config.train.steps
    assert all(run.config.train.seed == 3 for run in by_variant.values())


def test_equal_operations_are_those_of_silc_with_its_own_words():
    for chosen in ([], ["objective.head_only_ema=true"]):
        by_variant = {run.variant: run for run in runs(pairs=[64000], seeds=[0], silc=chosen)}
        longer, silc = by_variant["clip_compute"], by_variant["silc"]
        assert abs(longer.flops - silc.flops) <= step_flops(longer.config) * longer.config.train.global_batch / 2


def test_a_head_only_average_is_silcs_alone_and_every_variant_can_be_trained():
    found = runs("objective.head_only_ema=true", pairs=[64000], seeds=[0])
    for run in found:
        validate(run.config, 1)
    averaged = {run.variant: run.config.objective.head_only_ema for run in found}
    assert (averaged["silc"], averaged["clip_views"]) == (True, False)


def test_what_the_trainer_is_given_is_what_was_planned():
    for run in runs("optim.lr=0.002", silc=["optim.lr=0.001"]):
        given = config_io.load_config("sample", ["optim.lr=0.002", *run.words], presets=PRESETS)
        assert given == run.config


@pytest.mark.parametrize(
    ("words", "preset", "pairs", "message"),
    [
        (["train.steps=5"], "sample", [640], "train.steps=5.*--pairs"),
        (["views.n_local=2"], "sample", [640], "views.n_local"),
        (["views={n_global: 3}"], "sample", [640], "views.n_global=3"),
        (["eval.models=[teacher]"], "sample", [640], "no student"),
        (["eval.after=[]"], "sample", [640], "eval.after is empty: .*; give some of zeroshot_classification, "),
        (["eval.after=[validation_loss]"], "sample", [640], r"validation_loss\] has no task of the tables: .*; give"),
        (["eval.after=[fewshot]", "eval.shots=[1]"], "sample", [640], "lacks 5"),
        (["data.shards=[/mine]"], "sample", [640], "no data set to measure on: give eval"),
        (["train.seed=1"], "sample", [640], "--seeds"),
        ([], "clip_vit_b16", [1 << 20], "clip_vit_b16 distils nothing"),
        ([], "sample", [63], "--pairs 63 is less than one batch"),
    ],
)
def test_mistakes_are_found_before_anything_runs(words, preset, pairs, message):
    with pytest.raises(ValueError, match=message):
        runs(*words, preset=preset, pairs=pairs)


def test_pairs_are_whole_batches_and_by_default_parts_of_the_presets():
    assert {run.pairs for run in runs(pairs=[640, 650, 700])} == {640, 704}
    assert {run.pairs for run in runs(pairs=None)} == {8000, 16000, 32000}
    assert all(run.seen == run.pairs for run in runs(pairs=None) if run.variant != "clip_compute")
    with pytest.raises(ValueError, match="--seeds -1"):
        runs(seeds=[-1])


def test_the_runs_in_a_folder_are_found_in_order(tmp_path):
    for run in plan.runs(recipe(out=tmp_path), [640, 6400], [2, 3], ["clip", "silc"]):
        run.folder.mkdir()
    (tmp_path / "clip-640-seed2").rmdir()
    others = "notes-seed other-640-seed1 clip-63-seed1 clip-64\u0660-seed2 clip-640-seed2-old"
    for name in others.split():
        (tmp_path / name).mkdir()
    found = [(run.pairs, run.seed, run.variant) for run in plan.runs_in(recipe(out=tmp_path))]
    assert found[0] == (640, 2, "silc")
    assert found[1:] == [(p, s, v) for p, s in ((640, 3), (6400, 2), (6400, 3)) for v in ("clip", "silc")]
    assert plan.runs_in(recipe(out=tmp_path / "none")) == []


def test_a_run_of_any_seed_is_found_again(tmp_path):
    """A folder whose numbers no run has is no run, and hides none."""
    (planned,) = plan.runs(recipe(out=tmp_path), [640], [2**63 - 1], ["silc"])
    for name in (planned.folder.name, f"silc-640-seed{2**63}", f"silc-{10**20}-seed0", "silc-640-seed007"):
        (tmp_path / name).mkdir()
    assert plan.runs_in(recipe(out=tmp_path)) == [planned]


def test_all_six_tasks_are_measured_unless_other_words_are_given():
    after, *others = plan.measured(["optim.lr=1", "eval.report=true"])
    assert after.count(",") == 5
    assert {task for task, _ in CLAIMS} == set(after.partition("=")[2].strip("[]").split(","))
    assert others == ["eval.models=[student,teacher]", "eval.contact_sheet=false"]
    given = ["eval.after=[fewshot]", "eval.models=[teacher]", "eval.report=true", "eval.contact_sheet=true"]
    assert plan.measured(given) == []
