"""Prompt sets by name, against the lists of open_clip."""

from __future__ import annotations

import open_clip
import pytest

from silc.config import PROMPT_SETS, Config
from silc.config_rules import is_prompt, validate_eval
from silc.data.prompts import TCL, expanded, in_words, prompt_set


@pytest.mark.parametrize("name", PROMPT_SETS)
def test_every_set_can_be_filled(name):
    prompts = prompt_set(name)
    assert all(map(is_prompt, prompts))
    assert len(set(prompts)) == len(prompts)
    config = Config()
    config.eval.templates = [name, "a {}"]
    validate_eval(config)


@pytest.mark.parametrize(
    ("name", "own", "count"),
    [
        ("imagenet", open_clip.OPENAI_IMAGENET_TEMPLATES, 80),
        ("imagenet_simple", open_clip.SIMPLE_IMAGENET_TEMPLATES, 7),
    ],
)
def test_imagenets_prompts_are_open_clips(name, own, count):
    prompts = prompt_set(name)
    assert len(prompts) == count
    assert [prompt.format("hot dog") for prompt in prompts] == [template("hot dog") for template in own]


def test_tcls_are_seven_of_clips_and_two_plurals():
    known = set(prompt_set("imagenet")) | set(prompt_set("imagenet_simple"))
    assert [prompt for prompt in TCL if prompt not in known] == ["a photo of {}s."]
    assert len(TCL) == 9


def test_names_stand_for_their_prompts_wherever_they_are():
    assert expanded([]) == ()
    assert expanded(["a {}", "tcl", "one {}"]) == ("a {}", *TCL, "one {}")
    assert expanded(["imagenet"]) == prompt_set("imagenet")


def test_a_note_says_how_many_and_which():
    assert in_words(["a {}"]) == "1 prompt: 'a {}'"
    assert in_words(["a {}", "one {}"]) == "2 prompts averaged: 'a {}', 'one {}'"
    assert in_words([*TCL, "a {}"]) == "10 prompts averaged, such as 'itap of a {}.'"
    said = "9 prompts averaged: tcl (the list of TCL, arXiv 2212.00785), such as 'itap of a {}.'"
    assert in_words(TCL) == in_words(list(TCL)) == said
    said = in_words(prompt_set("imagenet"))
    assert said == "80 prompts averaged: imagenet (CLIP's 80 for ImageNet), such as 'a bad photo of a {}.'"
