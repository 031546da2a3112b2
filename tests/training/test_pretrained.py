"""Names of folders and hubs: resolved or refused within seconds, tokenizers with every entry."""

import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from huggingface_hub import constants

from common.errors import ArgumentError
from training.pretrained import load_tokenizer, resolve_pretrained


def test_a_local_folder_wins_over_a_hub_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "someone" / "model").mkdir(parents=True)
    assert resolve_pretrained("someone/model", "--model_name") == "someone/model"


@pytest.mark.parametrize("name", ["./missing", "a/b/c", "/missing", "double--dash/x", "-x/y", "x" * 100])
def test_what_cannot_be_a_hub_name_is_refused_without_asking(name, monkeypatch):
    monkeypatch.setattr("training.pretrained._hub_refusal", lambda name: pytest.fail("asked the hub"))
    with pytest.raises(ArgumentError, match=r"^--model_name "):
        resolve_pretrained(name, "--model_name")


def test_offline_the_hub_is_not_asked(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ArgumentError, match=r"--tokenizer_name no/body .*HF_HUB_OFFLINE"):
        resolve_pretrained("no/body", "--tokenizer_name")


def test_a_hub_that_never_answers_costs_less_than_five_seconds(monkeypatch):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr("training.pretrained.HUB_SECONDS", 1.0)
        start = time.monotonic()
        with pytest.raises(ArgumentError, match="--model_name no/body"):
            resolve_pretrained("no/body", "--model_name")
        assert time.monotonic() - start < 3


def test_a_name_that_the_hub_knows_stays_a_name(monkeypatch):
    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/api/models/known/model" else 404)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert resolve_pretrained("known/model", "--model_name") == "known/model"
    with pytest.raises(ArgumentError, match="404"):
        resolve_pretrained("unknown/model", "--model_name")
    server.shutdown()


def test_a_bare_vocabulary_of_any_model_type_has_all_its_tokens(bert_folder, tmp_path):
    folder = tmp_path / "bare"
    shutil.copytree(bert_folder(), folder)
    entries = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    alone = load_tokenizer(str(folder), "--tokenizer_name")
    assert len(alone) == len(entries) and alone.tokenize("我爱你") == ["我", "爱", "你"]
    for model_type in ("roformer", "bert", "gau_alpha"):
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
        assert load_tokenizer(str(folder), "--tokenizer_name").get_vocab() == alone.get_vocab()


def test_a_stale_tokenizer_file_and_an_empty_folder_are_refused(bert_folder, tmp_path):
    folder = tmp_path / "stale"
    load_tokenizer(str(bert_folder()), "--tokenizer_name").save_pretrained(folder)
    shutil.copy(bert_folder() / "vocab.txt", folder)
    with open(folder / "vocab.txt", "a", encoding="utf-8") as file:
        file.write("龘\n")
    with pytest.raises(ArgumentError, match=r"--tokenizer_name .*'龘'"):
        load_tokenizer(str(folder), "--tokenizer_name")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArgumentError, match=r"--tokenizer_name .*vocab.txt"):
        load_tokenizer(str(tmp_path / "empty"), "--tokenizer_name")


def test_importing_it_imports_neither_torch_nor_transformers():
    code = "import sys, training.pretrained; sys.exit(bool({'torch', 'transformers'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
