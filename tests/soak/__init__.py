"""Long checks of whole promises, run by hand: `make soak`, or one of them as `python -m tests.soak.NAME`.

Each prints a table as it goes and ends with status 1 if a promise was broken.
"""
