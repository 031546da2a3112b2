"""The pages of --serve: in a real browser, offline; in one line where gradio is missing."""

import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

import generate_text
import probe_mlm
from common.errors import ArgumentError
from models import GAUAlphaConfig, TransformerXLConfig
from tests.browser import served
from training.pretrained import load_tokenizer


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
