"""Pretrain ELECTRA, a generator and a discriminator, on a corpus folder made by run_chinese_ref.py or create_data.py.

    python run_electra.py --do_train --train_dir outputs/mine/corpus --tokenizer_name outputs/mine/tokenizer \\
        --config_overrides num_hidden_layers=2,hidden_size=128,intermediate_size=256 --dataloader_num_workers 0 \\
        --per_device_train_batch_size 16 --max_steps 10 --warmup_steps 2 --output_dir outputs/mine/electra

The corpus is what the example of run_chinese_ref.py writes.

Without further flags it is ELECTRA-small of google-research/electra in the form of richarddwang/electra_pytorch;
--size base and large take their settings, --model_type gau_alpha another pair of networks. Running the same command
again resumes. The run's folder receives discriminator/ and generator/, which transformers loads as they are.
"""

import sys

from common.errors import ArgumentError
from common.script import next_command, one_line_errors, run_script
from training.pretrained import check_special_tokens, entry_count, load_config, load_tokenizer, refuse_unknown_names

if __name__ == "__main__":  # a mistyped name is told before the seconds that the imports below take
    with one_line_errors():
        names = ("--tokenizer_name", "--config_name", "--generator_config_name")
        refuse_unknown_names(sys.argv[1:], (*names, "--model_name_or_path", "--generator_name_or_path"))

import json
from dataclasses import fields
from functools import partial
from pathlib import Path

from transformers import AutoModelForMaskedLM, set_seed

import models  # noqa: F401  registers the model types
from common.files import give_usual_rights
from data.batches.corpora import load_maskable_rows, settle_length
from data.batches.electra_rows import electra_rows
from data.batches.masking import MASK_STYLES, make_collator, make_eval_collator
from data.batches.neighbour_vectors import neighbour_vectors
from data.batches.packing import pack
from data.batches.sampling import (
    HELD_OUT_SEED,
    EpochRows,
    Rows,
    make_eval_batches,
    make_train_batches,
)
from models.electra.config import SIZES, ElectraOptions, electra_configs, generator_config
from models.electra.joint_model import (
    ElectraForJointPreTraining,
    discriminator_class,
    make_joint_model,
    new_joint_model,
)
from models.stock import check_rows, longest_row
from training.arguments import check_data_flags, parse_arguments, settle_steps
from training.config_derivation import check_first_pass
from training.electra_arguments import (
    ElectraDataArguments,
    ElectraModelArguments,
    ElectraRunArguments,
    fill_from_size,
    run_name,
)
from training.loop.extension import Extension
from training.loop.metric_sums import SumEvaluator
from training.loop.optimizers import factors_of_part
from training.loop.run_report import RunReport, finetuning_command, padding_flags, tell_end
from training.loop.saving import whole_weights
from training.loop.trainer import Trainer
from training.model_setup import (
    check_fits,
    finish_config,
    load_model,
    made_whole,
    make_config,
    set_embeddings,
    set_unigram_bias,
)
from training.objectives.electra import FallingTemperature, ReplacedTokenDetection
from training.pretraining_flags import TRAINING
from training.process import set_up_process
from training.run_folder import run_settings, run_to_end, settle_row_order, settle_seed
from training.samples.blanks import Blanks, read_questions
from training.samples.report import Samples
from training.sharing.model_folder import save_tokenizer


