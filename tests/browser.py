"""Pages in a headless browser: nothing fetched, no message in the console, no overflow at the width of a phone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

PHONES = (390, 360)
BROWSER = next(
    (found for name in ("chromium", "google-chrome", "chromium-browser") if (found := shutil.which(name))), None
)
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy".*?>')
MEASURE = """<script>addEventListener("load", () => {
  const width = innerWidth, out = [];
  for (const e of document.querySelectorAll("body *:not(.scroll *):not(pre *):not(.clip *)")) {
    const r = e.getBoundingClientRect();
    if (r.width && (r.right > width + 1 || r.left < -1)) out.push(e.tagName + " " + Math.round(r.right));
  }
  const broken = [...document.images].filter(i => !i.naturalWidth).length;
  const fetched = performance.getEntriesByType("resource").filter(r => !r.name.startsWith("data:")).length;
  document.title = `inner ${width} scroll ${document.documentElement.scrollWidth} out [${out.slice(0, 5)}] `
    + `broken ${broken} fetched ${fetched}`;
})</script>"""

needs_browser = pytest.mark.skipif(
    BROWSER is None and not os.environ.get("SILC_BROWSER_REQUIRED"), reason="no chromium or google-chrome on PATH"
)


def browse(page: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Open a page; `folder` is for the browser's profile."""
    assert BROWSER is not None, "SILC_BROWSER_REQUIRED is set and there is no browser"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    flags += [f"--user-data-dir={folder}", "--disable-component-update", "--disable-default-apps", "--disable-sync"]
    command = [BROWSER, *flags, *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def console(page: Path, folder: Path) -> list[str]:
    """Messages of the page, among them what its policy blocked."""
    found = browse(page, folder / "profile", "--enable-logging=stderr", "--dump-dom")
    return [line for line in found.stderr.splitlines() if "CONSOLE" in line]


def check_page(page: Path, folder: Path) -> None:
    """A script in a copy of the page, which its policy would not let run, measures every element."""
    assert console(page, folder) == []
    text = page.read_text(encoding="utf-8")
    (policy,) = POLICY.findall(text)
    assert "default-src 'none'" in policy
    probe = folder / "probe.html"
    probe.write_text(text.replace(policy, "").replace("</body>", MEASURE + "</body>"), encoding="utf-8")
    # A window of a desktop browser has a least width; a frame has not.
    frames = "".join(f'<iframe src="probe.html" width="{width}" height="700"></iframe>' for width in PHONES)
    frame = folder / "phone.html"
    frame.write_text(
        frames + '<script>addEventListener("load", () => { for (const f of [...document.querySelectorAll("iframe")]) '
        "document.body.append(f.contentDocument.title) })</script>"
    )
    dom = browse(frame, folder / "profile", "--allow-file-access-from-files", "--dump-dom").stdout
    found = re.findall(r"inner (\d+) scroll (\d+) out \[(.*?)\] broken (\d+) fetched (\d+)", dom)
    assert len(found) == len(PHONES), dom[-500:]
    for width, (inner, scroll, out, broken, fetched) in zip(PHONES, found, strict=True):
        assert width - 20 <= int(inner) <= width
        assert int(scroll) <= int(inner), out
        assert out == ""
        assert (broken, fetched) == ("0", "0")
