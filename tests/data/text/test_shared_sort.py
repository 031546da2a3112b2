"""trans_to_json.py in steps that runs share: the bytes of a single run for any number of shares, damage told."""

import fcntl
import shutil

import pytest

from common.errors import UserError
from data import trans_to_json
from tests.data.json_corpora import make_corpus, run
from tests.data.preparing import contents, written

ORDERS = {
    "shuffle": [],
    "dedup": ["--dedup"],
    "order": ["--no-shuffle"],
    "dedup in order": ["--dedup", "--no-shuffle"],
}


def in_steps(shares, *flags, **options):
    steps = ["read", "reorder", "sort"] if {"--dedup", "--no-shuffle"} <= {*flags} else ["read", "sort"]
    for step in steps:
        for index in reversed(range(shares)):
            run(*flags, **options, step=step, shard_index=index, num_shards=shares)
    run(*flags, **options, step="join")


@pytest.fixture
def texts(tmp_path, small_pieces):
    documents = make_corpus(tmp_path / "in", 120)
    return {"input_path": tmp_path / "in", "exclude": written(tmp_path / "dev.tsv", f"1\t{documents[7]}\n")}


@pytest.mark.parametrize("shares", [1, 2, 5])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("parts", [[], ["--no-merge"]])
def test_steps_equal_a_single_run(texts, tmp_path, capsys, shares, order, parts):
    flags = ORDERS[order] + parts
    run(*flags, **texts, output_path=tmp_path / "whole.jsonl")
    summary = capsys.readouterr().out.replace("whole", "steps")
    in_steps(shares, *flags, **texts, output_path=tmp_path / "steps.jsonl")
    assert capsys.readouterr().out.endswith(summary)
    if parts:
        assert contents(tmp_path / "steps.jsonl") == contents(tmp_path / "whole.jsonl")
        assert len(contents(tmp_path / "whole.jsonl")) > 3
    else:
        assert (tmp_path / "steps.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dev.tsv", "in", "steps.jsonl", "whole.jsonl"]


@pytest.fixture
def one(texts, tmp_path):
    """(step, index, *flags): one of the two shares of a step, or the join, into `out.jsonl`."""

    def step(name, index=None, *flags, **options):
        if index is not None:
            options = {"shard_index": index, "num_shards": 2} | options
        run("--dedup", *flags, **texts | {"output_path": tmp_path / "out.jsonl", "step": name} | options)

    return step


def shares_of(one, *steps):
    for step in steps:
        for index in range(2):
            one(step, index)


@pytest.mark.parametrize("parts", [[], ["--no-merge"]])
def test_what_is_done_is_not_done_again(one, tmp_path, monkeypatch, parts):
    one("read", 0, *parts)
    one("read", 1, *parts)
    before = contents(tmp_path)
    one("read", 1, *parts)
    assert contents(tmp_path) == before
    one("sort", 0, *parts)
    one("sort", 1, *parts)
    with monkeypatch.context() as patch:  # killed when the output stands and the steps do as well
        patch.setattr("data.trans_to_json.shutil.rmtree", lambda folder, **_: None)
        one("join", None, *parts)
    first = contents(tmp_path / "out.jsonl") if parts else (tmp_path / "out.jsonl").read_bytes()
    one("join", None, *parts)
    assert first == (contents(tmp_path / "out.jsonl") if parts else (tmp_path / "out.jsonl").read_bytes())


@pytest.mark.parametrize(
    ("index", "options", "message"),
    [
        (1, {"num_shards": 3}, "--num_shards must be the same as when .* was begun, 2, got 3"),
        (1, {"seed": 7}, "--seed must be the same as when .* was begun, 1234, got 7"),
        (1, {"on_error": "skip"}, "--on_error must be the same"),
        (2, {}, r"--shard_index must lie in 0\.\.1"),
        (None, {}, "--step read is shared; add --shard_index and --num_shards"),
    ],
)
def test_a_share_that_does_not_fit_is_refused(one, tmp_path, index, options, message):
    one("read", 0)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=message):
        one("read", index, **options)
    assert contents(tmp_path) == before


def test_a_share_without_its_step_is_refused(texts, tmp_path):
    with pytest.raises(UserError, match="--shard_index needs the step that it is a share of"):
        run(**texts, output_path=tmp_path / "out", shard_index=0, num_shards=2)


def test_steps_out_of_turn_are_refused(one, tmp_path):
    with pytest.raises(UserError, match="--step join needs what the other steps write, got none"):
        one("join")
    one("read", 1)
    message = "--step read must be done by all 2 shares first, got number 0 missing in .*; run .* --shard_index 0"
    with pytest.raises(UserError, match=message):
        one("sort", 0)
    one("read", 0)
    one("sort", 0)
    with pytest.raises(UserError, match="--step sort must be done by all 2 shares first, got number 1 missing"):
        one("join")
    assert not (tmp_path / "out.jsonl").exists()


def lost(path):
    path.unlink()


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-9])


def changed(path):
    path.write_bytes(path.read_bytes().replace("文章".encode(), "章文".encode()))


@pytest.mark.parametrize("damage", [lost, cut_short, changed])
@pytest.mark.parametrize(("step", "name", "following"), [("read", "buckets", "sort"), ("sort", "all", "join")])
def test_damage_is_told_by_its_share_and_mended_by_it(one, tmp_path, damage, step, name, following):
    steps = ["read", "sort", "join"]
    shares_of(one, *steps[: steps.index(following)])
    share = tmp_path / "out.jsonl.shares" / f"{step}-00001"
    damage(share / name)
    with pytest.raises(
        UserError, match=f"{step}-00001/{name} must hold what was written.*--step {step} --shard_index 1"
    ):
        for index in range(2) if following != "join" else [None]:
            one(following, index)
    assert not (tmp_path / "out.jsonl").exists()
    shutil.rmtree(share)
    one(step, 1)
    for left in steps[steps.index(following) :]:
        for index in range(2) if left != "join" else [None]:
            one(left, index)
    assert (tmp_path / "out.jsonl").read_bytes()


def test_two_joins_at_once_are_refused(one, tmp_path, monkeypatch):
    shares_of(one, "read", "sort")
    monkeypatch.setattr(trans_to_json, "LOCK_SECONDS", 0.1)
    with (tmp_path / "out.jsonl.shares" / ".lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="--output_path must be free"):
            one("join")


def test_inputs_that_change_after_the_first_share_are_told(one, texts):
    one("read", 0)
    with (texts["input_path"] / "b.txt").open("a") as file:
        file.write("more")
    with pytest.raises(UserError, match=r"b\.txt: must stay as it is while it is read"):
        one("read", 1)


def test_an_output_among_the_inputs_is_not_read(texts, tmp_path):
    run(**texts, output_path=tmp_path / "whole.jsonl")
    in_steps(2, **texts, output_path=texts["input_path"] / "steps.jsonl")
    assert (texts["input_path"] / "steps.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_nothing_left_is_told_and_nothing_written(one, tmp_path):
    for step in ("read", "sort"):
        for index in range(2):
            one(step, index, min_doc_length=10_000)
    with pytest.raises(UserError, match="--input_path must hold a document that is not left out"):
        one("join", min_doc_length=10_000)
    assert not (tmp_path / "out.jsonl").exists()
