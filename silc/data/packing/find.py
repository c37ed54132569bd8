"""What a source is, by its name and by what is in it."""

from __future__ import annotations

import os
from collections.abc import Callable

from silc.data.packing.delimited import is_token_line, open_delimited, open_token_file
from silc.data.packing.folder import is_image, open_folder
from silc.data.packing.hugging_face import is_saved, open_saved
from silc.data.packing.json_files import open_json, open_json_lines
from silc.data.packing.lines import first_line
from silc.data.packing.options import SourceOptions
from silc.data.packing.parquet import open_parquet
from silc.data.packing.rows import Listing
from silc.data.packing.walk import walk
from silc.files import check_regular

KINDS = (
    "a folder of images with .txt beside, a folder of class folders, a .csv, .tsv, .jsonl, .json or .parquet file, a "
    "folder of .parquet files, a caption file of COCO or Flickr, a data set of `save_to_disk`"
)
_PACKED = (".zip", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".tgz")


def find(source: str, options: SourceOptions, leave_out: str | None = None) -> Listing:
    """A source, opened.

    Args:
        source: path of a file or folder.
        options: see there.
        leave_out: a folder that is no part of a source folder that it lies in.

    Raises ValueError: nothing is there, or nothing that can be packed, or it is not clear as what.
    """
    if not os.path.exists(source):
        _refuse_absent(source)
    if os.path.isdir(source):
        return _folder(os.path.abspath(source), options, leave_out)
    check_regular(source)
    ending = os.path.splitext(source)[1].lower()
    if ending in _PACKED:
        raise ValueError(f"{source} is compressed; unpack it and give what is in it")
    if ending == ".tar":
        raise ValueError(f"{source} is a tar: if it holds WebDataset samples it needs no packing, otherwise unpack it")
    opener = _OPENERS.get(ending)
    if opener is not None:
        return opener(source, options)
    line = first_line(source) if ending in (".txt", ".token", "") else ""
    if is_token_line(line):
        return open_token_file(source, options)
    if ending == ".txt" and any(mark in line for mark in ",\t|;"):  # Flickr8k's captions.txt
        return open_delimited(source, options)
    if ending == ".arrow":
        raise ValueError(f"{source} is a part of a data set: give the folder in which its state.json lies")
    raise ValueError(f"{source} is nothing that is known; a source is {KINDS}")


_OPENERS: dict[str, Callable[[str, SourceOptions], Listing]] = {
    ".csv": open_delimited,
    ".tsv": open_delimited,
    ".jsonl": open_json_lines,
    ".ndjson": open_json_lines,
    ".json": open_json,
    ".parquet": open_parquet,
}


def _refuse_absent(source: str) -> None:
    if "://" in source:
        raise ValueError(f"{source} is a web address; download it first")
    hub = ""
    if source.count("/") == 1 and not source.startswith((".", "/", "~")):
        hub = f"; if it is on the Hugging Face Hub: hf download --repo-type dataset {source} --local-dir FOLDER"
    raise ValueError(f"there is no file or folder {source}{hub}")


def _folder(source: str, options: SourceOptions, leave_out: str | None) -> Listing:
    if is_saved(source):
        return open_saved(source, options)
    if options.captions is None and options.template is None and options.classes is None:
        parquet, images, shards = _contents(source, leave_out)
        if parquet and not images:
            return open_parquet(source, options)
        if shards and not images:
            raise ValueError(
                f"{source} holds tar files: WebDataset shards need no packing (silc train 'data.shards=[{source}]')"
            )
    return open_folder(source, options, leave_out)


def _contents(source: str, leave_out: str | None) -> tuple[bool, bool, bool]:
    """Whether there are Parquet files, images, tar files; it looks no further when it has seen an image."""
    parquet = shards = False
    for folder in walk(source, leave_out):
        parquet |= any(name.endswith(".parquet") for name in folder.files)
        shards |= any(name.endswith(".tar") for name in folder.files)
        if any(map(is_image, folder.files)):
            return parquet, True, shards
    return parquet, False, shards
