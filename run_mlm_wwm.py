"""Pretrain a masked language model on a corpus folder made by run_chinese_ref.py or data/create_data.py.

    python run_mlm_wwm.py --do_train --train_dir outputs/mine/corpus --tokenizer_name outputs/mine/tokenizer \\
        --config_overrides num_hidden_layers=4,hidden_size=128,intermediate_size=256 --learning_rate 2e-3 \\
        --validation_split 0.05 --max_steps 50 --output_dir outputs/mine/model

The corpus is what the example of run_chinese_ref.py writes; half a minute on two cores.

Without --model_type, --config_name and --model_name_or_path it trains GAU-alpha L-24 H-768; --model_type roberta, bert
and every other masked LM of transformers work as well. Running the same command again resumes. Flags are those of
JunnYu/FLASHQuad_pytorch's script of this name and those that --help lists.
"""

import sys

from common.errors import ArgumentError
from common.script import next_command, one_line_errors, run_script
from training.pretrained import check_special_tokens, entry_count, load_tokenizer, refuse_unknown_names

if __name__ == "__main__":  # a mistyped name is told before the seconds that the imports below take
    with one_line_errors():
        refuse_unknown_names(sys.argv[1:], ("--tokenizer_name", "--model_name_or_path", "--config_name"))

import json
import logging
from dataclasses import dataclass, field

from transformers import AutoModelForMaskedLM, set_seed

import models  # noqa: F401  registers the model types
from data.batches.corpora import load_maskable_rows, settle_length
from data.batches.masking import MASKINGS, make_collator, make_eval_collator
from data.batches.neighbour_vectors import neighbour_vectors
from data.batches.packing import pack
from data.batches.sampling import (
    EpochRows,
    make_eval_batches,
    make_train_batches,
)
from models.post_norm import use_fast_layers
from models.stock import accept_our_inputs, check_rows, longest_row
from training.arguments import (
    AdaptableModelArguments,
    CorpusArguments,
    RunArguments,
    check_data_flags,
    parse_arguments,
    settle_steps,
)
from training.config_derivation import check_first_pass
from training.loop.metric_sums import SumEvaluator
from training.loop.run_report import RunReport, finetuning_command, padding_flags, tell_end
from training.loop.trainer import Trainer
from training.model_setup import made_whole, make_model, set_embeddings, set_unigram_bias
from training.objectives.masked_lm import MaskedLanguageModelling
from training.pretraining_flags import TRAINING
from training.process import set_up_process
from training.run_folder import run_settings, run_to_end, settle_row_order
from training.samples.blanks import Blanks, read_questions
from training.samples.report import Samples
from training.sharing.adapters import add_adapters
from training.sharing.adapters import check_flags as check_lora

logger = logging.getLogger(__name__)


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
    eval_mask_unit: str = field(
        default="word", metadata={"help": "--mask_unit of held-out rows.", "choices": list(MASKINGS)}
    )
    eval_mlm_probability: float = field(default=0.15, metadata={"help": "--mlm_probability of held-out rows."})
    eval_mask_share: float = field(default=0.8, metadata={"help": "--mask_share of held-out rows."})
    eval_random_share: float = field(default=0.1, metadata={"help": "--random_share of held-out rows."})
    unigram_bias: bool = field(
        default=False, metadata={"help": "Start a new model's output bias at log word frequencies."}
    )
    count_embeddings: bool = field(
        default=False, metadata={"help": "Start a new model's word embeddings at vectors of counted neighbours."}
    )


