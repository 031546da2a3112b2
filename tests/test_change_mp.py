"""Any number of parts to any other, bit for bit, and everything that is refused."""

import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch

from change_mp import main
from common.errors import UserError
from models.convert import thudm, transformer_xl
from tests.checkpoints import assert_equal

EXTRAS = {
    "iteration": 10,
    "global_steps": 7,
    "mp_world_size": 1,
    "optimizer": {"step": 3},
    "csr_tensor_module_names": [],
}


def read(folder, rank=0):
    return thudm.read_file(folder / thudm.SHARD.format(rank), mmap=False)


@pytest.fixture
def folder(xl_folder):
    return xl_folder(**EXTRAS)


def reshard(folder, parts, *options):
    output = folder.parent / f"out{len(list(folder.parent.iterdir()))}"
    main([str(folder), str(parts), "--output", str(output), *options])
    return output


def test_1_to_2_to_4_to_1_and_4_to_2_are_bit_for_bit(folder, xl_state):
    parts = {1: folder}
    for old, new in pairwise((1, 2, 4)):
        parts[new] = reshard(parts[old], new)
    assert_equal(read(reshard(parts[4], 1))["module"], xl_state())
    direct = reshard(parts[1], 4)
    halves = reshard(parts[4], 2)
    for rank in range(4):
        assert_equal(read(direct, rank)["module"], read(parts[4], rank)["module"])
    for rank in range(2):
        assert_equal(read(halves, rank)["module"], read(parts[2], rank)["module"])


def test_parts_that_do_not_divide_each_other(xl_folder, xl_state):
    state = xl_state()
    wide = {
        name: x.repeat_interleave(3, 0) if name.endswith("_bias") and x.dim() == 2 else x for name, x in state.items()
    }
    wide["word_embeddings.weight"] = state["word_embeddings.weight"][:60]
    # 12 heads, of which only u and v know: 2 parts and 3 parts both divide everything else too.
    sizes = {name: x for name, x in wide.items() if "layers" not in name}
    folder = xl_folder(sizes)
    assert_equal(read(reshard(reshard(reshard(folder, 2), 3), 1))["module"], sizes)


def test_each_rank_has_its_share_alone(folder, xl_state):
    state, halves = xl_state(), reshard(folder, 2)
    for rank in range(2):
        module = read(halves, rank)["module"]
        fused = state["transformer.layers.1.attention.query_key_value.weight"].chunk(3)
        expected = torch.cat([part[16 * rank : 16 * rank + 16] for part in fused])
        assert torch.equal(module["transformer.layers.1.attention.query_key_value.weight"], expected)
        columns = state["transformer.layers.0.mlp.dense_4h_to_h.weight"][:, 64 * rank : 64 * rank + 64]
        assert torch.equal(module["transformer.layers.0.mlp.dense_4h_to_h.weight"], columns)
        assert all(x.is_contiguous() and x.untyped_storage().nbytes() == x.nbytes for x in module.values())
    sizes = [(halves / thudm.SHARD.format(rank)).stat().st_size for rank in range(2)]
    assert max(sizes) < 0.65 * (folder / thudm.SHARD.format(0)).stat().st_size


def test_other_keys_stay_or_lose_their_value_as_in_the_original_tool(folder):
    content = read(reshard(folder, 2))
    assert {key: value for key, value in content.items() if key != "module"} == {
        "iteration": 10,
        "global_steps": 7,
        "mp_world_size": 2,
        "optimizer": None,
        "csr_tensor_module_names": None,
    }


def test_random_states_and_the_tracker_are_kept(xl_folder):
    state = np.random.RandomState(0).get_state()
    folder = xl_folder(np_rng_state=state, torch_rng_state=torch.get_rng_state(), random_rng_state=(3, (1, 2), None))
    (folder / "300").mkdir()
    (folder / thudm.SHARD.format(0)).rename(folder / "300" / thudm.SHARD.format(0))
    (folder / thudm.TRACKER).write_text("300")
    main([str(folder), "2"])
    output = folder.with_name("txl_MP2")
    assert (output / thudm.TRACKER).read_text() == "300\n"
    content = read(output / "300", 1)
    assert (content["np_rng_state"][1] == state[1]).all()
    assert content["random_rng_state"] == (3, (1, 2), None)
    assert thudm.find_shards(output) == [output / "300" / thudm.SHARD.format(rank) for rank in range(2)]


def test_the_vocabulary_is_padded_and_cut_again(folder, xl_state):
    padded = reshard(folder, 2, "--vocab_size", "100")
    rows = torch.cat([read(padded, rank)["module"]["word_embeddings.weight"] for rank in range(2)])
    assert rows.shape == (100, 32)
    assert not rows[64:].any()
    assert_equal(read(reshard(padded, 1, "--vocab_size", "64"))["module"], xl_state())


