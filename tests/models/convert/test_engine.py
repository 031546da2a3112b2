"""Tables of names take exactly the tensors they name, both ways; copies and tables are what they stand for."""

import pytest
import torch

from common.errors import UserError
from convert_checkpoint import main
from models.convert import SOURCES, CheckpointError, to_ours, to_theirs
from models.convert.engine import make_config
from tests.checkpoints import assert_equal


@pytest.mark.parametrize("name", SOURCES)
def test_every_table_refuses_a_missing_an_unknown_and_a_mis_shaped_tensor(parity, lucidrains, name):
    if name == "lucidrains_flash":
        state, _ = lucidrains()
        fields = SOURCES[name].config_of(state) | {"group_size": 16}
    else:
        fields, state, _ = parity(name)
    config, source = make_config(fields), SOURCES[name]
    theirs = next(key for key in state if "layer" in key and key.endswith((".weight", ".gamma")))
    ours = to_ours(source, state, config)
    assert_equal(to_theirs(source, ours, config), state)
    faults = {
        "missing": {key: value for key, value in state.items() if key != theirs},
        "unexpected": state | {theirs.replace(".0.", ".7.", 1): state[theirs]},
        "not in the table": state | {"pooler.weight": torch.ones(1)},
        "shape": state | {theirs: torch.ones(3)},
    }
    for message, wrong in faults.items():
        with pytest.raises(CheckpointError, match=message):
            to_ours(source, wrong, config)
    with pytest.raises(CheckpointError, match="missing"):
        to_theirs(source, dict(list(ours.items())[1:]), config)
    with pytest.raises(CheckpointError, match="unexpected"):
        to_theirs(source, ours | {"pooler.weight": torch.ones(1)}, config)


@pytest.mark.parametrize(
    ("name", "key", "message"),
    [
        ("gau_alpha", "cls.predictions.decoder.weight", "differs from gau_alpha.embeddings"),
        ("flash_quad", "cls.predictions.decoder.bias", "differs from cls.predictions.bias"),
        ("flash_quad", "flash_quad.embeddings.scaledsin_embeddings", "differs from the table"),
        ("flash", "flash.encoder.layers.1.rotary_pos_emb.freqs", "differs from the table"),
    ],
)
def test_copies_and_tables_must_be_what_they_stand_for(published, tmp_path, capsys, name, key, message):
    folder = published(name, lambda state: state | {key: state[key] + 1})
    with pytest.raises(UserError, match=message):
        main([str(folder), str(tmp_path / "ours")])
    assert not (tmp_path / "ours").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
