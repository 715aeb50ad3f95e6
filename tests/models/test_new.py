"""Networks by their constructor's arguments."""

import pytest
from diffusers import AutoencoderKL, PixArtTransformer2DModel

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
        ({**SMALL, "act_fn": "sillu"}, "model.architecture: AutoencoderKL refuses it .*sillu"),
        ({**SMALL, "norm_num_groups": 0}, "model.architecture: AutoencoderKL refuses it"),
        ({**SMALL, "latent_channels": "four"}, "model.architecture: AutoencoderKL refuses it"),
        ({**SMALL, "layers_per_block": 10**9}, "refuses it .it has more than 10,000 tensors"),
        ({**SMALL, "block_out_channels": [2**20]}, "refuses it .its weights take [0-9,]+ GiB, this machine has"),
    ],
)
def test_what_the_network_does_not_take_is_one_line(arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        new_network(AutoencoderKL, arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("activation", ["foo", 3, None, ["silu"]])
def test_an_activation_that_a_transformer_does_not_have_is_one_line(activation):
    with pytest.raises(UserError, match="model.architecture: PixArtTransformer2DModel refuses it"):
        new_network(PixArtTransformer2DModel, {"num_layers": 1, "activation_fn": activation})
