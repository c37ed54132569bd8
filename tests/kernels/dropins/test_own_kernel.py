"""docs/kernels.md, "Your own kernel": what each instrument says of its kernel, and of the mended one."""

import os
import re
import subprocess
import sys

import pytest

from tests.kernels.dropins.pages import PAGES
from tools.run_blocks import blocks

TEXT = (PAGES.parent / "kernels.md").read_text(encoding="utf-8")
OWN, MENDED = blocks(TEXT, "py")
(SAID,) = (block for block in blocks(TEXT, "text") if "own.py" in block)
# instrument -> the lines that the page shows of it.
SHOWN = {
    command.split()[-1]: lines.splitlines() for command, lines in re.findall(r"^\$ (.*)\n((?:[^$].*\n)+)", SAID, re.M)
}
RIGHT = {"dry": ["sums: # registers, # bytes of spills, # of shared memory"], "guard": ["right"], "race": ["right"]}


def without_counts(lines):
    """What a kernel takes differs with the version of Triton."""
    return [re.sub(r"\d+", "#", line) if "registers" in line else line for line in lines]


def said(code, instrument, folder):
    (folder / "own.py").write_text(code, encoding="utf-8")
    environment = os.environ | {"TRITON_INTERPRET": "0" if instrument == "dry" else "1"}
    command = [sys.executable, "own.py", instrument]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return without_counts(done.stdout.splitlines())


@pytest.mark.parametrize("instrument", ["dry", "guard", "race"])
def test_the_planted_mistake_is_found_as_the_page_says(instrument, tmp_path):
    assert said(OWN, instrument, tmp_path) == without_counts(SHOWN[instrument])


@pytest.mark.parametrize("instrument", ["dry", "guard", "race"])
def test_the_mended_kernel_has_no_problem(instrument, tmp_path):
    (kernel,) = re.findall(r"    row, at = .*\n.*\n.*tl.sum\(numbers\)\)\n", OWN)
    code = OWN.replace(kernel, MENDED).replace("(1, len(x))", "(len(x),)")
    assert [line for line in said(code, instrument, tmp_path) if line] == RIGHT[instrument]
