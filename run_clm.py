"""Pretrain or finetune a causal language model, or measure its perplexity: Transformer-XL, or any of transformers.

    python run_clm.py --do_train --train_file outputs/mine/all.jsonl --tokenizer_name outputs/mine/tokenizer \\
        --config_overrides num_hidden_layers=2,hidden_size=128,num_attention_heads=2 --max_seq_length 64 \\
        --per_device_train_batch_size 4 --max_steps 10 --output_dir outputs/mine/txl

The inputs are what the examples of data/trans_to_json.py and data/train_tokenizer.py write.

Text is JSON lines or a table of prompt and text, with the loss on text and end token only, text files, or a corpus
folder. Transformer-XL reads streams whose memory is carried from step to step; other models, and --mem_len 0, read
shuffled rows of the same stream. Without --do_train it prints the perplexity. Running the same command again resumes.
"""

import sys

from common.errors import ArgumentError
from common.script import next_command, one_line_errors, run_script
from training.pretrained import load_tokenizer, refuse_unknown_names

if __name__ == "__main__":  # a mistyped name is told before the seconds that the imports below take
    with one_line_errors():
        refuse_unknown_names(sys.argv[1:], ("--tokenizer_name", "--model_name_or_path", "--config_name"))

import copy
import json
from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import gather_object
from transformers import AutoModelForCausalLM, set_seed

import models  # noqa: F401  registers the model types
from data.batches.causal_documents import load_documents, text_frame
from data.batches.causal_streams import CausalCollator, Windows, make_eval_batches, make_train_batches, stream_rows
from data.batches.sampling import EpochRows
from data.text.prompts import read_prompts
from models.convert import thudm
from models.convert.transformer_xl import load as load_thudm
from models.text_generator import Generator
from models.tokenization_cog import cog_tokenizer, find_model_file
from training.arguments import AdaptableModelArguments, ModelParallelArguments, parse_arguments, settle_steps
from training.files import write_whole
from training.loop.compiling import check_recording
from training.loop.metric_sums import SumEvaluator
from training.loop.run_report import RunReport, tell_end
from training.loop.trainer import Trainer
from training.model_setup import check_vocabulary, made_whole, make_model, own_memory
from training.objectives.causal_lm import CausalLanguageModelling
from training.pretraining_flags import TRAINING
from training.process import set_up_process, spreads_weights
from training.run_folder import run_settings, run_to_end, settle_row_order
from training.samples.report import Samples
from training.sharing.adapters import add_adapters
from training.sharing.adapters import check_flags as check_lora

SAMPLED = 64  # tokens behind each beginning of --probe_file
MOST_TOKENS = 1024  # of a row by default, where the model would take more
REFUSED = ("group_by_length", "train_sampling_strategy")  # all rows are of one length


@dataclass
class CausalModelArguments(AdaptableModelArguments):
    """Which model to train or measure."""

    tokenizer_name: str | None = field(
        default=None, metadata={"help": "Folder, hub name or sentencepiece file; default: the model's own."}
    )
    model_type: str = field(
        default="transformer_xl", metadata={"help": "Architecture of a new model, a model_type string."}
    )


@dataclass
class DataArguments:
    """What to train on and to measure."""

    train_file: str | None = field(
        default=None,
        metadata={"help": "JSON lines or a table of prompt and text, or a text file."},
    )
    train_dir: str | None = field(default=None, metadata={"help": "Corpus folder to train on, instead of train_file."})
    validation_file: str | None = field(default=None, metadata={"help": "As train_file, to evaluate on."})
    validation_split: float | None = field(
        default=None, metadata={"help": "Share of the training documents held out for evaluation, in (0, 1)."}
    )
    doc_spliter: str | None = field(
        default=None, metadata={"help": "Line between documents of a text file; default: a file is one document."}
    )
    text_column: str | None = field(
        default=None, metadata={"help": "Column of a table, or key of JSON lines, that holds the text; default: text."}
    )
    max_seq_length: int | None = field(
        default=None, metadata={"help": "Tokens of a segment or row; default: the model's, at most 1024."}
    )
    mem_len: int | None = field(
        default=None,
        metadata={"help": "Tokens of Transformer-XL's memory; 0 for shuffled rows; default: its config's."},
    )
    document_mask: bool = field(default=True, metadata={"help": "Let tokens see their own document only."})
    stride: int | None = field(
        default=None,
        metadata={"help": "Tokens between windows of evaluation without memory; default: max_seq_length."},
    )
    probe_file: str | None = field(
        default=None, metadata={"help": "Beginnings of texts, a line each, continued at each evaluation."}
    )
    perplexity_file: str | None = field(
        default=None, metadata={"help": "JSON lines to write: targets and perplexity of each held-out document."}
    )


