"""Networks by their constructor's arguments."""

import pytest
from diffusers import AutoencoderKL

from e2ed2.models.new import new_network
from e2ed2.system.errors import UserError

SMALL = {"block_out_channels": [8], "norm_num_groups": 4}


def test_arguments_reach_the_network():
    assert new_network(AutoencoderKL, SMALL).config.block_out_channels == [8]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"block_out_chanels": [8]}, "model.architecture.block_out_chanels: unknown field; AutoencoderKL has"),
        ({**SMALL, "norm_num_groups": 3}, "model.architecture: AutoencoderKL refuses it .*divisible"),
    ],
)
def test_what_the_network_does_not_take_is_one_line(arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        new_network(AutoencoderKL, arguments)
    assert "\n" not in str(caught.value)
