"""Every table both ways, bit for bit, and everything that is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM

import models
from common.errors import UserError
from convert_checkpoint import main
from models.convert import SOURCES
from tests.checkpoints import assert_equal

PUBLISHED = pytest.mark.parametrize("name", ["gau_alpha", "flash_quad", "flash"])


@PUBLISHED
def test_published_folders_convert_both_ways_bit_for_bit(published, parity, tmp_path, name, capsys):
    folder = published(name)
    original = torch.load(folder / "pytorch_model.bin", weights_only=True)
    main([str(folder), str(tmp_path / "ours")])
    assert "tensors" in capsys.readouterr().out
    assert (tmp_path / "ours" / "vocab.txt").read_bytes() == (folder / "vocab.txt").read_bytes()
    assert not (tmp_path / "ours" / "pytorch_model.bin").exists()
    case = parity(name)[2][0]
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "ours")
    with torch.no_grad():
        logits = model(case["input_ids"], attention_mask=case["attention_mask"]).logits
    torch.testing.assert_close(logits, case["logits"], atol=1e-4, rtol=0)
    main(["--reverse", str(tmp_path / "ours"), str(tmp_path / "theirs")])
    back = torch.load(tmp_path / "theirs" / "pytorch_model.bin", weights_only=True)
    assert_equal(back, original)
    copy, tensor = SOURCES[name].ties[0]
    assert back[copy].data_ptr() == back[tensor].data_ptr()
    again = json.loads((tmp_path / "theirs" / "config.json").read_text(encoding="utf-8"))
    assert again == json.loads((folder / "config.json").read_text(encoding="utf-8"))


@PUBLISHED
def test_a_folder_saved_by_us_goes_back_with_every_published_name(published, tmp_path, name):
    folder = published(name)
    AutoModelForMaskedLM.from_pretrained(folder).save_pretrained(tmp_path / "saved")
    main(["--reverse", str(tmp_path / "saved"), str(tmp_path / "theirs")])
    back = torch.load(tmp_path / "theirs" / "pytorch_model.bin", weights_only=True)
    original = torch.load(folder / "pytorch_model.bin", weights_only=True)
    dead = {key for key in original if key.endswith((".a", ".b"))}
    assert back.keys() == original.keys()
    assert_equal({key: back[key] for key in back.keys() - dead}, {key: original[key] for key in back.keys() - dead})


@pytest.mark.parametrize("files", [["bert_model.ckpt.index", "bert_model.ckpt.data-00000-of-00001"], ["model.ckpt"]])
def test_tensorflow_checkpoints_are_out_of_scope_and_the_error_says_so(tmp_path, files):
    folder = tmp_path / "tensorflow"
    folder.mkdir()
    for name in files:
        (folder / name).write_bytes(b"\0")
    for source in (folder, folder / files[0]):
        with pytest.raises(UserError, match="TensorFlow checkpoint, which is out of scope"):
            main([str(source), str(tmp_path / "ours")])


def test_wrong_arguments_are_named(published, tmp_path):
    folder = published("flash")
    (tmp_path / "taken").mkdir()
    (tmp_path / "empty").mkdir()
    cases = [
        ([str(folder), str(tmp_path / "taken")], "must not exist yet"),
        ([str(tmp_path / "empty"), str(tmp_path / "x")], "must hold one of model.safetensors"),
        (["--source", "gau_alpha", str(folder), str(tmp_path / "x")], "must have model_type gau_alpha"),
        (["--config", "{oops", str(folder), str(tmp_path / "x")], "--config {oops must be JSON"),
        ([str(tmp_path / "nowhere"), str(tmp_path / "x")], "must be a folder or a reachable hub name"),
    ]
    for arguments, message in cases:
        with pytest.raises(UserError, match=message):
            main(arguments)
    assert not (tmp_path / "x").exists()


def test_a_hub_name_is_downloaded(published, tmp_path, monkeypatch):
    import huggingface_hub

    folder = published("flash")
    monkeypatch.setattr("convert_checkpoint.resolve_pretrained", lambda name, flag: name)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name: {"junnyu/flash": str(folder)}[name])
    main(["junnyu/flash", str(tmp_path / "ours")])
    models.FLASHForMaskedLM.from_pretrained(tmp_path / "ours")


def test_a_damaged_file_is_named(tmp_path):
    for name in ("flash.pt", "flash.safetensors"):
        (tmp_path / name).write_bytes(b"not tensors")
        with pytest.raises(UserError, match=f"{name} must be a state dict of tensors"):
            main([str(tmp_path / name), str(tmp_path / "ours")])


def test_a_pickle_with_code_is_never_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("code ran",))

    torch.save({"token_emb.weight": Bomb()}, tmp_path / "bomb.pt")
    with pytest.raises(UserError, match="must be a state dict of tensors"):
        main([str(tmp_path / "bomb.pt"), str(tmp_path / "ours")])


def test_the_written_file_is_plain_safetensors(published, tmp_path):
    main([str(published("flash")), str(tmp_path / "ours")])
    names = load_file(tmp_path / "ours" / "model.safetensors").keys()
    assert not [name for name in names if "freqs" in name or name == "cls.predictions.decoder.weight"]
