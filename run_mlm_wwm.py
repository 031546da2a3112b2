"""Pretrain a masked language model on a corpus folder made by run_chinese_ref.py or data/create_data.py.

Without --model_type, --config_name and --model_name_or_path it trains GAU-alpha L-24 H-768; --model_type roberta, bert
and every other masked LM of transformers work as well. Running the same command again resumes. Flags are those of
JunnYu/FLASHQuad_pytorch's script of this name and those that --help lists.
"""

import sys

from training.pretrained import ArgumentError, load_tokenizer, refuse_unknown_names

if __name__ == "__main__":  # a mistyped name is told before the seconds that the imports below take
    try:
        refuse_unknown_names(sys.argv[1:], ("--tokenizer_name", "--model_name_or_path", "--config_name"))
    except ArgumentError as error:
        sys.exit(f"run_mlm_wwm.py: {error}")

import hashlib
import json
import logging
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import AutoModelForMaskedLM, set_seed

import models  # noqa: F401  registers the model types
from data.collators import MaskCollator
from data.corpus import Corpus, CorpusError
from data.masking import TokenMasking, WholeWordMasking
from data.packing import HELD_OUT_SEED, Rows, load_rows, pack, padding_share
from data.sampling import CorpusRows, EvalBatches, TrainBatches
from models.stock import adapt, check_isolation, longest_row
from training.architecture import make_model
from training.arguments import (
    CorpusArguments,
    ModelArguments,
    RunArguments,
    check_data_flags,
    course_settings,
    parse_arguments,
    per_epoch_to_steps,
    split_for_cpu,
)
from training.objectives import MaskedLanguageModelling
from training.run import set_up_process, start_run
from training.trainer import Trainer

logger = logging.getLogger(__name__)

MASKINGS = {"word": WholeWordMasking, "token": TokenMasking}


@dataclass
class DataArguments(CorpusArguments):
    """What to train on and how to mask it."""

    mask_unit: str = field(
        default="word", metadata={"help": "What is masked whole: word or token.", "choices": list(MASKINGS)}
    )
    mlm_probability: float = field(default=0.15, metadata={"help": "Labelled tokens per token, in (0, 1)."})
    mask_share: float = field(default=0.8, metadata={"help": "Share of labelled tokens that become [MASK]."})
    random_share: float = field(default=0.1, metadata={"help": "Share of labelled tokens replaced at random."})
    replace_by_word: bool = field(default=False, metadata={"help": "Draw the replacement per word, not per token."})
    unigram_bias: bool = field(
        default=False, metadata={"help": "Start a new model's output bias at log word frequencies."}
    )


def main(argv=None) -> dict[str, float]:
    """Train and evaluate as the flags say; returns the last evaluation's numbers ({} without held-out data)."""
    model_args, data_args, args = parse_arguments([ModelArguments, DataArguments, RunArguments], argv)
    check_arguments(model_args, data_args, args)
    set_up_process(args)
    tokenizer = load_tokenizer(model_args.tokenizer_name, "--tokenizer_name")
    backend = tokenizer.backend_tokenizer
    plain, held_out = load_rows(data_args.train_dir, data_args.validation_dir, data_args.validation_split, backend)
    train = pack(plain, data_args.packing, data_args.max_seq_length, backend)
    set_seed(args.seed)
    model = adapt(make_model(AutoModelForMaskedLM, model_args, tokenizer))
    check_rows(model, data_args, train, held_out)
    if data_args.unigram_bias:
        set_unigram_bias(model, train.corpus)
    multiple = 8 if args.fp16 or args.bf16 else 1
    batches = make_train_batches(args, train, plain, multiple) if args.do_train else None
    trainer = Trainer(
        model=model,
        args=args,
        processing_class=tokenizer,
        objective=MaskedLanguageModelling(model, int(train.lengths.max()), data_args.mlm_probability),
        train_dataset=CorpusRows(train),
        train_batches=batches,
        data_collator=make_collator(data_args, tokenizer, args.seed, multiple),
        eval_dataset=CorpusRows(held_out) if held_out else None,
        eval_batches=make_eval_batches(args, held_out) if held_out else None,
        eval_collator=make_collator(data_args, tokenizer, HELD_OUT_SEED, multiple, fixed=True),
    )
    if not args.do_train:
        metrics = trainer.evaluate()
        print(json.dumps(metrics))
        return metrics
    checkpoint = start_run(args, settings_of(model_args, data_args, args, model.config, train, held_out))
    trainer.train(checkpoint)
    if trainer.stop.reason != "SIGTERM":
        trainer.save_model()
    return last_evaluation(trainer.state)


