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
from tests.checkpoints import END, assert_equal, read, there_and_back


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
