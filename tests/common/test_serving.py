"""The pages of --serve: in a real browser, offline; in one line where gradio is missing."""

import os
import re
import select
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

import generate_text
import probe_mlm
from common.errors import ArgumentError
from models import GAUAlphaConfig, TransformerXLConfig
from training.pretrained import load_tokenizer

ROOT = Path(__file__).resolve().parents[2]
BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
# Put before a script: names of other machines that it looks up or connects to go into a file.
WATCH = """
import os, sys
def hook(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        place = arguments[1] if event == "socket.connect" else arguments[0]
        host = place[0] if isinstance(place, tuple) else place
        if host not in (None, "", "localhost", "127.0.0.1", "::1", "0.0.0.0") and not str(host).startswith("/"):
            with open(os.environ["WATCH_FILE"], "a") as file:
                file.write(f"{event} {host}\\n")
sys.addaudithook(hook)
"""


@pytest.fixture(scope="module")
def folders(bert_folder, tmp_path_factory):
    """Tiny models by the script that serves them."""
    tokenizer = load_tokenizer(str(bert_folder()), "--tokenizer")
    shape = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 1}
    torch.manual_seed(0)
    gau = AutoModelForMaskedLM.from_config(GAUAlphaConfig(**shape, intermediate_size=64, attention_key_size=16))
    ends = {"eos_token_id": tokenizer.sep_token_id, "pad_token_id": tokenizer.pad_token_id}
    txl = TransformerXLConfig(**shape, **ends, num_attention_heads=2, mem_len=8, attention_window=12)
    places = {}
    for script, model in (("probe_mlm", gau), ("generate_text", AutoModelForCausalLM.from_config(txl))):
        places[script] = tmp_path_factory.mktemp(script)
        model.save_pretrained(places[script])
        tokenizer.save_pretrained(places[script])
    return places


@contextmanager
def served(script, folder, tmp_path, *words):
    """The page of a script in a browser; it ends by Ctrl-C. Neither asks anything of another machine."""
    pytest.importorskip("gradio", reason="gradio: pip install -r requirements-extras.txt")
    driver = pytest.importorskip("playwright.sync_api", reason="playwright: pip install -r requirements-extras.txt")
    if BROWSER is None:
        pytest.skip("needs a browser: apt-get install chromium")
    (tmp_path / "sitecustomize.py").write_text(WATCH)
    watched = tmp_path / "connections"
    variables = {"PYTHONPATH": str(tmp_path), "WATCH_FILE": str(watched), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / f"{script}.py"), str(folder), *map(str, words), "--serve"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    with (
        subprocess.Popen(command, env=os.environ | variables, **pipes) as process,
        driver.sync_playwright() as browsers,
    ):
        try:
            assert select.select([process.stdout], [], [], 120)[0], "nothing printed in two minutes"
            address = re.match(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
            assert address, process.communicate(timeout=60)
            browser = browsers.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
            page, asked = browser.new_page(), []
            page.on("request", lambda request: asked.append(request.url))
            page.goto(address[0])
            yield page
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
            assert process.returncode == 0 and "Traceback" not in errors, errors
            browser.close()
        finally:
            process.kill()
    assert not watched.exists(), watched.read_text()
    assert [url for url in asked if not url.startswith((address[0], "data:", "blob:"))] == []


@pytest.mark.timeout(300)
def test_a_browser_shows_the_candidates_of_each_blank_as_bars(folders, tmp_path):
    text = "今天[MASK]气很[MASK]好"
    guesses = probe_mlm.Probe(str(folders["probe_mlm"])).candidates(text, 3)
    with served("probe_mlm", folders["probe_mlm"], tmp_path, text, "--top_k", 3) as page:
        box = page.get_by_label("A text with one or more [MASK]")
        assert box.input_value() == text
        page.get_by_role("button", name="Fill").click()
        page.get_by_text("[MASK] 2", exact=True).wait_for()
        bars = page.locator("meter").all()
        shown = [(bar.get_attribute("aria-label"), float(bar.get_attribute("value"))) for bar in bars]
        wanted = [(each.token, each.probability) for candidates in guesses for each in candidates]
        assert shown == [(token, pytest.approx(probability)) for token, probability in wanted]
        box.fill("没有")
        box.press("Enter")
        page.get_by_text("TEXT must contain [MASK], got '没有'; put it where to guess").wait_for()


@pytest.mark.timeout(300)
def test_a_browser_shows_a_text_as_it_comes_until_it_is_stopped(folders, tmp_path):
    words = ("--max_new_tokens", 10**6, "--use_cpu")
    with served("generate_text", folders["generate_text"], tmp_path, *words) as page:
        text, start = page.get_by_label("Text", exact=True), page.get_by_role("button", name="Generate")
        page.get_by_label("Prompt").fill("今天")
        start.click()
        lengths = {len(text.input_value())}
        while len(lengths) < 5:  # until the test's own time is over
            page.wait_for_timeout(20)
            lengths.add(len(text.input_value()))
        page.get_by_role("button", name="Stop").click()
        start.wait_for()
        stopped = text.input_value()
        page.wait_for_timeout(500)
        assert text.input_value() == stopped
        page.get_by_label("Prompt").fill(" ")
        start.click()
        page.get_by_text("the prompt must hold more than spaces, got ' '; type some text").wait_for()
        page.get_by_label("Prompt").fill("北京")
        start.click()
        page.wait_for_function("document.querySelectorAll('textarea')[1].value.length > 20")


@pytest.mark.parametrize("script", [probe_mlm, generate_text], ids=lambda script: script.__name__)
def test_a_missing_gradio_is_one_line(script, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ArgumentError, match="--serve needs the package gradio, which is not here; pip install gradio"):
        script.main([str(tmp_path), "--serve"])


@pytest.mark.parametrize("words", [("--prompt", "a"), ("--input_file", "a")])
def test_a_page_asks_for_prompts_itself(words, tmp_path):
    with pytest.raises(ArgumentError, match="--serve must stand without --prompt and --input_file"):
        generate_text.main([str(tmp_path), "--serve", *words])