def main(argv=None) -> dict[str, float]:
    """Train and evaluate as the flags say; returns the last evaluation's numbers ({} without held-out data)."""
    classes = [CausalModelArguments, DataArguments, ModelParallelArguments]
    model_args, data_args, args = parse_arguments(classes, argv, TRAINING, __doc__, REFUSED)
    check_arguments(model_args, data_args, args)
    set_up_process(args)
    settle_row_order(args)
    tokenizer = read_tokenizer(
        model_args.tokenizer_name or model_args.model_name_or_path, model_args.trust_remote_code
    )
    set_seed(args.seed)
    with made_whole(args):
        model = load_or_make(model_args, tokenizer)
    if model_args.lora:
        add_adapters(model, model_args.lora)
    begin, end = text_frame(tokenizer)
    if model_args.model_name_or_path is None:
        set_special_ids(model, tokenizer, end)
    length, mem_len = settle_lengths(model, data_args)
    check_recording(args.torch_compile_mode, mem_len)
    train, held_out = load_documents(data_args, tokenizer, begin, end, args.rows_by_chunk)
    rows = batches = None
    if args.do_train:
        rows = stream_rows(train, length, args.seed if args.data_seed is None else args.data_seed)
        settle_steps(args, rows.lengths)
        batches = make_train_batches(args, rows, mem_len)
    pad = end if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    objective = CausalLanguageModelling(model, length, batches, mem_len, data_args.document_mask)
    overrides = None if model_args.model_name_or_path else model_args.config_overrides or ""
    objective.check(model, packed=args.do_train, overrides=overrides)
    evaluator = None
    if held_out:
        windows = Windows(held_out, length, data_args.stride or length)
        whole_segments = CausalCollator(pad, length if mem_len else None)
        eval_batches = make_eval_batches(args, windows, mem_len)
        evaluator = SumEvaluator(args, objective, EpochRows(windows), eval_batches, whole_segments)
    trainer = Trainer(
        model=model,
        args=args,
        processing_class=tokenizer,
        objective=objective,
        train_dataset=EpochRows(rows) if rows else None,
        train_batches=batches,
        data_collator=CausalCollator(pad, length),
        evaluator=evaluator,
        callbacks=[RunReport(args, batches, rows.lengths)] if rows else None,
    )
    add_samples(trainer, data_args.probe_file, model, tokenizer, begin)
    if not args.do_train:
        return evaluate(trainer, objective, data_args.perplexity_file)
    sources = {"model_name_or_path": model_args.model_name_or_path, "lora": model_args.lora}
    settings = run_settings(args, data_args, {"documents": train.digest}, model.config, sources)
    metrics = run_to_end(trainer, settings, trainer.save_model, f"`{data_args.train_file or data_args.train_dir}`")
    tell_end(args, [args.output_dir], [next_command("generate_text.py", args.output_dir, "--prompt", "a beginning")])
    return metrics


def check_arguments(model_args, data_args, args) -> None:
    """ArgumentError for flags that do not go together; do_eval becomes whether there is held-out text."""
    trained, name = bool(data_args.train_file or data_args.train_dir), model_args.model_name_or_path
    held_out = bool(data_args.validation_file) or data_args.validation_split is not None
    wrong = {
        "--do_train or --do_eval must be given, got neither; add one": not (args.do_train or args.do_eval),
        "--train_file or --train_dir must be given, one of them": args.do_train
        and bool(data_args.train_file) == bool(data_args.train_dir),
        "--output_dir must name the folder of the run, got none; add it": args.do_train and args.output_dir is None,
        "--model_name_or_path must stand without --config_name and --config_overrides; leave it out": name
        and (model_args.config_name or model_args.config_overrides),
        "--do_eval without --do_train needs trained weights; add --model_name_or_path": not (args.do_train or name),
        "--tokenizer_name must be given for a new model; add it": not (model_args.tokenizer_name or name),
        "--validation_split must stand with training text and without --validation_file": (
            data_args.validation_split is not None and (data_args.validation_file or not trained)
        ),
        "--do_eval and --eval_strategy need held-out text; add --validation_file": not held_out
        and (args.do_eval or args.eval_strategy != "no"),
        "--probe_file needs --do_train; ask a finished model with generate_text.py": (
            data_args.probe_file and not args.do_train
        ),
        "--probe_file must stand without --fsdp, ZeRO stage 3 and --model_parallel_size; leave it out": (
            data_args.probe_file and (spreads_weights(args) or args.model_parallel_size > 1)
        ),
        "--perplexity_file needs --do_eval without --do_train": data_args.perplexity_file and args.do_train,
        "--group_by_length has no use here, where all rows are of one length; leave it out": (
            args.train_sampling_strategy == "group_by_length"
        ),
        "--model_parallel_size needs --do_train; measure the finished model on one process": (
            args.model_parallel_size > 1 and not args.do_train
        ),
        "--fsdp and ZeRO stage 3 must stand without held-out text; measure the finished model with --do_eval": (
            held_out and spreads_weights(args)
        ),
    }
    for message, holds in wrong.items():
        if holds:
            raise ArgumentError(message)
    check_lora(model_args.lora, name, args)
    args.do_eval = held_out
    args.output_dir = args.output_dir or model_args.model_name_or_path


