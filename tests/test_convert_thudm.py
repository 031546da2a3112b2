"""convert_checkpoint.py on Chinese Transformer-XL: both ways bit for bit, in the memory of a file, safe, strict."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import change_mp
from common.errors import UserError
from convert_checkpoint import main
from models.convert import thudm, transformer_xl

END = ["--config", '{"eos_token_id": 63}']


def read(folder, rank=0):
    return torch.load(folder / thudm.SHARD.format(rank), weights_only=True)["module"]


def assert_equal(actual, expected):
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype
        assert torch.equal(actual[name], tensor), name


def there_and_back(folder, tmp_path, *options):
    main([str(folder), str(tmp_path / "ours"), *options])
    main(["--reverse", str(tmp_path / "ours"), str(tmp_path / "theirs")])
    return tmp_path / "ours", read(tmp_path / "theirs")


@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_there_and_back_is_bit_for_bit(xl_folder, xl_state, xl_tensors, tmp_path, parts, dtype):
    state = {name: tensor.to(dtype) for name, tensor in xl_state().items()}
    folder = xl_folder(state)
    if parts > 1:
        change_mp.main([str(folder), str(parts)])
        folder = folder.with_name(f"txl_MP{parts}")
    ours, back = there_and_back(folder, tmp_path, *END)
    assert_equal(back, state)
    assert back["transformer.position_embeddings.inv_freq"].dtype == dtype
    config = json.loads((ours / "config.json").read_text(encoding="utf-8"))
    assert config["positions_dtype"] == str(dtype).removeprefix("torch.")
    assert config["dtype"] == str(dtype).removeprefix("torch.")
    model = AutoModelForCausalLM.from_pretrained(ours, dtype=torch.float32, attention_window=6)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    expected = xl_tensors["logits_all/0"]
    torch.testing.assert_close(model(xl_tensors["input_ids_all/0"]).logits, expected, atol=tolerance, rtol=0)


def test_the_absolute_variant_goes_there_and_back(xl_folder, xl_state, tmp_path):
    state = xl_state("abs_variant/state_dict/")
    with pytest.raises(UserError, match="config field num_attention_heads must be given"):
        main([str(xl_folder(state)), str(tmp_path / "ours"), *END])
    ours, back = there_and_back(
        xl_folder(state), tmp_path, "--config", '{"eos_token_id": 63, "num_attention_heads": 4}'
    )
    assert_equal(back, state)
    config = json.loads((ours / "config.json").read_text(encoding="utf-8"))
    assert config["relative_encoding"] is False
    assert config["max_position_embeddings"] == 32


def test_every_way_to_lay_it_out_is_read(xl_folder, xl_state, tmp_path):
    """A file, a bare state dict, names with one or two prefixes, a tracker that says release."""
    state = xl_state()
    folder = xl_folder()
    torch.save({f"module.module.{name}": tensor for name, tensor in state.items()}, tmp_path / "bare.pt")
    main(["--source", "thudm", str(tmp_path / "bare.pt"), str(tmp_path / "a"), *END])
    main([str(folder / thudm.SHARD.format(0)), str(tmp_path / "b"), *END])
    (folder / "release").mkdir()
    (folder / thudm.SHARD.format(0)).rename(folder / "release" / thudm.SHARD.format(0))
    (folder / thudm.TRACKER).write_text("release")
    main([str(folder), str(tmp_path / "c"), *END])
    for name in "abc":
        config = transformer_xl.TransformerXLConfig.from_pretrained(tmp_path / name)
        assert_equal(transformer_xl.from_folder(tmp_path / name, config), state)


def test_files_from_before_torch_1_6_leave_no_copy_behind(xl_folder, xl_state, tmp_path):
    folder = xl_folder()
    torch.save({"module": xl_state()}, folder / thudm.SHARD.format(0), _use_new_zipfile_serialization=False)
    ours, back = there_and_back(folder, tmp_path, *END)
    assert_equal(back, xl_state())
    assert {file.name for file in ours.iterdir()} == {"config.json", "generation_config.json", "model.safetensors"}


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


def test_the_tokenizer_comes_along_and_undecodable_ids_are_never_drawn(
    xl_folder, xl_state, small_cog_file, small_cog, tmp_path
):
    tokenizer, state = small_cog(), xl_state()
    padded = torch.zeros(len(tokenizer) + 20, 32)
    padded[-20:] = 5 * torch.randn(20, 32, generator=torch.Generator().manual_seed(0))
    folder = xl_folder(state | {"word_embeddings.weight": padded})
    main([str(folder), str(tmp_path / "ours"), "--tokenizer", str(small_cog_file)])
    loaded = AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert loaded("问题").input_ids == tokenizer("问题").input_ids
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert model.config.eos_token_id == tokenizer.eos_token_id
    defaults = model.generation_config
    assert (defaults.temperature, defaults.top_k, defaults.top_p, defaults.max_length) == (0.9, 0, 1.0, 1024)
    ids = torch.tensor([tokenizer("问题").input_ids])
    for do_sample in (False, True):
        ids_after = model.generate(ids, do_sample=do_sample, max_new_tokens=40, num_return_sequences=1)
        assert ids_after.max() < len(tokenizer)
    assert model(ids).logits.argmax(-1).max() >= len(tokenizer)  # without suppression they would be


def test_loading_into_memory_writes_nothing(xl_folder, xl_model, xl_tensors):
    folder = xl_folder()
    before = sorted(path.name for path in folder.parent.rglob("*"))
    model = transformer_xl.load(folder, {"eos_token_id": 63}, dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert sorted(path.name for path in folder.parent.rglob("*")) == before
    ids = xl_tensors["input_ids_all/0"]
    assert (model(ids).logits - xl_model()(ids).logits).abs().max() < 0.3


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_that_would_run_code_is_refused(xl_folder, xl_state, tmp_path):
    for number, content in enumerate(
        ({"module": xl_state(), "x": Malicious(tmp_path / "ran")}, Malicious(tmp_path / "ran"))
    ):
        for zipped in (True, False):
            file = tmp_path / f"mp_rank_0{number}_model_states.pt"
            torch.save(content, file, _use_new_zipfile_serialization=zipped)
            with pytest.raises(
                UserError, match=rf"{file.name} must hold tensors and plain values only, got the Python object"
            ):
                main([str(file), str(tmp_path / "ours"), *END])
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "ours").exists()


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


@pytest.mark.needs_shared
@pytest.mark.parametrize("name", ["transformer_xl_mp1", "transformer_xl_mp2"])
def test_the_original_tools_own_files(tmp_path, name, xl_state, shared):
    files = shared / "parity"
    _, back = there_and_back(files / name, tmp_path, *END)
    assert_equal(back, xl_state())
    if name.endswith("1"):
        change_mp.main([str(files / name), "2", "--output", str(tmp_path / "halves")])
        for rank in range(2):
            assert_equal(read(tmp_path / "halves", rank), read(files / "transformer_xl_mp2", rank))
