"""The fixture of conftest.py that imports what not every machine with a GPU has."""

import json

import pytest
import torch


def test_a_missing_package_fails_a_test_and_skips_it_on_a_gpu_alone(needs):
    assert needs("json") is json
    with pytest.raises(pytest.skip.Exception if torch.cuda.is_available() else ModuleNotFoundError):
        needs("no_package_of_this_name")
