"""Options of ELECTRA pretraining and the published sizes."""

from dataclasses import asdict

import pytest

import models
from models.electra.config import SIZES, ElectraJointConfig, ElectraOptions, electra_configs, generator_config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampling": "gumbel"}, "sampling must be one of fp32_gumbel, fp16_gumbel, multinomial, got 'gumbel'"),
        ({"init": "xavier"}, "init must be one of hf, google, got 'xavier'"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"initial_temperature": -1.0}, "initial_temperature must be positive, got -1.0"),
        ({"initial_temperature": 2.0, "uniform_generator": True}, "initial_temperature needs a generator and a discr"),
        ({"initial_temperature": 2.0, "electra_objective": False}, "initial_temperature needs a generator and a dis"),
        ({"gen_smooth_label": 1.0}, "gen_smooth_label must be in"),
        ({"disc_smooth_label": -0.1}, "disc_smooth_label must be in"),
        ({"disc_weight": -1.0}, "disc_weight must be at least 0, got -1.0"),
        ({"uniform_generator": True, "untied_generator": False}, "uniform_generator must stand"),
        ({"uniform_generator": True, "electra_objective": False}, "uniform_generator must stand"),
    ],
)
def test_unknown_option_values_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        ElectraOptions(**change)


def test_smoothing_of_true_is_a_tenth():
    options = ElectraOptions(gen_smooth_label=True, disc_smooth_label=False)
    assert (options.gen_smooth_label, options.disc_smooth_label) == (0.1, 0.0)
    assert ElectraJointConfig(options=asdict(options)).options["gen_smooth_label"] == 0.1


def test_every_size_shrinks_its_generator():
    widths = {size: electra_configs(size, 100)[0] for size in SIZES}
    sizes = {n: (c.hidden_size, c.num_attention_heads, c.intermediate_size) for n, c in widths.items()}
    assert sizes == {"small": (64, 1, 256), "base": (256, 4, 1024), "large": (256, 4, 1024)}
    assert generator_config(models.GAUAlphaConfig(), 4).num_hidden_layers == 6
