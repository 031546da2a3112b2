"""The scripts themselves on a device, each in a process of its own and several at a time: what they do, not how fast.

Every run is watched for waits in its steps 5 to 8. A run that goes on from its middle must end with the same bits.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertModel

from benchmarks.gpu.table import ROOT, Case, Check, Wrong
from benchmarks.gpu.waits import LAST, MARK, unknown
from training.pretrained import load_tokenizer

AT_A_TIME = 6  # processes that share the device
STEPS, LIMIT = 2 * LAST, 300  # of a run; seconds after which it is ended
FEW = 12  # waits of an evaluation, however long
EXACT = "--full_determinism"
CHARACTERS = [chr(0x4E00 + number) for number in range(2000)]


def run(command: list, limit: float = LIMIT) -> str:
    """Standard output of a command of this repository; RuntimeError with the end of its errors where it fails."""
    words = [sys.executable, *map(str, command)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=limit, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr.strip()[-400:]}")
    return done.stdout


def write_corpus(check: Check) -> None:
    """A tokenizer, texts of invented words, of which few are frequent, and their corpus."""
    rng = np.random.default_rng(0)
    folder = check.work / "tokenizer"
    folder.mkdir()
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "。", *CHARACTERS]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    words = ["".join(rng.choice(CHARACTERS, rng.integers(1, 4))) for _ in range(4000)]
    shares = 1 / np.arange(1, len(words) + 1)
    shares /= shares.sum()
    texts = ["".join(rng.choice(words, rng.integers(40, 400), p=shares)) + "。" for _ in range(check.size(4000, 60))]
    lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts]
    (check.work / "text.jsonl").write_text("".join(lines), encoding="utf-8")
    rows = [{"sentence": text[:60], "label": "yn"[index % 2]} for index, text in enumerate(texts)]
    (check.work / "rows.json").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    BertModel(BertConfig(vocab_size=len(tokens), **sizes)).save_pretrained(check.work / "encoder")
    load_tokenizer(str(folder), "--tokenizer_name").save_pretrained(check.work / "encoder")
    inputs = ["--model_name", folder, "--input_path", check.work / "text.jsonl", "--output_dir", check.work / "corpus"]
    shape = ["--max_seq_length", check.size(512, 64), "--workers", check.size(8, 1)]
    run(["run_chinese_ref.py", *inputs, *shape])


def records(folder: Path) -> list[dict]:
    """The log of the run in a folder, or of the one job below it."""
    (log,) = folder.rglob("*log.jsonl")
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


class Runs:
    """Command lines of small runs of every script."""

    def __init__(self, check: Check):
        self.check, self.work = check, check.work
        width = check.size(256, 32)
        self.gau = f"num_hidden_layers=4,hidden_size={width},intermediate_size={2 * width},attention_key_size=64"
        heads = f"num_attention_heads=4,hidden_size={width}"
        self.bert = f"num_hidden_layers=2,intermediate_size={4 * width},{heads}"
        self.electra = f"num_hidden_layers=2,intermediate_size={4 * width},embedding_size={width},{heads}"
        self.xl = f"num_hidden_layers=2,segment_length=64,mem_len=32,attention_window=64,{heads}"

    def words(self, script: str, name: str, overrides: str, *more) -> list:
        """The words of a run: its script, its flags; fp16 on a GPU."""
        script_flags = ["--tokenizer_name", self.work / "tokenizer", "--config_overrides", overrides]
        corpus = ["--train_dir", self.work / "corpus"]
        script_flags += {
            "run_mlm_wwm": corpus,
            "run_electra": [*corpus, "--checkpoint_percents", 100],  # none between those asked for
            "run_clm": ["--train_file", self.work / "text.jsonl"],
        }[script]
        steps = ["--max_steps", STEPS, "--save_steps", LAST, "--logging_steps", LAST // 2, "--warmup_steps", 2]
        rows = [
            "--per_device_train_batch_size",
            self.check.size(32, 2),
            "--learning_rate",
            self.check.size("4e-4", "1e-2"),
        ]
        workers = ["--dataloader_num_workers", self.check.size(2, 0), "--report_to", "none", "--seed", 7]
        half = ["--fp16"] if self.check.cuda else ["--use_cpu", "--bf16"]
        output = ["--output_dir", self.work / name]
        return [script, "--do_train", *script_flags, *steps, *rows, *workers, *half, *output, *more]

    def finetuning(self, name: str, *more) -> list:
        """The words of a run of run_glue.py."""
        rows = ["--train_file", self.work / "rows.json", "--validation_file", self.work / "rows.json"]
        steps = ["--max_steps", STEPS, "--eval_steps", STEPS, "--logging_steps", LAST // 2, "--lr", "1e-3"]
        device = ["--device", "gpu", "--dtype", "fp16"] if self.check.cuda else ["--device", "cpu"]
        output = ["--kind", "classification", "--model", self.work / "encoder", "--output_dir", self.work / name]
        return ["run_glue", *rows, *steps, *device, *output, "--batch_size", self.check.size(32, 2), *more]

    def watched(self, name: str, words: list) -> dict:
        """Run it; its last loss and where it waited.

        Of waits in steps none must be in code of ours, and an evaluation waits a few times, not once a batch.
        """
        start = time.perf_counter()
        output = run(["benchmarks/gpu/waits.py", *words])
        seen = json.loads(output.rsplit(MARK, 1)[1])
        last = next(record for record in reversed(records(self.work / name)) if "loss" in record)
        numbers = {"seconds_of_run": time.perf_counter() - start, "loss": last["loss"]}
        for part, label in (("steps", "4_steps"), ("evaluation", "evaluation")):
            numbers |= {
                f"waits_of_{label}": sum(seen[part].values()),
                f"where_{part}": dict([*seen[part].items()][:4]),
            }
        numbers["batches_evaluated"] = seen["batches"]
        if unknown(seen["steps"]):
            raise Wrong("a steady step must not wait", numbers)
        if unknown(seen["evaluation"]) > FEW and unknown(seen["evaluation"]) >= seen["batches"]:
            raise Wrong("an evaluation must not wait at each batch", numbers)
        return numbers

    def resumed(self, script: str, name: str, overrides: str, *more, exact: bool = True) -> dict:
        """Run it, go on from its middle into another folder, compare; Wrong if exact and the bits differ."""
        whole, second = self.work / name, self.work / f"{name}-resumed"
        run([f"{script}.py", *self.words(script, name, overrides, *more)[1:]])
        words = self.words(script, second.name, overrides, *more)[1:]
        run([f"{script}.py", *words, "--resume_from_checkpoint", whole / f"checkpoint-{LAST}"])
        files = [file.relative_to(whole) for file in whole.rglob("model.safetensors") if "checkpoint" not in str(file)]
        unlike, largest = 0, 0.0
        for file in files:
            first, other = load_file(whole / file), load_file(second / file)
            differences = [(first[key].float() - other[key].float()).abs().max().item() for key in first]
            unlike += sum(not torch.equal(first[key], other[key]) for key in first)
            largest = max([largest, *differences])
        speed = next(r["tokens_per_second"] for r in reversed(records(whole)) if "tokens_per_second" in r)
        numbers = {"same_bits": not unlike, "tensors_unlike": unlike, "largest_difference": largest}
        numbers |= {"tokens_per_second_beside_others": round(speed)}
        if (unlike and exact) or not files:
            raise Wrong("a resumed run must end with the bits of an undisturbed one", numbers)
        return numbers

    def original_flags(self) -> dict:
        """JunnYu's command: his flags, fp16, evaluation on held-out rows, TensorBoard, and the model saved."""
        words = self.words("run_mlm_wwm", "original", self.gau)[1:]
        words += ["--validation_split", 0.1, "--mlm_probability", 0.15, "--gradient_accumulation_steps", 2]
        words += ["--adam_epsilon", "1e-6", "--max_grad_norm", 3.0, "--weight_decay", 0.01, "--save_total_limit", 5]
        words += ["--evaluation_strategy", "steps", "--eval_steps", LAST, "--overwrite_output_dir"]
        run(["run_mlm_wwm.py", *words, "--model_type", "gau_alpha", "--max_seq_length", self.check.size(512, 64)])
        logs = records(self.work / "original")
        losses = [record["loss"] for record in logs if "loss" in record]
        numbers = {"first_loss": losses[0], "last_loss": losses[-1], "eval_loss": logs[-1].get("eval_loss")}
        saved = (self.work / "original" / "model.safetensors").is_file()
        if not losses[-1] < losses[0] or numbers["eval_loss"] is None or not saved:
            raise Wrong("the loss must fall, the evaluation be logged and the model be saved", numbers)
        return numbers


