"""Chinese Transformer-XL: what our side of a conversion writes, loads, asks for and refuses."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from common.errors import UserError
from convert_checkpoint import main
from models.convert import transformer_xl
from tests.checkpoints import END, assert_equal, read, there_and_back


def test_another_dtype_may_be_asked_for(xl_folder, tmp_path):
    main([str(xl_folder()), str(tmp_path / "ours"), "--config", '{"eos_token_id": 63, "dtype": "bfloat16"}'])
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "ours").dtype == torch.bfloat16


def test_a_large_checkpoint_becomes_several_files(xl_folder, xl_state, tmp_path, monkeypatch):
    monkeypatch.setattr(transformer_xl, "FILE_BYTES", 20_000)
    ours, back = there_and_back(xl_folder(), tmp_path, *END)
    assert len(list(ours.glob("model-*-of-*.safetensors"))) > 3
    assert_equal(back, xl_state())
    assert AutoModelForCausalLM.from_pretrained(ours).config.vocab_size == 64


def test_what_we_save_goes_back_too(xl_model, xl_state, tmp_path):
    xl_model().save_pretrained(tmp_path / "saved")
    main(["--reverse", str(tmp_path / "saved"), str(tmp_path / "theirs")])
    assert_equal(read(tmp_path / "theirs"), xl_state())


def test_loading_into_memory_writes_nothing(xl_folder, xl_model, xl_tensors):
    folder = xl_folder()
    before = sorted(path.name for path in folder.parent.rglob("*"))
    model = transformer_xl.load(folder, {"eos_token_id": 63}, dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert sorted(path.name for path in folder.parent.rglob("*")) == before
    ids = xl_tensors["input_ids_all/0"]
    assert (model(ids).logits - xl_model()(ids).logits).abs().max() < 0.3


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("transformer.final_layernorm.bias", None, r"must hold model\.final_layernorm\.bias, got none"),
        ("word_embeddings.weight", None, r"must hold word_embeddings\.weight"),
        ("pooler", torch.ones(3), "must hold the tensors of a Chinese Transformer-XL, got pooler"),
        ("transformer.layers.1.mlp.dense_h_to_4h.bias", torch.ones(64), r"must have shape \(128,\)"),
        ("transformer.position_embeddings.inv_freq", torch.ones(16), "must be the powers of 1/10000"),
        ("word_embeddings.weight", torch.ones(50, 32), "more than 63 entries for its eos_token_id, got 50"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(xl_folder, xl_state, tmp_path, name, tensor, message):
    state = {key: value for key, value in (xl_state() | {name: tensor}).items() if value is not None}
    with pytest.raises(UserError, match=message):
        main([str(xl_folder(state)), str(tmp_path / "ours"), *END])
    assert not list(tmp_path.iterdir())


def test_what_the_tensors_do_not_show_is_asked_for(xl_folder, tmp_path, small_cog_file):
    with pytest.raises(UserError, match="config field eos_token_id must be given"):
        main([str(xl_folder()), str(tmp_path / "ours")])
    with pytest.raises(UserError, match="the vocabulary must have more than"):
        main([str(xl_folder()), str(tmp_path / "ours"), "--tokenizer", str(small_cog_file)])
    with pytest.raises(UserError, match=r"--tokenizer .* must be a sentencepiece model"):
        main([str(xl_folder()), str(tmp_path / "ours"), "--tokenizer", __file__])
    with pytest.raises(UserError, match=r"--tokenizer .* must be for source thudm"):
        main([str(tmp_path), str(tmp_path / "ours"), "--tokenizer", str(small_cog_file)])