def main(argv=None) -> dict[str, float]:
    """Train and evaluate as the flags say; returns the last evaluation's numbers ({} without held-out data)."""
    classes = [ElectraModelArguments, ElectraDataArguments, ElectraRunArguments]
    model_args, data_args, args = parse_arguments(classes, argv, TRAINING, __doc__)
    check_arguments(model_args, data_args, args)
    set_up_process(args)
    settle_seed(args)
    settle_row_order(args)
    args.run_name = run_name(args)
    tokenizer = load_tokenizer(model_args.tokenizer_name, "--tokenizer_name", model_args.trust_remote_code)
    check_special_tokens(tokenizer, model_args.tokenizer_name, "--tokenizer_name")
    backend = tokenizer.backend_tokenizer
    plain, held_out = load_maskable_rows(data_args, tokenizer, args.row_order)
    train = make_rows(data_args, plain, backend, args.seed, args.rows_by_chunk)
    held_out = held_out and make_rows(data_args, held_out, backend, HELD_OUT_SEED, chunked=False)
    set_seed(args.seed)
    with made_whole(args):
        model = make_model(model_args, args.size, tokenizer)
    check_rows(model.children(), (train, held_out), data_args.packing == "isolated")
    if model_args.unigram_bias:
        set_unigram_bias(model, train.corpus.token_counts())
    if model_args.count_embeddings:
        networks = {network.get_input_embeddings().weight: network for network in model.children()}  # one if shared
        for weight, network in networks.items():
            set_embeddings(network, *neighbour_vectors(plain, *weight.shape, tokenizer.all_special_ids))
    multiple = 8 if args.fp16 or args.bf16 else 1
    settle_steps(args, train.lengths)

    entries, options = entry_count(tokenizer), masking_options(data_args, tokenizer) | {"seed": args.seed}
    collator = make_collator(tokenizer, entries, data_args.mask_unit, multiple, noise=True, **options)
    options = eval_masking_options(data_args)
    eval_collator = make_eval_collator(tokenizer, entries, data_args.eval_mask_unit, multiple, noise=True, **options)
    objective = ReplacedTokenDetection(model, int(train.lengths.max()), data_args.mlm_probability)
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
        extension=Networks(model, tokenizer, args),
        callbacks=[RunReport(args, batches, train.lengths, padding_flags(args, data_args))] if batches else None,
    )
    if model.options.initial_temperature is not None:
        trainer.add_callback(FallingTemperature(model, trainer.stop))
    add_samples(trainer, data_args.probe_file, model, tokenizer)
    if not args.do_train:
        metrics = trainer.evaluate()
        print(json.dumps(metrics))
        return metrics
    settings = run_settings(args, data_args, train.corpus.manifest, model.config, sources_of(model_args, args))
    save = partial(trainer.extension.export, trainer)
    metrics = run_to_end(trainer, settings, save, train.corpus.description)
    tell_networks(args, model, tokenizer.mask_token)
    return metrics


def sources_of(model_args, args) -> dict:
    """What decides the run's weights besides its arguments, data and config."""
    sources = {name: getattr(model_args, name) for name in ("model_name_or_path", "generator_name_or_path")}
    if args.layer_decay is not None:
        sources["layer_decay"] = [args.layer_decay, args.layer_decay_offset]
    return sources


def tell_networks(args, model, mask: str) -> None:
    """At the end: where the networks are, and what to do with them."""
    networks = {name: str(Path(args.output_dir, name)) for name, _ in model.named_children()}
    commands = {
        "generator": lambda folder: next_command("probe_mlm.py", folder, f"a text with {mask} in it"),
        "discriminator": lambda folder: f"{finetuning_command(folder, args.output_dir)} --recipe electra",
    }
    tell_end(args, list(networks.values()), [commands[name](folder) for name, folder in networks.items()])


def check_arguments(model_args, data_args, args) -> None:
    """ArgumentError for flags that do not go together; fills in what --size gives."""
    check_data_flags(data_args, args)
    fill_from_size(data_args, args)
    if model_args.model_name_or_path and not model_args.generator_name_or_path:
        both = [Path(model_args.model_name_or_path) / name for name in ("discriminator", "generator")]
        folders = [str(folder) if folder.is_dir() else None for folder in both]
        if any(folders):
            model_args.model_name_or_path, model_args.generator_name_or_path = folders
    if args.fsdp and not model_args.untied_generator:
        raise ArgumentError("--fsdp must stand with a generator of its own layers; leave --no_untied_generator out")
    loads = model_args.model_name_or_path or model_args.generator_name_or_path
    new = ("config_name", "generator_config_name", "config_overrides", "generator_overrides")
    new += ("unigram_bias", "count_embeddings")
    misplaced = [name for name in new if getattr(model_args, name)]
    if loads and misplaced:
        raise ArgumentError(
            f"--{misplaced[0]} is for new networks, and {loads} is to be loaded; leave one of them out"
        )
    needed = {"generator_name_or_path": not model_args.uniform_generator}
    needed |= {"model_name_or_path": model_args.electra_objective}
    for name, is_needed in needed.items():
        if loads and bool(getattr(model_args, name)) != is_needed:
            raise ArgumentError(f"--{name} must be {'given' if is_needed else 'left out'} beside {loads}; change it")
    if not loads and (args.steps_before or not args.do_train):
        flag = "--steps_before" if args.steps_before else "--do_eval without --do_train"
        raise ArgumentError(f"{flag} needs trained weights; add --model_name_or_path")
    args.output_dir = args.output_dir or loads


def make_rows(data_args, plain: Rows, backend, seed: int, chunked: bool) -> Rows:
    """Rows of one or two segments, or of whole corpus rows side by side. chunked: as for pack."""
    length = data_args.max_seq_length
    if data_args.packing != "none":
        length = settle_length(plain, length)
        return plain.each(lambda rows: pack(rows, data_args.packing, length, backend, chunked))
    return plain.each(lambda rows: electra_rows(rows, data_args.electra_data, length, backend, seed, chunked))