def gpu_tests() -> dict:
    """The tests that skip without a CUDA device."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/models/test_gpu.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=False)
    lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or ["no output"]
    numbers = {"summary": lines[-1].strip("= ")}
    if done.returncode:
        failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
        raise Wrong("; ".join(failed)[:400] or f"pytest ended with {done.returncode}", numbers)
    return numbers


def cases_of(runs: Runs) -> dict:
    """Fused attention's backward need not give the same bits twice unless EXACT; our gated units must as they are."""
    backend = "inductor" if runs.check.cuda else "aot_eager"
    bert, muon = ("--model_type", "bert"), ("--optimizer", "muon")
    held_out = ("--validation_split", 0.2, "--per_device_eval_batch_size", runs.check.size(8, 2))

    def watched(script, name, overrides, *more):
        return runs.watched(name, runs.words(script, name, overrides, *more, *held_out))

    return {
        "original's flags": runs.original_flags,
        "gau_alpha resumed": lambda: runs.resumed("run_mlm_wwm", "gau", runs.gau),
        "gau_alpha resumed, compiled": lambda: runs.resumed(
            "run_mlm_wwm", "gau-compiled", runs.gau, "--torch_compile_backend", backend, exact=False
        ),
        "bert resumed": lambda: runs.resumed("run_mlm_wwm", "bert", runs.bert, *bert, exact=False),
        "bert resumed, exact": lambda: runs.resumed("run_mlm_wwm", "bert-exact", runs.bert, *bert, EXACT),
        "electra resumed": lambda: runs.resumed("run_electra", "electra", runs.electra, exact=False),
        "electra resumed, exact": lambda: runs.resumed("run_electra", "electra-exact", runs.electra, EXACT),
        "transformer_xl resumed": lambda: runs.resumed("run_clm", "xl", runs.xl, exact=False),
        "transformer_xl resumed, exact": lambda: runs.resumed("run_clm", "xl-exact", runs.xl, EXACT),
        "run_mlm_wwm waits": lambda: watched("run_mlm_wwm", "w-gau", runs.gau),
        "run_mlm_wwm muon waits": lambda: watched("run_mlm_wwm", "w-muon", runs.gau, *muon),
        "run_electra waits": lambda: watched("run_electra", "w-rtd", runs.electra),
        "run_clm waits": lambda: watched("run_clm", "w-xl", runs.xl),
        "run_glue waits": lambda: runs.watched("w-glue", runs.finetuning("w-glue", "--rdrop", 1.0, "--fgm_eps", 1.0)),
        "tests marked gpu": gpu_tests,
    }


def scripts(check: Check) -> Iterator[Case]:
    """All of them side by side, once the corpus is there."""

    def prepare():
        write_corpus(check)
        return {"rows": len((check.work / "text.jsonl").read_text(encoding="utf-8").splitlines())}

    yield "run_chinese_ref", prepare
    with ThreadPoolExecutor(check.size(AT_A_TIME, 1)) as pool:
        for name, future in [(name, pool.submit(case)) for name, case in cases_of(Runs(check)).items()]:
            yield name, future.result
