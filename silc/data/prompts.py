"""Prompt sets in common use, by the names that eval.templates takes: see :data:`silc.config.PROMPT_SETS`."""

from __future__ import annotations

from collections.abc import Sequence

from silc.config import PROMPT_SETS
from silc.config_rules import is_prompt

# The list that TCL (arXiv 2212.00785) evaluates segmentation with (github.com/khanrc/tcl: configs/eval.yml names it
# "custom", datasets/templates.py holds it), and that TIPS takes from there (github.com/google-deepmind/tips:
# pytorch/TIPS_zeroshot_segmentation.ipynb): seven of CLIP's prompts for ImageNet and two plurals.
TCL = (
    "itap of a {}.",
    "a bad photo of a {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
    "a photo of many {}.",
    "a photo of {}s.",
)
LISTED = 3  # prompts that a note names, of more it names the first


def prompt_set(name: str) -> tuple[str, ...]:
    """The prompts of a set, each with {} for the class name. name: a key of PROMPT_SETS."""
    if name == "tcl":
        return TCL
    import open_clip

    own = {"imagenet": open_clip.OPENAI_IMAGENET_TEMPLATES, "imagenet_simple": open_clip.SIMPLE_IMAGENET_TEMPLATES}
    prompts = tuple(template("{}") for template in own[name])
    assert all(map(is_prompt, prompts)), f"open_clip's prompts are of another form: {prompts}"
    return prompts


def expanded(templates: Sequence[str]) -> tuple[str, ...]:
    """Prompts, with those of a set in place of its name."""
    return tuple(prompt for one in templates for prompt in (prompt_set(one) if one in PROMPT_SETS else (one,)))


def in_words(prompts: Sequence[str]) -> str:
    """How many prompts, and which: by the name of the set where they are one."""
    if len(prompts) == 1:
        return f"1 prompt: {prompts[0]!r}"
    for name, meaning in PROMPT_SETS.items():
        if tuple(prompts) == prompt_set(name):
            return f"{len(prompts)} prompts averaged: {name} ({meaning}), such as {prompts[0]!r}"
    which = f": {', '.join(map(repr, prompts))}" if len(prompts) <= LISTED else f", such as {prompts[0]!r}"
    return f"{len(prompts)} prompts averaged{which}"
