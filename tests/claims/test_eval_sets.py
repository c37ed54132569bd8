"""Further test sets: what a --also may say, the evaluation that measures one, and data that is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from silc import config_io
from silc.claims import eval_sets, plan
from silc.commands import evaluate

PRESETS = Path(__file__).resolve().parents[2] / "silc" / "presets"


@pytest.fixture
def run(tmp_path) -> plan.Run:
    words = plan.measured([])
    return plan.runs(plan.Recipe("sample", PRESETS, words, tmp_path, {}), [6400], [0], ["clip"])[0]


def test_the_runs_own_data_comes_first():
    found = eval_sets.parse([["new", "eval.sample_split=new_scenes", "eval.limit=8"]])
    assert [one.name for one in found] == ["main", "new"]
    assert found[1].words == ("eval.sample_split=new_scenes", "eval.limit=8")


def test_it_differs_from_the_run_in_its_words_alone(run):
    one = eval_sets.EvalSet("new", ("eval.sample_split=new_scenes",))
    ours, theirs = (config_io.to_dict(config) for config in (one.config(run), run.config))
    assert ours["eval"].pop("sample_split") == "new_scenes"
    del theirs["eval"]["sample_split"]
    assert ours == theirs
    assert one.folder(run) == run.folder / "also" / "new"
    assert eval_sets.THE_RUNS_OWN.folder(run) == run.folder


@pytest.mark.parametrize("words", [(), ("eval.sample_split=new_scenes", "eval.templates=['a {}', '{}']")])
def test_the_command_measures_with_just_these_options(run, words):
    """Also where the checkpoint has others, of an earlier plan."""
    one = eval_sets.EvalSet("new", words)
    args = evaluate.parse(one.command(run))
    assert (args.model, args.out) == (run.folder, one.folder(run))
    assert args.tasks == list(plan.MEASURED)
    saved = config_io.load_config("sample", ["eval.limit=3", "eval.draws=2", "eval.window=96"], presets=PRESETS)
    assert config_io.override(saved, args.overrides).eval == one.config(run).eval


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["new"], "says nothing of the data"),
        (["main", "eval.limit=1"], "the name is taken"),
        (["../x", "eval.limit=1"], "begin with a name"),
        (["eval.limit=1"], "begin with a name"),
        (["new", "data.shards=[a]"], "only keys of eval can differ"),
        (["new", "limit"], "limit"),
    ],
)
def test_what_no_test_set_can_be(given, message):
    with pytest.raises(ValueError, match=message):
        eval_sets.parse([given])


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="--also new: the name is taken"):
        eval_sets.parse([["new", "eval.limit=1"]] * 2)


@pytest.mark.parametrize(
    "word",
    ["eval.limits=1", "eval.limit=x", "eval.short_side=7", "eval.after=[]", "eval.after=[validation_loss]"],
)
def test_words_that_no_evaluation_takes_are_named(run, word):
    with pytest.raises(ValueError, match=r"(?s)--also new: .*eval\."):
        eval_sets.check(eval_sets.EvalSet("new", (word,)), run)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("eval.shards=[no.tar]", "--also new: eval.shards"),
        ("eval.classification=wds:no", "--also new: there is no folder 'no'"),
        ("eval.classes=no.txt", "--also new: eval.classes=no.txt is not a file"),
    ],
)
def test_data_that_is_not_there_is_named_before_a_run(run, word, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        eval_sets.check_there(eval_sets.EvalSet("new", (word,)), run)


def test_imagenets_names_are_no_file(run):
    eval_sets.check_there(eval_sets.EvalSet("new", ("eval.classes=imagenet",)), run)
