"""Seconds per generated token of Transformer-XL: ours beside the original's way and a PyPI peer, and at 2.9B.

    python benchmarks/decode_step.py --peers                 # 24 layers, hidden 1024, context 512, fp32
    python benchmarks/decode_step.py --flat                  # the same token's cost after 1,000 and 8,000 tokens
    python benchmarks/decode_step.py --checkpoint txl-2.9B-hf  # a folder of ours in bf16, beside a read of its bytes
    python benchmarks/decode_step.py --random txl-2.9B-hf      # writes such a folder first, of random weights (5.7 GB)

Ours keeps keys and values; the original (benchmarks/originals/transformer_xl.py, which passes the same parity cases)
projects its whole memory again at each step; bert4torch's Transformer_XL, other equations at the same size, does so
too. Sides take turns in one process with equal weights, dtype and threads; ratios are of CPU time, tokens per second
of wall time, both medians. The bound of a token is the time that all threads take to read every weight once.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from pathlib import Path

import torch
from transformers import DynamicCache

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.originals.peers import TorchvisionStandIn  # noqa: E402
from benchmarks.originals.transformer_xl import OriginalTransformerXL  # noqa: E402
from models import TransformerXLConfig, TransformerXLForCausalLM  # noqa: E402
from models.convert import thudm  # noqa: E402


def timed(step) -> tuple[float, float]:
    """(CPU seconds, wall seconds) of one call."""
    cpu, wall = time.process_time(), time.perf_counter()
    step()
    return time.process_time() - cpu, time.perf_counter() - wall


class Ours:
    def __init__(self, model: TransformerXLForCausalLM, ids: torch.Tensor):
        self.model, self.token = model, ids[:, -1:]
        self.cache = DynamicCache()
        self.extend(ids[:, :-1])

    def extend(self, ids: torch.Tensor) -> None:
        """Take tokens in without logits."""
        self.model.model(ids, cache=self.cache)

    def step(self) -> None:
        self.token = self.model(self.token, cache=self.cache).logits[:, -1:].argmax(-1)


class Original:
    """With the weights of ours; the two give one token from one context, or the comparison stops."""

    def __init__(self, ours: TransformerXLForCausalLM, ids: torch.Tensor):
        self.model = OriginalTransformerXL(ours.config).eval()
        state = ours.state_dict()
        for parameter in self.model.state_dict():
            row, names = thudm.resolve(parameter)
            if row.ours:
                joined = torch.cat([state[name] for name in names])
                self.model.get_parameter(parameter).data = joined if len(names) > 1 else state[names[0]]
        self.token = ids[:, -1:]
        self.memories = self.model(ids[:, :-1])[1]

    def step(self) -> None:
        logits, self.memories = self.model(self.token, self.memories)
        self.token = logits[:, -1:].argmax(-1)


class Bert4torch:
    """bert4torch's Transformer_XL, which starts from an empty memory of full length at each call: time only."""

    def __init__(self, ours: TransformerXLForCausalLM, ids: torch.Tensor):
        sys.meta_path.append(TorchvisionStandIn())
        from bert4torch.models.transformer_xl import Transformer_XL

        config = ours.config
        self.model = Transformer_XL(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            intermediate_size=config.intermediate_size,
            hidden_act="relu",
            dropout_rate=0.0,
            segment_vocab_size=0,
            max_position_embeddings=config.attention_window,
            pad_token_id=0,
            mem_len=config.attention_window - 1,
            with_lm=True,
        ).eval()
        self.token = ids[:, -1:]

    def step(self) -> None:
        self.model.lm_head(self.model([self.token]))  # its forward stops before


def compare(args) -> dict:
    """Cost of a token beside the opponents, all with a full window."""
    model, ids = small_model(args), random_ids(args)
    ids = ids[:, : args.context]
    sides = {"ours": Ours(model, ids), "original": Original(model, ids)}
    for side in sides.values():
        side.step()
    if not torch.equal(sides["ours"].token, sides["original"].token):
        raise SystemExit("ours and the original must draw one token from one context, but they differ")
    if args.peers:
        sides["bert4torch"] = Bert4torch(model, ids)
    costs = {name: [] for name in sides}
    for _ in range(args.rounds):
        for name, side in sides.items():
            costs[name].append(timed(side.step))
    row = {"layers": args.layers, "hidden": args.hidden, "context": args.context}
    for name, values in costs.items():
        row[f"tokens_per_second_{name}"] = round(1 / statistics.median(wall for _, wall in values), 2)
        if name != "ours":
            ratios = [other[0] / own[0] for other, own in zip(values, costs["ours"], strict=True)]
            row[f"times_{name}"] = round(statistics.median(ratios), 2)
    return row


