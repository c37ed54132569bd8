"""Pages from templates: what comes from outside is escaped, whatever it holds."""

from __future__ import annotations

import base64
import functools
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from silc.evaluate.report.charts import number, place
from silc.text import plural

TEMPLATES = Path(__file__).parent / "templates"
LONGEST = 300  # characters shown of a class name or a caption: data may hold any number
QUALITY = 90  # of JPEG
# Control characters, which a page may not hold, and separators of lines and paragraphs.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def render(template: str, folder: Path = TEMPLATES, **context: Any) -> str:
    """The text of a template in `folder`; it may include and import those of this package.

    Names that end in .html.j2 are escaped for HTML. An undefined name is an error, not an empty string.
    """
    return _environment(folder).get_template(template).render(**context)


@functools.cache
def _environment(folder: Path) -> Environment:
    environment = Environment(
        loader=FileSystemLoader([folder, TEMPLATES]),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "short": short,
        "task": task_title,
        "number": number,
        "place": place,
        "plural": plural,
        "data_uri": data_uri,
        "markdown_text": markdown_text,
        "markdown_code": markdown_code,
    }
    return environment


def save(path: Path, text: str) -> None:
    """Write a page. Surrogates, as of a file name that is not UTF-8, become question marks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", errors="replace")


def short(text: str, longest: int = LONGEST) -> str:
    """On one line, cut where it is longer than `longest` characters."""
    line = _CONTROLS.sub(" ", text[: longest + 1])
    return line if len(text) <= longest else line[: longest - 1] + "…"


def task_title(task: str) -> str:
    """Name of a task for people: zeroshot_classification is zero-shot classification."""
    return task.replace("zeroshot", "zero-shot").replace("fewshot", "few-shot").replace("_", " ")


def data_uri(pixels: np.ndarray) -> str:
    """An address that holds the image, uint8 [h, w, 3]."""
    encoded = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if max(pixels.shape[:2]) < 64:  # small maps must not smear
        kind = "png"
        image.save(encoded, "PNG")
    else:
        kind = "jpeg"
        image.save(encoded, "JPEG", quality=QUALITY, subsampling=0)  # colors of classes keep their edges
    return f"data:image/{kind};base64,{base64.b64encode(encoded.getvalue()).decode()}"


def markdown_text(text: str) -> str:
    """Plain text for a line of Markdown: nothing in it is markup."""
    line = " ".join(_CONTROLS.sub(" ", text).split())
    line = re.sub(r"([\\`*_{}\[\]<>#|~&!$])", r"\\\1", line)
    return re.sub(r"^(\d{0,9})([-+.)=])(?=\s|$|[-+=])", r"\1\\\2", line)


def markdown_code(text: str) -> str:
    """A code span: fenced by more backticks than stand together inside."""
    line = " ".join(_CONTROLS.sub(" ", text).split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"
