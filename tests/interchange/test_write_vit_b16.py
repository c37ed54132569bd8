"""ViT-B/16 at 256 pixels for every library: written, loaded by it and compared, as `silc export` does."""

from __future__ import annotations

import shutil

from silc.config import Config
from silc.interchange.write.export import export
from silc.interchange.write.formats import FORMATS
from tests.interchange.sources import varied


def test_every_library_computes_what_the_model_computes(tmp_path):
    source = varied(Config(), std=0.03)
    for to in FORMATS:  # a folder at a time: each takes 0.8 GB
        found = export(source, tmp_path / to, to, card=str).compared
        assert found is not None
        assert found.image <= 1e-5
        assert (found.text or 0) <= 1e-5
        assert (found.text is None) == (to == "timm")
        shutil.rmtree(tmp_path / to)