def check_arguments(model_args, data_args, args) -> None:
    """ArgumentError for flags that do not go together."""
    check_data_flags(data_args, args)
    if model_args.model_name_or_path and (model_args.config_name or model_args.config_overrides):
        raise ArgumentError(
            "--model_name_or_path must stand without --config_name and --config_overrides; leave it out"
        )
    if model_args.model_name_or_path is None and not args.do_train:
        raise ArgumentError("--do_eval without --do_train needs trained weights; add --model_name_or_path")
    if data_args.unigram_bias and model_args.model_name_or_path:
        raise ArgumentError("--unigram_bias is for new models; leave it or --model_name_or_path out")
    args.output_dir = args.output_dir or model_args.model_name_or_path


def check_rows(model, data_args, train: Rows, held_out: Rows | None) -> None:
    """ArgumentError when the model cannot take these rows."""
    most, longest = longest_row(model), max(int(rows.lengths.max()) for rows in (train, held_out) if rows)
    if most is not None and longest > most:
        raise ArgumentError(
            f"--max_seq_length must be at most {most}, the tokens that the model has positions for, got rows of "
            f"{longest}; prepare shorter ones or raise max_position_embeddings in --config_overrides"
        )
    if data_args.packing == "isolated":
        try:
            check_isolation(model)
        except ValueError as error:
            raise ArgumentError(f"--packing {error}") from error


def set_unigram_bias(model, corpus: Corpus) -> None:
    """Set the output bias to the log frequency of each token, so that training need not learn it first."""
    bias = getattr(model.get_output_embeddings(), "bias", None)
    if bias is None:
        raise ArgumentError(
            f"--unigram_bias needs a head with an output bias, and {type(model).__name__} has none; leave it out"
        )
    counts = torch.from_numpy(corpus.token_counts()).float() + 1
    with torch.no_grad():
        bias[: len(counts)].copy_(torch.log(counts / counts.sum()))


def make_collator(data_args, tokenizer, seed: int, multiple: int, fixed: bool = False) -> MaskCollator:
    try:
        masking = MASKINGS[data_args.mask_unit](
            vocab_size=len(tokenizer),
            mask_token_id=tokenizer.mask_token_id,
            special_ids=tuple(tokenizer.all_special_ids),
            probability=data_args.mlm_probability,
            mask_share=data_args.mask_share,
            random_share=data_args.random_share,
            by_word=data_args.replace_by_word,
            seed=seed,
        )
    except ValueError as error:
        raise ArgumentError(f"--{error}") from error
    return MaskCollator(masking, tokenizer.pad_token_id, multiple, fixed)


def make_train_batches(args, train: Rows, plain: Rows, multiple: int) -> TrainBatches:
    """This process's micro-batches of the whole run; settles max_steps and what is measured in epochs.

    plain: the rows that `train` was packed from; multiple: what rows are padded to.
    """
    split_for_cpu(args, int(train.lengths.max()))
    rows_per_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    per_epoch_to_steps(args, len(train) / rows_per_step)

    def batches_of(rows: Rows) -> TrainBatches:
        return TrainBatches(
            np.arange(len(rows)),
            args.train_batch_size,
            args.gradient_accumulation_steps,
            args.world_size,
            args.process_index,
            steps=args.max_steps,
            seed=args.seed if args.data_seed is None else args.data_seed,
            lengths=rows.lengths if args.train_sampling_strategy == "group_by_length" else None,
        )

    shares = [100 * padding_share(batches_of(rows), rows, multiple) for rows in (train, plain)]
    logger.info("%d rows; padding %.1f %% of the positions (%.1f %% with --packing none)", len(train), *shares)
    return batches_of(train)


def make_eval_batches(args, held_out: Rows) -> EvalBatches:
    return EvalBatches(
        np.arange(len(held_out)), held_out.lengths, args.eval_batch_size, args.world_size, args.process_index
    )


def settings_of(model_args, data_args, args, config, train: Rows, held_out: Rows | None) -> dict:
    """All that decides which weights the run ends with: a run is resumed only with equal settings."""
    manifest = json.dumps(train.corpus.manifest, sort_keys=True).encode()
    names = (
        "packing",
        "max_seq_length",
        "mask_unit",
        "mlm_probability",
        "mask_share",
        "random_share",
        "replace_by_word",
        "unigram_bias",
        "validation_split",
    )
    return {
        "arguments": course_settings(args),
        "data": {name: getattr(data_args, name) for name in names}
        | {"train_dir": hashlib.sha256(manifest).hexdigest()},
        "model": {
            k: v for k, v in config.to_diff_dict().items() if k not in ("transformers_version", "_name_or_path")
        },
        "model_name_or_path": model_args.model_name_or_path,
    }


def last_evaluation(state) -> dict[str, float]:
    return next((logs for logs in reversed(state.log_history) if "eval_loss" in logs), {})


if __name__ == "__main__":
    try:
        main()
    except (ArgumentError, CorpusError) as error:
        sys.exit(f"run_mlm_wwm.py: {error}")
