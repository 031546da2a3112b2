"""The quickstart's opponents on its own text: BertForMaskedLM by the standard recipe, and the unigram guess.

    python benchmarks/quickstart_baseline.py          (after bash scripts/quickstart.sh)

BERT of about the quickstart model's size sees the same training documents, one a row in random order, padded to the
longest of the batch, computes logits at all positions and trains with AdamW under a linear schedule with 6 % warm-up.
Each learning rate gets the CPU time that the quickstart's ten minutes on two cores are; the best result counts.
CPU time is the clock of the schedule too, so that every run ends at rate 0 and other work on the machine takes nothing
away. Threads, bf16 autocast, kept malloc pages, masks and the held-out set with its fixed masks are the quickstart's.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as in the quickstart; spinning threads would use up the CPU time

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.nn import functional as F
from transformers import BertConfig, BertForMaskedLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.batches.masking import MaskCollator, WholeWordMasking
from data.batches.sampling import CorpusRows, EvalBatches, TrainBatches
from data.corpus.store import Corpus
from training.process import tune_cpu


def masking_for(tokenizer: Tokenizer, seed: int) -> WholeWordMasking:
    """The quickstart's masking of 15 % of the tokens."""
    names = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    special_ids = [tokenizer.token_to_id(name) for name in names]
    return WholeWordMasking(
        mask_token_id=special_ids[-1], vocab_size=tokenizer.get_vocab_size(), special_ids=special_ids, seed=seed
    )


@torch.no_grad()
def evaluate(model: BertForMaskedLM, batches: list[dict]) -> tuple[float, float]:
    """Mean loss in nats and accuracy over the masked tokens of the held-out set."""
    model.eval()
    loss = correct = count = 0
    for batch in batches:
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()
        asked = batch["labels"] != -100
        loss += F.cross_entropy(logits[asked], batch["labels"][asked], reduction="sum").item()
        correct += (logits[asked].argmax(-1) == batch["labels"][asked]).sum().item()
        count += asked.sum().item()
    model.train()
    return loss / count, correct / count


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
    rows = CorpusRows(corpus)
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
    loss, accuracy = evaluate(model, heldout)
    return {
        "model": "BertForMaskedLM",
        "parameters": model.num_parameters(),
        "learning_rate": learning_rate,
        "cpu_minutes": args.minutes,
        "steps": steps,
        "tokens": tokens,
        "heldout_loss": loss,
        "heldout_accuracy": accuracy,
    }


def unigram_guess(corpus: Corpus, heldout: list[dict], special_ids: list[int]) -> dict:
    """Frequencies of the training set (plus one): their cross-entropy, and the accuracy of the most frequent token."""
    counts = corpus.token_counts() + 1.0
    counts[special_ids] = 0
    labels = torch.cat([batch["labels"][batch["labels"] != -100] for batch in heldout]).numpy()
    probabilities = counts / counts.sum()
    return {
        "model": "unigram guess",
        "heldout_loss": float(-np.log(probabilities[labels]).mean()),
        "heldout_accuracy": float((labels == counts.argmax()).mean()),
    }


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
    tokenizer = Tokenizer.from_file(str(args.quickstart / "tokenizer" / "tokenizer.json"))
    args.vocab_size = tokenizer.get_vocab_size()
    train, heldout = (Corpus(args.quickstart / name, "--quickstart") for name in ("corpus_train", "corpus_heldout"))
    masking = masking_for(tokenizer, args.seed)
    fixed = MaskCollator(masking, pad_token_id=tokenizer.token_to_id("[PAD]"), fixed=True)
    collator = MaskCollator(masking, pad_token_id=tokenizer.token_to_id("[PAD]"))
    rows = CorpusRows(heldout)
    batches = [fixed(rows.__getitems__(b)) for b in EvalBatches(heldout.lengths, 64)]

    results = [unigram_guess(train, batches, masking.special_ids)]
    print(json.dumps(results[-1]), flush=True)
    for rate in map(float, args.learning_rates.split(",")):
        results.append(train_bert(train, collator, batches, rate, args))
        print(json.dumps(results[-1]), flush=True)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
