"""From what people have to WebDataset shards: folders, tables, caption files and Hugging Face data sets.

``find`` says what a source is; ``folder``, ``delimited``, ``json_files``, ``parquet`` and ``hugging_face`` read the
kinds, row by row; ``spool`` keeps rows on disk, ``plan`` cuts them into units, ``work`` turns one unit into tars, and
``pack`` does all units, goes on after an interruption, and numbers the shards.
"""