def main(argv=None) -> dict[str, float]:
    """Train and evaluate as the flags say; returns the last evaluation's numbers ({} without held-out data)."""
    classes = [AdaptableModelArguments, DataArguments, RunArguments]
    model_args, data_args, args = parse_arguments(classes, argv, TRAINING, __doc__)
    check_arguments(model_args, data_args, args)
    set_up_process(args)
    settle_row_order(args)
    tokenizer = load_tokenizer(model_args.tokenizer_name, "--tokenizer_name", model_args.trust_remote_code)
    check_special_tokens(tokenizer, model_args.tokenizer_name, "--tokenizer_name")
    backend = tokenizer.backend_tokenizer
    plain, held_out = load_maskable_rows(data_args, tokenizer, args.row_order)
    length = settle_length(plain, data_args.max_seq_length)
    train = plain
    if data_args.packing != "none":
        train = plain.each(lambda rows: pack(rows, data_args.packing, length, backend, args.rows_by_chunk))
    set_seed(args.seed)
    with made_whole(args):
        model = make_model(AutoModelForMaskedLM, model_args, tokenizer, new_head=args.do_train)
    model = use_fast_layers(accept_our_inputs(model))
    if model_args.lora:
        add_adapters(model, model_args.lora)
    check_rows([model], (train, held_out), data_args.packing == "isolated")
    if data_args.unigram_bias:
        set_unigram_bias(model, train.corpus.token_counts())
    if data_args.count_embeddings:
        width = model.get_input_embeddings().weight.shape[1]
        set_embeddings(model, *neighbour_vectors(plain, entry_count(tokenizer), width, tokenizer.all_special_ids))
    multiple = 8 if args.fp16 or args.bf16 else 1
    settle_steps(args, train.lengths)
    entries, options = entry_count(tokenizer), masking_options(data_args) | {"seed": args.seed}
    collator = make_collator(tokenizer, entries, data_args.mask_unit, multiple, **options)
    options = eval_masking_options(data_args)
    eval_collator = make_eval_collator(tokenizer, entries, data_args.eval_mask_unit, multiple, **options)
    objective = MaskedLanguageModelling(model, int(train.lengths.max()), data_args.mlm_probability)
    check_first_pass(model, objective, None if model_args.model_name_or_path else model_args.config_overrides or "")
    evaluator = None
    if held_out:
        eval_batches = make_eval_batches(args, held_out)
        evaluator = SumEvaluator(args, objective, EpochRows(held_out), eval_batches, eval_collator)
    batches = make_train_batches(args, train, plain, multiple) if args.do_train else None
    trainer = Trainer(
        model=model,
        args=args,
        processing_class=tokenizer,
        objective=objective,
        train_dataset=EpochRows(train),
        train_batches=batches,
        data_collator=collator,
        evaluator=evaluator,
        callbacks=[RunReport(args, batches, train.lengths, padding_flags(args, data_args))] if batches else None,
    )
    add_samples(trainer, data_args.probe_file, model, tokenizer)
    if not args.do_train:
        print(json.dumps(metrics := trainer.evaluate()))
        return metrics
    source = {"model_name_or_path": model_args.model_name_or_path, "lora": model_args.lora}
    settings = run_settings(args, data_args, train.corpus.manifest, model.config, source)
    metrics = run_to_end(trainer, settings, trainer.save_model, train.corpus.description)
    probe = next_command("probe_mlm.py", args.output_dir, f"a text with {tokenizer.mask_token} in it")
    tell_end(args, [args.output_dir], [probe, finetuning_command(args.output_dir, args.output_dir)])
    return metrics


def add_samples(trainer, probe_file: str | None, model, tokenizer) -> None:
    """Of the blanks in a file, if there is one."""
    if probe_file is not None:
        blanks = Blanks(model, tokenizer, read_questions(probe_file, tokenizer, longest_row(model)))
        trainer.add_callback(Samples(trainer, blanks))


def masking_options(data_args) -> dict:
    """What decides which tokens are masked and how."""
    return {
        "probability": data_args.mlm_probability,
        "mask_share": data_args.mask_share,
        "random_share": data_args.random_share,
        "by_word": data_args.replace_by_word,
    }


def eval_masking_options(data_args) -> dict:
    """The same of held-out rows, by flags of their own: what a training is measured by does not change with it."""
    return {
        "probability": data_args.eval_mlm_probability,
        "mask_share": data_args.eval_mask_share,
        "random_share": data_args.eval_random_share,
    }


def check_arguments(model_args, data_args, args) -> None:
    """ArgumentError for flags that do not go together."""
    check_data_flags(data_args, args)
    if model_args.model_name_or_path and (model_args.config_name or model_args.config_overrides):
        raise ArgumentError(
            "--model_name_or_path must stand without --config_name and --config_overrides; leave it out"
        )
    if model_args.model_name_or_path is None and not args.do_train:
        raise ArgumentError("--do_eval without --do_train needs trained weights; add --model_name_or_path")
    for name in ("unigram_bias", "count_embeddings"):
        if getattr(data_args, name) and model_args.model_name_or_path:
            raise ArgumentError(f"--{name} is for new models; leave it or --model_name_or_path out")
    check_lora(model_args.lora, model_args.model_name_or_path, args)
    args.output_dir = args.output_dir or model_args.model_name_or_path


if __name__ == "__main__":
    run_script(main)
