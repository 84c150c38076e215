"""Official presets still compute what they did when they equalled the authors' code."""

import numpy as np
import pytest
from parity_vector import PATH, RATES, made

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("name", list(RATES))
def test_the_official_preset_makes_the_pictures_and_bits_of_the_vector(name):
    with np.load(PATH) as arrays:
        expected = {key: arrays[key] for key in arrays.files if key.split("/")[0] == name}
    found = made(name)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        tolerance = {"rtol": 0, "atol": 1e-4} if key.endswith("frame") else {"rtol": 1e-3}
        np.testing.assert_allclose(found[key], value, err_msg=key, **tolerance)
