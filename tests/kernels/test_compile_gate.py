"""Every kernel and shipped tile compiles for every architecture, without spills and within its shared memory."""

import csv

import pytest

from silc_kernels.triton_backend import gate

CANDIDATES = list(gate.candidates())


@pytest.mark.parametrize("candidate", CANDIDATES, ids=lambda candidate: candidate.name)
def test_compiles_within_the_limits_of_each_chip(candidate):
    wrong = []
    for architecture in candidate.architectures:
        wrong += gate.faults(candidate, gate.build(candidate, architecture))
    assert not wrong, "\n".join(wrong)


def test_names_are_unique_and_the_committed_table_holds_them_all():
    names = [(candidate.name, str(sm)) for candidate in CANDIDATES for sm in candidate.architectures]
    assert len(set(names)) == len(names)
    with gate.TABLE.open() as file:
        written = [(row["name"], row["architecture"]) for row in csv.DictReader(file)]
    assert written == names, "run: python -m silc_kernels.triton_backend.gate --write"
