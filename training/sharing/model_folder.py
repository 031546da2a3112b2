"""What stands in a model's folder beside its weights: every file of its tokenizer, and README.md, a model card.

The card is Markdown as hubs show it, with the fields that they read (licence, library, task, what it began with).
"""

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import transformers
from safetensors import safe_open
from tokenizers.models import WordPiece

from common.secrecy import shown_command
from training.files import write_whole

CARD = "README.md"
# How the name of a class ends: the Auto class and the pipeline for it.
_USES = {
    "ForMaskedLM": ("AutoModelForMaskedLM", "fill-mask"),
    "ForCausalLM": ("AutoModelForCausalLM", "text-generation"),
    "LMHeadModel": ("AutoModelForCausalLM", "text-generation"),
    "ForPreTraining": ("AutoModelForPreTraining", None),
    "ForSequenceClassification": ("AutoModelForSequenceClassification", "text-classification"),
    "ForTokenClassification": ("AutoModelForTokenClassification", "token-classification"),
    "ForMultipleChoice": ("AutoModelForMultipleChoice", None),
    "ForQuestionAnswering": ("AutoModelForQuestionAnswering", "question-answering"),
}


def save_tokenizer(tokenizer, folder: Path | str) -> None:
    """save_pretrained, and vocab.txt of a WordPiece vocabulary, which other programs read and transformers leaves out.

    Without that file where two ids share a token, as its line numbers are the ids.
    """
    tokenizer.save_pretrained(folder)
    model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    if isinstance(model, WordPiece):
        vocabulary = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False)
        if sorted(vocabulary.values()) == list(range(len(vocabulary))):
            model.save(str(folder))


def write_card(folder: Path, data: str, command: str, scores: Mapping[str, float], base: str | None = None) -> None:
    """Write README.md into a folder that save_pretrained has written.

    data: Markdown; command: a line of a shell; base: folder or hub name of the model it began with.
    """
    config = json.loads((folder / "config.json").read_bytes())
    kind = config["architectures"][0]
    auto, pipe = next((use for end, use in _USES.items() if kind.endswith(end)), ("AutoModel", None))
    trusted = ", trust_remote_code=True" if "auto_map" in config else ""
    name = folder.resolve().name
    fields = ["---", "library_name: transformers"]
    fields += ["license: unknown  # yours to say: what the texts and the model that it began with allow"]
    fields += [f"pipeline_tag: {pipe}"] if pipe else []
    fields += [f"base_model: {base}"] if base and not Path(base).exists() else []
    fields += ["tags:", f"- {config['model_type']}", "---"]
    use = [f'pipe = pipeline("{pipe}", folder{trusted})'] if pipe else []
    use = [
        f"from transformers import {auto}, AutoTokenizer{', pipeline' if pipe else ''}",
        "",
        f'folder = "{name}"',
        "tokenizer = AutoTokenizer.from_pretrained(folder" + (trusted if _has_code(folder) else "") + ")",
        f"model = {auto}.from_pretrained(folder{trusted})",
        *use,
    ]
    count = _parameters(folder)
    size = f", {count:,} parameters" if count else ""
    parts = [
        "\n".join(fields),
        f"# {name}",
        f"{kind}{size}" + (f", trained on from `{base}`." if base else "."),
        "\n".join(("## How to load", "", "```python", *use, "```")),
        f"## Data\n\n{data}",
        "## Scores\n\n" + (_table(scores) if scores else "It was not evaluated."),
        f"## Flags\n\n```bash\n{command}\n```\n\ntorch {torch.__version__}, transformers {transformers.__version__}",
    ]
    write_whole(folder / CARD, "\n\n".join(parts) + "\n")


def command_line(words: Sequence[str]) -> str:
    """A line that runs a script, its path and flags, without what is secret."""
    return shlex.join(["python", *shown_command([Path(words[0]).name, *words[1:]])])


def _has_code(folder: Path) -> bool:
    """Whether the tokenizer is of a class of this repository."""
    return "auto_map" in json.loads((folder / "tokenizer_config.json").read_bytes())


def _parameters(folder: Path) -> int:
    """Numbers in the files of weights, 0 where they are of another kind than safetensors."""
    count = 0
    for file in folder.glob("model*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            names = list(tensors.keys())
            count += sum(math.prod(tensors.get_slice(name).get_shape()) for name in names)
    return count


def _table(scores: Mapping[str, float]) -> str:
    rows = [f"| {name} | {value:.6g} |" for name, value in scores.items() if isinstance(value, int | float)]
    return "\n".join(("| measure | value |", "|---|---|", *rows))