def make_model(model_args, size: str, tokenizer) -> ElectraForJointPreTraining:
    """Both networks, loaded or new."""
    try:
        options = ElectraOptions(**{field.name: getattr(model_args, field.name) for field in fields(ElectraOptions)})
        if model_args.model_name_or_path or model_args.generator_name_or_path:
            return make_joint_model(*load_networks(model_args, tokenizer), options)
        generator, discriminator = make_configs(model_args, size, tokenizer)
        classes = {"generator": AutoModelForMaskedLM, "config": discriminator_class(discriminator)}
        for (kind, auto_class), config in zip(classes.items(), (generator, discriminator), strict=True):
            check_fits(auto_class, config, f"--{kind}_overrides", model_args.trust_remote_code)
        return new_joint_model(generator, discriminator, options)
    except ArgumentError:
        raise
    except ValueError as error:
        raise ArgumentError(f"--{error}") from error


def load_networks(model_args, tokenizer) -> list:
    """The generator and the discriminator to continue from, None where none is named."""
    networks, trust = [], model_args.trust_remote_code
    for flag, auto_class in (("generator_name_or_path", None), ("model_name_or_path", discriminator_class)):
        name = getattr(model_args, flag)
        config = name and load_config(name, f"--{flag}", trust)
        kind = auto_class(config) if auto_class and name else AutoModelForMaskedLM
        networks.append(name and load_model(kind, config, name, f"--{flag}", tokenizer, trust))
    return networks


def make_configs(model_args, size: str, tokenizer) -> tuple:
    """Configs of a new generator and a new discriminator."""
    if model_args.model_type == "electra" and not model_args.config_name:
        _, discriminator = electra_configs(size, entry_count(tokenizer), tokenizer.pad_token_id)
        overrides = model_args.config_overrides
        discriminator = finish_config(discriminator, overrides, "--config_overrides", tokenizer)
    else:
        discriminator = make_config(model_args, tokenizer)
    if model_args.generator_config_name:
        trust = model_args.trust_remote_code
        generator = load_config(model_args.generator_config_name, "--generator_config_name", trust)
    else:
        generator = generator_config(discriminator, SIZES[size][-1])
    overrides = model_args.generator_overrides
    return finish_config(generator, overrides, "--generator_overrides", tokenizer), discriminator


def add_samples(trainer, probe_file: str | None, model, tokenizer) -> None:
    """Of the generator, which fills the blanks of a file, if there is one."""
    if probe_file is None:
        return
    if model.generator is None:
        raise ArgumentError("--probe_file asks the generator, which --uniform_generator leaves out; leave it out")
    blanks = Blanks(model.generator, tokenizer, read_questions(probe_file, tokenizer, longest_row(model)))
    trainer.add_callback(Samples(trainer, blanks))


def masking_options(data_args, tokenizer) -> dict:
    """Which tokens are labelled and what becomes of them, as attributes of a Masking."""
    mask_share, random_share = MASK_STYLES[data_args.mask_style]
    special_ids = {*tokenizer.all_special_ids} - (set() if data_args.exclude_unk else {tokenizer.unk_token_id})
    return {
        "special_ids": tuple(special_ids),
        "probability": data_args.mlm_probability,
        "mask_share": mask_share,
        "random_share": random_share,
    }


def eval_masking_options(data_args) -> dict:
    """The same of held-out rows, by flags of their own: what a training is measured by does not change with it."""
    mask_share, random_share = MASK_STYLES[data_args.eval_mask_style]
    return {"probability": data_args.eval_mlm_probability, "mask_share": mask_share, "random_share": random_share}


def rate_factors(model, args) -> dict[str, float]:
    """Of each parameter's learning rate, {} without --layer_decay."""
    if args.layer_decay is None:
        return {}
    if model.discriminator is None:
        raise ArgumentError(
            "--layer_decay is for a discriminator, and --no_electra_objective trains none; leave it out"
        )
    return factors_of_part(model, model.discriminator, args.layer_decay, args.layer_decay_offset)


class Networks(Extension):
    """Writes discriminator/ and generator/, each with the tokenizer, also into the checkpoints that are kept."""

    def __init__(self, model: ElectraForJointPreTraining, tokenizer, args):
        self.kept_steps, self.rate_factors = args.kept_steps, rate_factors(model, args)
        self._model, self._tokenizer, self._args = model, tokenizer, args
        self.models = {f"-{name}": name for name, _ in model.named_children()}

    def add_to_checkpoint(self, trainer, folder):
        if trainer.state.global_step in self.kept_steps:
            self.export(trainer, folder)

    def export(self, trainer, folder: Path | str) -> None:
        weights = whole_weights(trainer)
        if self._args.should_save:
            self._model.export(str(folder), weights)
            for name, _ in self._model.named_children():
                save_tokenizer(self._tokenizer, Path(folder, name))
                give_usual_rights(Path(folder, name).glob("*.safetensors"))


if __name__ == "__main__":
    run_script(main)
