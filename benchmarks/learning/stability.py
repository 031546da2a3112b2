"""Does each architecture train without a rise of its loss, with AdamW at its recipe's rate and with Muon?

    python benchmarks/learning/stability.py --minutes 3 --together 2          (after bash scripts/quickstart.sh)

Each family at its published depth and a hidden size of 128, on rows of the quickstart's corpus, one thread a run, its
recipe's settings (scripts/pretrain_*.sh) but for rows a step and the length of the schedule, which ends with the time.
Muon trains the matrices at 2e-2 where the quickstarts have it, AdamW the rest at their rate. A spike is what the
quickstart once had: a logged loss, mean of 10 updates, far above the lowest one before it. Prints rows of a table.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_BERT = "num_attention_heads=4,intermediate_size=512"
# family: script, flags of its networks, of its recipe with AdamW, AdamW's rate beside Muon
FAMILIES = {
    "GAU-alpha": (
        "run_mlm_wwm.py",
        "--model_type gau_alpha --config_overrides num_hidden_layers=24,hidden_size=128,intermediate_size=256,"
        "attention_key_size=32,max_position_embeddings=128",
        "--learning_rate 4e-4 --max_grad_norm 3",
    ),
    "FLASHQuad": (
        "run_mlm_wwm.py",
        "--model_type flash_quad --config_overrides num_hidden_layers=12,hidden_size=128,s=32,"
        "max_position_embeddings=128",
        "--learning_rate 1e-4 --max_grad_norm 3",
    ),
    "FLASH": (
        "run_mlm_wwm.py",
        "--model_type flash --config_overrides num_hidden_layers=12,hidden_size=128,query_key_dim=32,group_size=64",
        "--learning_rate 1e-4 --max_grad_norm 3",
    ),
    "BERT": (
        "run_mlm_wwm.py",
        f"--model_type bert --config_overrides num_hidden_layers=12,hidden_size=128,{_BERT}",
        "--learning_rate 1e-4 --max_grad_norm 1",
    ),
    "RoBERTa": (
        "run_mlm_wwm.py",
        "--model_type roberta --mask_unit token --config_overrides num_hidden_layers=12,hidden_size=128,"
        f"max_position_embeddings=514,type_vocab_size=1,layer_norm_eps=1e-5,{_BERT}",
        "--learning_rate 1e-4 --max_grad_norm 1",
    ),
    "ELECTRA": (
        "run_electra.py",
        "--electra_data packed --max_seq_length 128 --config_overrides num_hidden_layers=12,hidden_size=128,"
        f"embedding_size=128,{_BERT}",
        "--learning_rate 5e-4 --max_grad_norm 1",
    ),
    "Transformer-XL": (
        "run_clm.py",
        "--config_overrides num_hidden_layers=12,hidden_size=128,num_attention_heads=4,segment_length=64,mem_len=64,"
        "attention_window=128",
        "--learning_rate 1e-4 --max_grad_norm 1",
    ),
}
MUON = "--optimizer muon --muon_learning_rate 2e-2 --learning_rate 4e-3 --adam_beta2 0.98 --max_grad_norm 1"
COMMON = (
    "--do_train --max_steps 100000 --schedule_by_time --warmup_steps 0.06 --weight_decay 0.01 --bf16 "
    "--per_device_train_batch_size 32 --logging_steps 10 --eval_strategy no --save_strategy no --report_to none"
)


def flags_of(family: str, optimizer: str, text: Path) -> list[str]:
    """The command of a run but for its folder, seed and minutes; text: the quickstart's folder."""
    script, networks, adamw = FAMILIES[family]
    rule = adamw if optimizer == "AdamW" else MUON
    if script == "run_electra.py":
        # google-research's Adam has no bias correction, which Muon's partner needs
        schedule = "original_linear --adam_bias_correction false"
        rule += f" --schedule {schedule if optimizer == 'AdamW' else 'separate_linear --adam_bias_correction true'}"
        rule += " --checkpoint_percents 100 --dataloader_num_workers 0"
    else:
        rule += " --lr_scheduler_type linear"
    data = (
        ["--train_file", text / "news_train.jsonl"]
        if script == "run_clm.py"
        else ["--train_dir", text / "corpus_train"]
    )
    words = [*COMMON.split(), *networks.split(), *rule.split(), "--tokenizer_name", text / "tokenizer", *data]
    return [str(ROOT / script), *map(str, words)]


def worst_rise(losses: list[float]) -> float:
    """The most that a loss stands above the lowest one before it; 0 where they only fall."""
    lowest, worst = float("inf"), 0.0
    for loss in losses:
        worst, lowest = max(worst, loss - lowest), min(lowest, loss)
    return worst


def measure(family: str, optimizer: str, args) -> str:
    """Train one run; a row of the table."""
    folder = args.output / f"{family}-{optimizer}-{args.seed}".lower()
    last = [
        "--output_dir",
        folder,
        "--seed",
        args.seed,
        "--max_train_minutes",
        args.minutes,
        "--override",
        *args.flags,
    ]
    command = [sys.executable, *flags_of(family, optimizer, args.quickstart), *map(str, last)]
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | threads)
    if done.returncode:
        return f"| {family} | {optimizer} | failed: {done.stderr.strip().splitlines()[-1]} |"
    with open(folder / "log.jsonl", encoding="utf-8") as file:
        records = [record for record in map(json.loads, file) if "loss" in record]
    # ELECTRA's two losses apart: the sum is 50 times the discriminator's, and moves with the temperature of samples
    parts = ["generator_loss", "discriminator_loss"] if "generator_loss" in records[0] else ["loss"]
    curves = [[record[name] for record in records] for name in parts]
    numbers = ("; ".join(f"{curve[place]:.2f}" for curve in curves) for place in (0, -1))
    rise = "; ".join(f"{worst_rise(curve):.2f}" for curve in curves)
    rates, norm = " ".join(command).split("learning_rate ")[1:], max(record["grad_norm"] for record in records)
    rate = " / ".join(part.split()[0] for part in rates)
    return (
        f"| {family} | {optimizer} | {rate} | {records[-1]['step']:,} | {' | '.join(numbers)} | {rise} | {norm:.1f} |"
    )


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quickstart", type=Path, default=Path("outputs/quickstart"), help="the quickstart's folder")
    parser.add_argument("--output", type=Path, default=Path("outputs/stability"), help="folder of the runs")
    parser.add_argument("--families", default=",".join(FAMILIES), help="separated by commas")
    parser.add_argument("--minutes", type=float, default=3, help="of each run")
    parser.add_argument("--together", type=int, default=1, help="runs at a time, one thread each")
    parser.add_argument("--seed", type=int, default=1234)
    args, args.flags = parser.parse_known_args(argv)
    runs = [(family, optimizer) for family in args.families.split(",") for optimizer in ("AdamW", "Muon")]
    print(
        "| network | optimiser | rates | updates | first loss | last loss | worst rise | largest gradient norm |",
        flush=True,
    )
    print("|---|---|---|---|---|---|---|---|", flush=True)
    with ThreadPoolExecutor(args.together) as pool:
        for row in pool.map(lambda run: measure(*run, args), runs):
            print(row, flush=True)


if __name__ == "__main__":
    main()