def read_tokenizer(name: str, trust_remote_code: bool):
    """The tokenizer of a folder, hub name or sentencepiece file."""
    file = find_model_file(name)
    return cog_tokenizer(file) if file else load_tokenizer(name, "--tokenizer_name", trust_remote_code)


def load_or_make(model_args, tokenizer) -> torch.nn.Module:
    """The model to continue from, THUDM's checkpoints among them, or a new one; in fp32."""
    name = model_args.model_name_or_path
    if name is None or not thudm.is_checkpoint(Path(name)):
        return make_model(AutoModelForCausalLM, model_args, tokenizer)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model = own_memory(load_thudm(name, ids, dtype=torch.float32))
    check_vocabulary(model.config, name, "--model_name_or_path", tokenizer)
    return model


def add_samples(trainer, probe_file: str | None, model, tokenizer, begin: list[int]) -> None:
    """Of the beginnings in a file, if there is one."""
    if probe_file is not None:
        texts = Continuations(model, tokenizer, begin, read_prompts(probe_file, "plain", "--probe_file"))
        trainer.add_callback(Samples(trainer, texts))


class Continuations:
    """What a model makes of beginnings as it is, sampled as generate_text.py does; see training/samples/report.py."""

    def __init__(self, model, tokenizer, begin: list[int], prompts: list[str]):
        settings = {"temperature": 1.0, "top_k": 0, "top_p": 0.9, "repetition_penalty": 1.0, "num_beams": 1}
        settings |= {"max_length": None, "max_new_tokens": SAMPLED, "source_prefix": "", "cuda_graph": False}
        # A copy, because the generator makes the tokenizer decode without spaces between Chinese characters.
        self._generator = Generator(model, copy.deepcopy(tokenizer), begin, None, Namespace(**settings))
        self.model, self._prompts = model, prompts
        self._generator.room([self._generator.encode(prompt) for prompt in prompts])

    def __call__(self) -> tuple[list[dict[str, str]], dict[str, float]]:
        texts = self._generator.generate(self._prompts)
        pairs = zip(self._prompts, texts, strict=True)
        return [{"prompt": prompt, "text": prompt + text} for prompt, text in pairs], {}


def set_special_ids(model, tokenizer, end: int) -> None:
    """Tell a new model, and its generate(), the tokenizer's ids."""
    for config in (model.config, model.generation_config):
        config.eos_token_id, config.bos_token_id = end, tokenizer.bos_token_id
        config.pad_token_id = end if tokenizer.pad_token_id is None else tokenizer.pad_token_id


def settle_lengths(model, data_args) -> tuple[int, int]:
    """Tokens of a segment and of memory. ArgumentError for numbers that the model cannot take."""
    config = model.config
    has_memory = getattr(config, "mem_len", None) is not None and getattr(config, "relative_encoding", True)
    mem_len = (config.mem_len if has_memory else 0) if data_args.mem_len is None else data_args.mem_len
    if mem_len < 0 or (mem_len and not has_memory):
        raise ArgumentError(
            f"--mem_len must be 0 for {type(model).__name__}, which has no memory, got {mem_len}; leave it out"
        )
    most = None if getattr(config, "relative_encoding", False) else getattr(config, "max_position_embeddings", None)
    length = (
        data_args.max_seq_length or getattr(config, "segment_length", None) or min(most or MOST_TOKENS, MOST_TOKENS)
    )
    if length < 1 or (most is not None and length > most):
        raise ArgumentError(
            f"--max_seq_length must be at least 1 and at most the {most} tokens that the model has positions for, "
            f"got {length}; change it"
        )
    stride = data_args.stride or length
    if not 0 < stride <= length or (mem_len and stride != length):
        raise ArgumentError(
            f"--stride must lie in 1..{length}, and be left out with a memory, got {stride}; change it"
        )
    if has_memory:
        config.mem_len = mem_len
    return length, mem_len


def evaluate(trainer: Trainer, objective: CausalLanguageModelling, perplexity_file: str | None) -> dict[str, float]:
    """Measure and print; with a file, of each document too."""
    with objective.document_sums() as batches:
        metrics = trainer.evaluate()
    if perplexity_file:
        own = torch.stack([torch.cat(parts).double() for parts in zip(*batches, strict=True)]).cpu()
        numbers, losses, counts = torch.cat(gather_object([own]), dim=1).numpy()
        losses, counts = (np.bincount(numbers.astype(int), weights=values) for values in (losses, counts))
        if trainer.is_world_process_zero():
            lines = [
                {"document": number, "targets": int(count), "perplexity": float(np.exp(loss / max(count, 1)))}
                for number, (loss, count) in enumerate(zip(losses, counts, strict=True))
            ]
            write_whole(Path(perplexity_file), "".join(json.dumps(line) + "\n" for line in lines))
    if trainer.is_world_process_zero():
        print(json.dumps(metrics))
    return metrics


if __name__ == "__main__":
    run_script(main)