def flat(args) -> dict:
    """Cost of a token after 8,000 tokens over that after 1,000, taking turns."""
    model, ids = small_model(args), random_ids(args)
    sides = {length: Ours(model, ids[:, :length]) for length in (1000, 8000)}
    costs = {length: [] for length in sides}
    for round_number in range(args.rounds + 1):
        for length, side in sides.items():
            cost = timed(side.step)[0]
            if round_number:
                costs[length].append(cost)
    ratios = [late / early for early, late in zip(costs[1000], costs[8000], strict=True)]
    return {"cost_at_8000_over_1000": round(statistics.median(ratios), 3)}


def bandwidth(args) -> dict:
    """A checkpoint's tokens per second beside the bound of reading its weights, and the peak of resident memory."""
    model = TransformerXLForCausalLM.from_pretrained(args.checkpoint, dtype=torch.bfloat16).eval()
    weights = [parameter.view(-1) for parameter in model.parameters()]
    words = [weight[: weight.numel() // 4 * 4].view(torch.int64) for weight in weights]
    ours = Ours(model, torch.arange(1, 33).unsqueeze(0))
    ours.step()
    reads, steps = [], []
    for _ in range(args.rounds):
        reads.append(timed(lambda: [word.sum() for word in words])[1])
        steps.append(timed(ours.step)[1])
    gigabytes = sum(weight.nbytes for weight in weights) / 1e9
    shares = [read / step for read, step in zip(reads, steps, strict=True)]
    return {
        "gigabytes_of_weights": round(gigabytes, 2),
        "gigabytes_per_second_read": round(gigabytes / statistics.median(reads), 2),
        "tokens_per_second": round(1 / statistics.median(steps), 3),
        "share_of_bound": round(statistics.median(shares), 2),
        "peak_resident_gigabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2),
    }


def write_random(folder: Path) -> None:
    """A folder of txl-2.9B's size with random weights in bf16."""
    config = TransformerXLConfig(dtype="bfloat16")
    with torch.device("meta"):
        model = TransformerXLForCausalLM(config).to(torch.bfloat16)
    model = model.to_empty(device="cpu")
    model.tie_weights()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    model.save_pretrained(folder)


def small_model(args) -> TransformerXLForCausalLM:
    torch.manual_seed(0)
    config = TransformerXLConfig(
        hidden_size=args.hidden,
        num_hidden_layers=args.layers,
        num_attention_heads=args.hidden // 64,
        attention_window=args.context,
        mem_len=args.context - 1,
    )
    return TransformerXLForCausalLM(config).eval()


def random_ids(args) -> torch.Tensor:
    return torch.randint(0, 50000, (1, 8000), generator=torch.Generator().manual_seed(0))


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--hidden", type=int, default=1024, help="heads are 64 wide")
    parser.add_argument("--context", type=int, default=512, help="keys that a token sees, itself included")
    parser.add_argument("--rounds", type=int, default=8, help="measured tokens of each side")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--peers", action="store_true", help="measure bert4torch's Transformer_XL too")
    parser.add_argument("--flat", action="store_true", help="compare a token's cost after 1,000 and 8,000 tokens")
    parser.add_argument("--checkpoint", type=Path, help="measure this folder against memory bandwidth")
    parser.add_argument("--random", type=Path, help="write a random 2.9B checkpoint there, then measure it")
    parser.add_argument("--output_dir", type=Path, default=ROOT / "benchmarks" / "results")
    return parser.parse_args(argv)


@torch.no_grad()
def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    torch.set_num_threads(args.threads)
    if args.random is not None:
        write_random(args.random)
        args.checkpoint = args.random
    kind = "flat" if args.flat else "compare" if args.checkpoint is None else "bandwidth"
    row = {"flat": flat, "compare": compare, "bandwidth": bandwidth}[kind](args)
    row |= {"threads": args.threads, "torch": torch.__version__}
    args.output_dir.mkdir(parents=True, exist_ok=True)
    (args.output_dir / f"decode_step_{kind}.json").write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(row))


if __name__ == "__main__":
    main()
