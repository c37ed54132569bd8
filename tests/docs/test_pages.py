"""What the pages tell a reader to type: every command is parsed, every link leads on, the site builds offline."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from silc.commands import check as check_command
from silc.commands import claims, compare, evaluate, export, launcher, train
from silc.commands.shards import main as shards
from tools.run_blocks import blocks

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "kernels/README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
SHELL = ("bash", "sh", "console")
PARSE = {
    "check": check_command.parse,
    "train": train.parse,
    "evaluate": evaluate.parse,
    "export": export.parse,
    "claims": claims.parse,
    "compare": compare.parse,
    "shards": shards.parse,
}


def commands(page: Path) -> Iterator[str]:
    """Command lines of a page: lines of its shell blocks, continued ones joined; and commands quoted in its text."""
    text = page.read_text(encoding="utf-8")
    for language in SHELL:
        for block in blocks(text, language):
            lines = re.sub(r"\\\n\s*", " ", block).splitlines()
            yield from (line for line in lines if line.strip() and not line.lstrip().startswith("#"))
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for quoted in re.findall(r"`([^`\n]+)`", prose):
        words = quoted.split()
        if words[:1] == ["silc"] and len(words) == (3 if words[1:2] == ["shards"] else 2):  # a command is named
            yield f"{quoted} --help"
        elif len(words) > 1 and words[0] in ("silc", "make", "deepspeed", "python", "sbatch") and "..." not in quoted:
            yield quoted


def check_silc(words: list[str]) -> None:
    """A line of the command `silc`, without that word."""
    if not words or words[0] in ("--help", "--version", "keys", "COMMAND"):
        return
    name, rest = words[0], words[1:]
    assert name in PARSE, f"{name} is no command"
    if rest == ["--help"]:
        return
    if name in ("train", "evaluate"):
        _, rest = launcher.split(f"silc {name}", rest)
    PARSE[name](rest)


def check_script(words: list[str]) -> None:
    """launch/NAME.py with its words, or another script, which must be there."""
    script, rest = ROOT / words[0], words[1:]
    assert script.is_file(), f"{words[0]} is not there"
    if script.parent.name == "launch":
        check_silc([script.stem, *rest])


def check(command: str) -> None:
    """Raises, or ends as the command would, where it is not valid."""
    words = shlex.split(command, comments=True)
    while words and re.fullmatch(r"\w+=\S*", words[0]):  # variables of the environment
        words = words[1:]
    program, rest = words[0], words[1:]
    if program == "silc":
        check_silc(rest)
    elif program == "deepspeed":
        at = next(i for i, word in enumerate(rest) if word.startswith("launch/") and word.endswith(".py"))
        launcher.split("deepspeed", rest[:at])
        check_script(rest[at:])
    elif program == "sbatch":
        at = next(i for i, word in enumerate(rest) if not word.startswith("-"))
        assert all(re.fullmatch(r"--[a-z-]+=\S+", word) for word in rest[:at])  # sbatch's own options
        assert (ROOT / rest[at]).is_file()
        train.parse(rest[at + 1 :])
    elif program in ("srun", "mpirun"):  # their options, then a rank's command
        check_python(rest[rest.index("python") + 1 :])
    elif program == "make":
        targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
        assert {word for word in rest if "=" not in word} <= targets
    elif program in ("python", "python3"):
        check_python(rest)
    elif program == "until":  # a loop: what it repeats
        check(command.split(None, 1)[1].split(";")[0])
    elif program == "pip":
        assert all((ROOT / word).exists() for word in rest[1:] if word.startswith((".", "/")))
    else:
        assert program in ("pre-commit", "pkill", "cd", "git", ".", "apt"), f"{program}: how is this line checked?"


def status(command: str) -> int:
    """0 for a command that is valid; what it would end with where its command line is refused."""
    try:
        check(command)
    except SystemExit as end:  # of --help, or of a mistake
        return int(end.code or 0)
    return 0


def check_python(rest: list[str]) -> None:
    """python SCRIPT ..., or python -m MODULE ..."""
    if rest[0] == "-m":
        module = rest[1].replace(".", "/")
        known = any((root / module).is_dir() or (root / f"{module}.py").is_file() for root in (ROOT, ROOT / "kernels"))
        assert known or rest[1] == "pytest", f"{rest[1]} is no module here"
        if rest[1] == "pytest":
            assert all((ROOT / word).exists() for word in rest[2:] if "/" in word and "=" not in word)
    elif rest[0] != "-c":
        check_script(rest)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_are_valid(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for command in commands(page):
        assert status(command) == 0, f"{page.name}: {command}"


def test_the_pages_have_commands_of_every_kind():
    seen = {tuple(shlex.split(command, comments=True)[:2]) for page in PAGES for command in commands(page)}
    assert {("silc", name) for name in PARSE} <= seen


def test_a_mistake_in_a_command_is_found():
    for command in (
        "silc trian",
        "silc train --presets x",
        "silc train optim.lrr=1",
        "silc evaluate runs/sample --tasks none",
        "make nothing",
        "python benchmarks/nothing.py",
        "unheard of",
    ):
        with pytest.raises((AssertionError, SystemExit)):
            check(command)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_to_files_and_headings(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{page.name}: {target}"


def test_the_pages_build(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "training" / "index.html").is_file()
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"""(?:src|href)=["']https?://(?!arxiv\.org|squidfunk\.github\.io)""", page), "opens offline"


def test_the_curves_of_the_claims_are_those_of_the_committed_runs():
    """A copy, since pages show what lies beside them alone."""
    committed = ROOT / "benchmarks/results/claims_sample_cpu/claims.svg"
    assert (ROOT / "docs/claims.svg").read_bytes() == committed.read_bytes()


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 170
