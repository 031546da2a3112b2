"""Fills the [MASK]s of a sentence with a masked language model and prints the best tokens of each.

    python probe_mlm.py outputs/mine/model "A model is [MASK] on a corpus."

MODEL is what the example of run_mlm_wwm.py trains, or a published one:

    python probe_mlm.py junnyu/flashquad_small_wwm_cluecorpussmall "天气预报说今天的天[MASK]很好。" --top_k 5

prints 天气预报说今天的天[气+0.9948||空+0.0011||...]很好。

--probe_file FILE asks for the texts of a file, one a line; behind a tab each, a line may hold what belongs into its
blanks, and the last line printed counts how many of these the model guesses first. --serve asks in a browser.
"""

from collections.abc import Iterator

if __name__ == "__main__":
    import common.script  # noqa: F401  no traceback of Ctrl-C amid the slow imports

import torch
from transformers import AutoModelForMaskedLM

import models  # noqa: F401  registers the model types
from common.errors import ArgumentError
from common.flags import FlagParser
from common.script import run_script
from common.serving import SERVE_HELP, load_gradio, show, told
from training.model_setup import load_model
from training.pretrained import load_config, load_tokenizer
from training.samples.blanks import Candidate, Filler, Question, count_right, read_questions


class Probe(Filler):
    """A masked LM with its tokenizer, ready to fill sentences.

    Raises ArgumentError when model is neither a folder nor a reachable hub name, or holds no tokenizer.
    """

    def __init__(self, model: str, device: str | torch.device = "cpu", trust_remote_code: bool = False):
        tokenizer = load_tokenizer(model, "MODEL", trust_remote_code)
        config = load_config(model, "MODEL", trust_remote_code)
        loaded = load_model(AutoModelForMaskedLM, config, model, "MODEL", tokenizer, trust_remote_code)
        super().__init__(loaded.to(device).eval(), tokenizer)


def ask(probe: Probe, questions: list[Question], top_k: int) -> str:
    """Print each text filled, and what belongs where the first guess is another; how many first guesses are right."""
    hits = []
    for question in questions:
        line, right = probe.answer(question, top_k)
        hits += right
        print(line)
    return count_right(hits)


def make_page(probe: Probe, texts: list[str], top_k: int):
    """Gradio's page: a text, and the candidates of each of its blanks as bars. texts: to choose from; may be none."""
    gradio, mask = load_gradio(), probe.tokenizer.mask_token

    def guess(text: str, count: int) -> Iterator[list]:
        yield probe.candidates(text, count)

    with gradio.Blocks(title="Fill the blanks", analytics_enabled=False) as page:
        guesses = gradio.State([])
        text = gradio.Textbox(texts[0] if texts else "", label=f"A text with one or more {mask}")
        count = gradio.Slider(1, max(top_k, 20), top_k, step=1, label="Candidates of each")
        gradio.on([gradio.Button("Fill", variant="primary").click, text.submit], told(guess), [text, count], guesses)
        if texts:
            gradio.Examples(texts, text)

        @gradio.render(guesses)
        def draw(guesses: list[list[Candidate]]) -> None:
            for number, candidates in enumerate(guesses, 1):
                shares = {candidate.token: candidate.probability for candidate in candidates}
                gradio.Label(shares, label=f"{mask} {number}", num_top_classes=len(shares))

    return page


def main(argv: list[str] | None = None) -> None:
    parser = FlagParser(doc=__doc__)
    parser.add_argument("model", metavar="MODEL", help="folder or hub name of a masked LM")
    parser.add_argument("texts", metavar="TEXT", nargs="*", help="sentence with one or more [MASK]")
    parser.add_argument("--probe_file", help="file of such sentences, behind tabs what belongs into their blanks")
    parser.add_argument("--top_k", type=int, default=5, help="candidates printed at each [MASK]")
    parser.add_argument("--trust_remote_code", action="store_true", help="run code that comes with MODEL (auto_map)")
    parser.add_argument("--serve", action="store_true", help=SERVE_HELP)
    arguments = parser.parse_args(argv)
    if arguments.serve:
        load_gradio()  # told before the model is read
    elif not arguments.texts and arguments.probe_file is None:
        raise ArgumentError("TEXT or --probe_file must be given, got neither; add a sentence with [MASK]")
    probe = Probe(arguments.model, trust_remote_code=arguments.trust_remote_code)
    questions = [Question(text) for text in arguments.texts]
    if arguments.probe_file is not None:
        questions += read_questions(arguments.probe_file, probe.tokenizer)
    if arguments.serve:
        show(make_page(probe, [question.text for question in questions], arguments.top_k))
    elif score := ask(probe, questions, arguments.top_k):
        print(score)


if __name__ == "__main__":
    run_script(main)
