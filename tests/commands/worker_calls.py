"""Call `silc train` several times in one process, which saves the imports of each.

argv: a JSON list of argument lists, and a file for the results: a JSON list of {"status", "out", "err"}.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from silc.commands import train  # noqa: E402


def call(arguments: list[str]) -> dict:
    out, err = io.StringIO(), io.StringIO()
    status: object = None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        log = logging.StreamHandler(err)
        logging.getLogger().addHandler(log)
        try:
            status = train.main(arguments)
        except SystemExit as leaving:
            status = leaving.code
        except Exception:
            traceback.print_exc()
        logging.getLogger().removeHandler(log)
    return {"status": status, "out": out.getvalue(), "err": err.getvalue()}


if __name__ == "__main__":
    results = [call(arguments) for arguments in json.loads(sys.argv[1])]
    Path(sys.argv[2]).write_text(json.dumps(results))
