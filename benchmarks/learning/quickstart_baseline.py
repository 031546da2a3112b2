"""The quickstart's opponents on its own text: BertForMaskedLM by the standard recipe, and counted words.

    python benchmarks/learning/quickstart_baseline.py          (after bash scripts/quickstart.sh)

BERT of about the quickstart model's size sees the same training documents, one a row in random order, padded to the
longest of the batch, computes logits at all positions and trains with AdamW under a linear schedule with 6 % warm-up.
Each learning rate gets the CPU time that the quickstart's ten minutes on two cores are; the best result counts.
CPU time is the clock of the schedule too, so that every run ends at rate 0 and other work on the machine takes nothing
away. Threads, bf16 autocast, kept malloc pages and the held-out set are the quickstart's, and its masks are those of
run_mlm_wwm.py's evaluation. Counts are a unigram guess and interpolated n-grams of both sides (ngram_counts.py), which
never see the token that they are asked for; `--learning_rates ""` gives them alone, in half a minute.

Accuracy is of all labelled tokens, as papers have it; hidden accuracy leaves out the tenth that was left as it is.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as in the quickstart; spinning threads would use up the CPU time

import numpy as np
import torch
from torch.nn import functional as F
from transformers import BertConfig, BertForMaskedLM

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.learning.ngram_counts import fit_ngrams
from data.batches.masking import MaskCollator, make_collator, make_eval_collator
from data.batches.sampling import EpochRows, EvalBatches, PlainRows, TrainBatches
from data.corpus.store import Corpus
from training.pretrained import entry_count, load_tokenizer
from training.process import tune_cpu


def eval_collator(tokenizer) -> MaskCollator:
    """That of run_mlm_wwm.py with its own --eval_* flags."""
    return make_eval_collator(tokenizer, entry_count(tokenizer), "word", 1)


@torch.no_grad()
def evaluate(model: BertForMaskedLM, batches: list[dict]) -> tuple[float, float, float]:
    """Mean loss in nats and accuracy over the labelled tokens of the held-out set, and accuracy over the hidden."""
    model.eval()
    loss = correct = count = hidden_correct = hidden_count = 0
    for batch in batches:
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()
        asked = batch["labels"] != -100
        loss += F.cross_entropy(logits[asked], batch["labels"][asked], reduction="sum").item()
        right = logits[asked].argmax(-1) == batch["labels"][asked]
        hidden = batch["input_ids"][asked] != batch["labels"][asked]
        correct += right.sum().item()
        count += asked.sum().item()
        hidden_correct += (right & hidden).sum().item()
        hidden_count += hidden.sum().item()
    model.train()
    return loss / count, correct / count, hidden_correct / hidden_count


def result(model: str, scores: tuple[float, float, float], **more) -> dict:
    names = ("heldout_loss", "heldout_accuracy", "heldout_hidden_accuracy")
    return {"model": model, **more, **dict(zip(names, scores, strict=True))}


def train_bert(corpus: Corpus, collator, heldout: list[dict], learning_rate: float, args) -> dict:
    """Train for --minutes of CPU time; returns what happened, the held-out numbers among it."""
    torch.manual_seed(args.seed)
    config = BertConfig(
        vocab_size=args.vocab_size,
        hidden_size=256,
        num_hidden_layers=args.layers,
        num_attention_heads=4,
        intermediate_size=1024,
        max_position_embeddings=128,
    )
    model = BertForMaskedLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01, fused=True)
    batches = TrainBatches(len(corpus), args.batch_size, steps=10**9, seed=args.seed)
    rows = EpochRows(corpus)
    budget, start, tokens, steps = args.minutes * 60, time.process_time(), 0, 0
    for pairs in batches:
        elapsed = (time.process_time() - start) / budget
        if elapsed >= 1:
            break
        optimizer.param_groups[0]["lr"] = learning_rate * min(elapsed / 0.06, (1 - elapsed) / 0.94)
        batch = collator(rows.__getitems__(pairs))
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        tokens += int(batch["attention_mask"].sum())
        steps += 1
    numbers = {"parameters": model.num_parameters(), "learning_rate": learning_rate, "cpu_minutes": args.minutes}
    numbers |= {"steps": steps, "tokens": tokens}
    return result("BertForMaskedLM", evaluate(model, heldout), **numbers)


def masked_batches(rows, collator) -> list[dict]:
    """All rows, those of like length together."""
    source = EpochRows(rows)
    return [collator(source.__getitems__(pairs)) for pairs in EvalBatches(rows.lengths, 64)]


def counted(corpus: Corpus, collator, heldout: list[dict], vocab_size: int, special_ids: list[int]) -> Iterator[dict]:
    """What counts of the training text reach: frequencies (plus one), and n-grams of both sides."""

    def masked(indices: np.ndarray) -> list[dict]:
        return masked_batches(PlainRows(corpus, indices), collator)

    ngrams = fit_ngrams(corpus, masked, vocab_size, special_ids)
    weights, ngrams.weights = ngrams.weights, np.zeros_like(ngrams.weights)
    yield result("unigram guess", ngrams.score(heldout))
    ngrams.weights = weights
    yield result("interpolated n-gram counts", ngrams.score(heldout))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quickstart", type=Path, default=Path("outputs/quickstart"), help="the quickstart's folder")
    parser.add_argument("--minutes", type=float, default=20, help="CPU time of the run at each rate")
    parser.add_argument("--learning_rates", default="3e-4,1e-3,3e-3", help="AdamW's, separated by commas")
    parser.add_argument("--layers", type=int, default=4, help="layers of the BERT")
    parser.add_argument("--batch_size", type=int, default=64, help="rows of a batch")
    parser.add_argument("--seed", type=int, default=1234, help="of masks, order and weights")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/quickstart_baseline.json"))
    args = parser.parse_args(argv)

    tune_cpu()
    tokenizer = load_tokenizer(str(args.quickstart / "tokenizer"), "--quickstart")
    args.vocab_size = entry_count(tokenizer)
    train, heldout = (Corpus(args.quickstart / name, "--quickstart") for name in ("corpus_train", "corpus_heldout"))
    fixed = eval_collator(tokenizer)
    collator = make_collator(tokenizer, args.vocab_size, "word", 1, seed=args.seed)
    batches = masked_batches(PlainRows(heldout, np.arange(len(heldout))), fixed)
    rates = [float(rate) for rate in args.learning_rates.split(",") if rate]
    berts = (train_bert(train, collator, batches, rate, args) for rate in rates)
    results = []
    for one in chain(counted(train, fixed, batches, args.vocab_size, tokenizer.all_special_ids), berts):
        results.append(one)
        print(json.dumps(one), flush=True)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