def test_all_parts_together_give_the_logits_of_one(folder, xl_model, xl_tensors):
    ids = xl_tensors["input_ids_all/0"]
    expected = xl_model()(ids).logits
    for parts in (2, 4):
        model = transformer_xl.load(reshard(folder, parts), {"eos_token_id": 63})
        assert torch.equal(model(ids).logits, expected)


def test_files_from_before_torch_1_6_are_resharded_too(folder, xl_state):
    halves = reshard(folder, 2)
    for rank in range(2):
        content = read(halves, rank)
        torch.save(content, halves / thudm.SHARD.format(rank), _use_new_zipfile_serialization=False)
    assert_equal(read(reshard(halves, 1))["module"], xl_state())


def test_it_neither_overwrites_nor_leaves_anything_behind(folder, monkeypatch):
    halves = reshard(folder, 2)
    before = sorted(path.name for path in folder.parent.iterdir())
    with pytest.raises(UserError, match="must not exist yet"):
        main([str(folder), "2", "--output", str(halves)])
    saved = torch.save

    def full(content, path):
        if path.name == thudm.SHARD.format(1):
            raise OSError("no space left on device")
        saved(content, path)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space"):
        main([str(folder), "2", "--output", str(folder.parent / "new")])
    assert sorted(path.name for path in folder.parent.iterdir()) == before


def test_replicated_tensors_must_be_equal(folder):
    halves = reshard(folder, 2)
    content = read(halves, 1)
    content["module"]["transformer.layers.1.mlp.dense_4h_to_h.bias"][3] += 1
    torch.save(content, halves / thudm.SHARD.format(1))
    with pytest.raises(
        UserError, match=r"mp_rank_01.* must have the same transformer\.layers\.1\.mlp\.dense_4h_to_h\.bias"
    ):
        reshard(halves, 1)


class Malicious:
    def __reduce__(self):
        return print, ("this file ran code",)


def damage(halves, fault):
    first, second = (halves / thudm.SHARD.format(rank) for rank in range(2))
    if fault == "missing":
        first.unlink()
    elif fault == "count":
        second.unlink()
    elif fault == "truncated":
        second.write_bytes(second.read_bytes()[:-2000])
    elif fault == "empty":
        second.write_bytes(b"")
    elif fault == "names":
        content = read(halves, 1)
        content["module"].pop("transformer.r_w_bias")
        torch.save(content, second)
    elif fault == "foreign":
        for file in (first, second):
            torch.save({"module": {"bert.weight": torch.ones(3)}, "mp_world_size": 2}, file)
    elif fault == "no tensors":
        torch.save({"module": {"word_embeddings.weight": 3}}, second)
    elif fault == "list":
        torch.save([1, 2], second)
    elif fault == "code":
        torch.save(read(halves, 1) | {"rng_tracker_states": Malicious()}, second)
    elif fault == "plain pickle":
        second.write_bytes(pickle.dumps(Malicious()))
    elif fault == "tracker":
        (halves / thudm.TRACKER).write_text("900")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", r"got no mp_rank_00_model_states\.pt; copy it there"),
        ("count", "must be one of 2 model-parallel parts .* got 1 in all"),
        ("truncated", r"mp_rank_01_model_states\.pt must be a whole PyTorch checkpoint"),
        ("empty", r"mp_rank_01_model_states\.pt must be a whole PyTorch checkpoint"),
        ("names", r"got transformer\.r_w_bias in one of them only"),
        ("foreign", r"must hold the tensors of a Chinese Transformer-XL, got bert\.weight"),
        ("no tensors", "must hold a dict of tensors"),
        ("list", "must hold a dict of tensors, got list"),
        ("code", r"mp_rank_01.*got the Python object \S*print, which could run code"),
        ("plain pickle", r"mp_rank_01"),
        ("tracker", "must name a folder beside it, got 900"),
    ],
)
def test_broken_checkpoints_are_refused_by_file(folder, capsys, fault, message):
    halves = reshard(folder, 2)
    damage(halves, fault)
    with pytest.raises(UserError, match=message):
        reshard(halves, 1)
    assert "ran code" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["3"], "parts must divide the heads 4"),
        (["0"], "parts must divide the heads 4"),
        (["2", "--vocab_size", "63"], "--vocab_size must divide into 2 parts, got 63; 256 is the next"),
    ],
)
def test_numbers_that_do_not_divide_are_refused(folder, arguments, message):
    with pytest.raises(UserError, match=message):
        reshard(folder, *arguments)


def test_a_folder_of_another_kind_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match=r"must hold mp_rank_00_model_states\.pt"):
            main([str(folder), "2"])
