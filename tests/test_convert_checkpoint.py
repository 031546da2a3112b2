"""Every table both ways, bit for bit, and everything that is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM

import models
from common.errors import UserError
from convert_checkpoint import main
from models.convert import SOURCES, CheckpointError, to_ours, to_theirs
from models.convert.engine import make_config

PUBLISHED = pytest.mark.parametrize("name", ["gau_alpha", "flash_quad", "flash"])


@pytest.fixture
def lucidrains(parity):
    """The state dict of a FLASHTransformer whose weights are those of the FLASH fixture."""

    def make(tied=True):
        _, state, cases = parity("flash")
        result = {
            "token_emb.weight": state["flash.embeddings.word_embeddings.weight"],
            "abs_pos_emb.scale": state["flash.embeddings.scale"],
            "abs_pos_emb.inv_freq": 1.0 / (10000 ** (torch.arange(0, 32, 2).float() / 32)),
            "to_logits.0.weight": state["cls.predictions.LayerNorm.weight"],
            "to_logits.0.bias": state["cls.predictions.LayerNorm.bias"],
            "to_logits.1.weight": state["cls.predictions.decoder.weight"] + (0 if tied else 1),
            "to_logits.1.bias": state["cls.predictions.decoder.bias"],
        }
        offset_scale = {
            "qk_offset_scale.weight": "qk_offset_scale.gamma",
            "qk_offset_scale.bias": "qk_offset_scale.beta",
        }
        for name, tensor in state.items():
            if name.startswith("flash.encoder."):
                _, _, layer, i, rest = name.split(".", 4)
                result[f"{layer}.{i}.{offset_scale.get(rest, rest)}"] = tensor
        return result, {case["name"]: case for case in cases}

    return make


def assert_equal(actual, expected):
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype
        assert torch.equal(actual[name], tensor), name


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


@pytest.mark.parametrize("case", ["causal", "shift_tokens", "causal_shift_tokens", "laplace_attn_fn"])
def test_lucidrains_weights_give_lucidrains_logits(lucidrains, tmp_path, case):
    state, cases = lucidrains()
    expected = cases[f"lucidrains_{case}"]
    torch.save(state, tmp_path / "flash.pt")
    fields = {"group_size": 16, "shift_tokens": False} | expected["config_overrides"]
    main(["--config", json.dumps(fields), str(tmp_path / "flash.pt"), str(tmp_path / "ours")])
    model = models.FLASHForMaskedLM.from_pretrained(tmp_path / "ours")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    with torch.no_grad():
        logits = model(expected["input_ids"], attention_mask=expected["attention_mask"]).logits
    torch.testing.assert_close(logits, expected["logits"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("tied", [True, False])
def test_lucidrains_converts_both_ways_bit_for_bit(lucidrains, tmp_path, tied):
    state, _ = lucidrains(tied)
    torch.save(state, tmp_path / "flash.pt")
    (tmp_path / "fields.json").write_text('{"group_size": 16}', encoding="utf-8")
    main(["--config", str(tmp_path / "fields.json"), str(tmp_path / "flash.pt"), str(tmp_path / "ours")])
    model = models.FLASHForMaskedLM.from_pretrained(tmp_path / "ours")
    assert model.config.tie_word_embeddings is tied
    assert model.config.shift_tokens  # FLASHTransformer's default
    assert torch.equal(model.get_output_embeddings().weight, state["to_logits.1.weight"])
    main(["--reverse", "--source", "lucidrains_flash", str(tmp_path / "ours"), str(tmp_path / "back.pt")])
    assert_equal(torch.load(tmp_path / "back.pt", weights_only=True), state)


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
