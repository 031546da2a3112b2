"""--push_to_hub and push_to_hub: what reaches the hub's client, whose requests are caught where it would send them."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi
from huggingface_hub.utils import filter_repo_objects

import models  # noqa: F401  registers the model types
from common.errors import ArgumentError, UserError
from tests.models.families import make
from training.pretrained import load_tokenizer

MODEL = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "README.md"}


@pytest.fixture
def hub(monkeypatch):
    """Calls of the client in their order, by repository: how it was made, and the contents of each commit."""
    hub = SimpleNamespace(repositories={}, commits={}, fault=None)

    def create_repo(self, repo_id, **options):
        hub.repositories[f"me/{repo_id}"] = options
        return SimpleNamespace(repo_id=f"me/{repo_id}")

    def upload_folder(self, *, repo_id, folder_path, ignore_patterns, **options):
        if hub.fault is not None:
            raise hub.fault
        files = [str(file.relative_to(folder_path)) for file in Path(folder_path).rglob("*") if file.is_file()]
        kept = filter_repo_objects(files, ignore_patterns=ignore_patterns)
        return commit(repo_id, {name: Path(folder_path, name).read_bytes() for name in kept}, options)

    def create_commit(self, repo_id, operations, **options):
        return commit(
            repo_id, {one.path_in_repo: Path(one.path_or_fileobj).read_bytes() for one in operations}, options
        )

    def commit(repository, contents, options):
        hub.commits.setdefault(repository, []).append((contents, options))
        return SimpleNamespace(commit_url=f"hub://{repository}/1")

    for function in (create_repo, upload_folder, create_commit):
        monkeypatch.setattr(HfApi, function.__name__, function)
    return hub


def test_a_run_pushes_its_finished_folder_once_it_is_whole(small_runs, hub, tmp_path, caplog):
    folder = tmp_path / "encoder"
    options = {"push_to_hub": True, "hub_token": "hf_secretsecret", "hub_private_repo": "true", "max_steps": 3}
    small_runs.run("mlm", folder, **options)
    assert hub.repositories["me/encoder"] == {"token": "hf_secretsecret", "private": True, "exist_ok": True}
    [(contents, sent)] = hub.commits["me/encoder"]
    assert contents.keys() >= MODEL | {"run.json", "log.jsonl"}
    assert not [name for name in contents if re.search(r"checkpoint|incomplete|\.lock|training_args", name)]
    assert all(content == (folder / name).read_bytes() for name, content in contents.items())
    assert "finished" in json.loads(contents["run.json"]) and b"secretsecret" not in b"".join(contents.values())
    assert sent["token"] == "hf_secretsecret" and "secretsecret" not in caplog.text
    small_runs.run("mlm", folder, **options)
    assert len(hub.commits["me/encoder"]) == 2


def test_electra_and_finetuned_models_have_a_repository_each(small_runs, hub, tmp_path):
    small_runs.run("electra", tmp_path / "electra", push_to_hub=True, hub_model_id="small", max_steps=3)
    for name in ("discriminator", "generator"):
        [(contents, _)] = hub.commits[f"me/small-{name}"]
        assert contents.keys() == MODEL
        assert contents["config.json"] == (tmp_path / "electra" / name / "config.json").read_bytes()
    small_runs.run("glue", tmp_path / "sweep", push_to_hub=True, max_steps=3)
    [(contents, _)] = hub.commits["me/sweep"]
    (best,) = (tmp_path / "sweep").glob("adhoc/*/seed42/best")
    assert contents.keys() == {file.name for file in best.iterdir()} >= MODEL


def test_a_hub_that_fails_costs_a_line_and_the_same_command_pushes_again(small_runs, hub, tmp_path):
    options = {"push_to_hub": True, "max_steps": 3}
    hub.fault = ConnectionError("no route\nto the host")
    with pytest.raises(ArgumentError) as caught:
        small_runs.run("clm", tmp_path / "txl", **options)
    line = f"take me/txl, got: no route to the host; {tmp_path / 'txl'} is whole here, and the same command pushes it"
    assert line in str(caught.value) and "\n" not in str(caught.value)
    hub.fault = None
    small_runs.run("clm", tmp_path / "txl", **options)
    [(contents, _)] = hub.commits["me/txl"]
    assert contents["model.safetensors"] == (tmp_path / "txl" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("script", ["mlm", "glue"])
def test_offline_is_told_before_anything_is_trained(small_runs, tmp_path, monkeypatch, script):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="--push_to_hub: the hub does not answer, or take out") as caught:
        small_runs.run(script, tmp_path / "out", push_to_hub=True)
    assert "\n" not in str(caught.value) and not list(tmp_path.glob("out/**/checkpoint-*"))


def test_what_leaves_no_weights_is_not_pushed(small_runs, hub, tmp_path):
    with pytest.raises(ArgumentError, match="--push_to_hub pushes the weights that a training keeps"):
        small_runs.run("glue", tmp_path / "out", push_to_hub=True, keep_model="false")
    with pytest.raises(UserError, match="--push_to_hub pushes what a training leaves; add --do_train"):
        small_runs.run("mlm", tmp_path / "out", push_to_hub=True, do_train="false", do_eval=True)
    assert not hub.repositories


@pytest.mark.parametrize(
    ("family", "ending"),
    [
        ("GAUAlpha", "ForMaskedLM"),
        ("FLASHQuad", "ForTokenClassification"),
        ("FLASH", "ForMaskedLM"),
        ("TransformerXL", "ForCausalLM"),
        ("Electra", "ForPreTraining"),
        ("LinearHead", "ForSequenceClassification"),
    ],
)
def test_push_to_hub_of_a_model_sends_what_save_pretrained_writes(hub, monkeypatch, tmp_path, family, ending):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # there is no card yet
    model = make(family, ending)
    model.save_pretrained(tmp_path)
    model.push_to_hub("model")
    [(contents, _)] = hub.commits["me/model"]
    assert contents.keys() == {file.name for file in tmp_path.iterdir()} | {"README.md"}
    assert all((tmp_path / name).read_bytes() == contents[name] for name in contents.keys() - {"README.md"})
    code = json.loads(contents["config.json"]).get("auto_map", {}).values()
    assert {f"{name.split('.')[0]}.py" for name in code} <= contents.keys() and bool(code) == (family != "Electra")


def test_push_to_hub_of_a_tokenizer_sends_its_files(hub, monkeypatch, vocabulary):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    load_tokenizer(str(vocabulary), "--tokenizer_name").push_to_hub("gau")
    assert "tokenizer.json" in hub.commits["me/gau"][0][0]
