"""Continue prompts with a causal language model, or answer them with an encoder-decoder: sampled, greedy or by beams.

    python generate_text.py outputs/mine/txl --prompt "A corpus" --max_new_tokens 20

A folder that the example of run_clm.py trains; or a published model:

    python generate_text.py ./txl-2.9B                                     asks for prompts; `stop` or Ctrl-C ends it
    python generate_text.py ./txl-2.9B --template zhidao --prompt 怎么做红烧肉？
    python generate_text.py t5-small --source_prefix "summarize: " --input_file articles.txt --output_file out.jsonl

MODEL is a folder or hub name, or a Chinese-Transformer-XL checkpoint as THUDM published it, in any number of
model-parallel parts. `torchrun --nproc-per-node 2 generate_text.py ...` spreads the model over two processes.
"""

import argparse
import json
import logging
import sys
from pathlib import Path

if __name__ == "__main__":
    import common.script  # noqa: F401  no traceback of Ctrl-C amid the slow imports

import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, set_seed
from transformers.distributed import DistributedConfig
from transformers.utils.logging import disable_progress_bar

import models  # noqa: F401  registers the model types
from common.errors import ArgumentError
from common.flags import FlagParser, parse_bool
from common.script import run_script
from data.text.prompts import TEMPLATES, fill_template, read_prompts
from data.tokens.tokenizer_files import split_frame
from models.convert import thudm
from models.convert.transformer_xl import load as load_thudm
from models.text_generator import PROCESS, PROCESSES, Generator, SharedInterrupt
from models.tokenization_cog import cog_tokenizer, find_model_file
from training.model_setup import own_memory, read_model
from training.pretrained import entry_count, load_config, load_tokenizer
from training.pretraining_flags import GENERATION

ASK = "\nContext prompt (stop to exit) >>> "


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = FlagParser(doc=__doc__, foreign=GENERATION)
    add = parser.add_argument
    add("model", metavar="MODEL", help="folder, hub name, or THUDM checkpoint")
    add("--tokenizer_name", help="folder, hub name or sentencepiece file; default: MODEL's own")
    add("--trust_remote_code", action="store_true", help="run code that comes with a model or tokenizer (auto_map)")
    add("--newline_token", action="store_true", help="let a sentencepiece tokenizer keep newlines, as <n>")
    add("--prompt", help="generate for this prompt and end")
    add("--input_file", help="generate for each line and end; JSON lines and tables have prompt, or title")
    add("--output_file", help="new file of JSON lines of prompt and text, instead of printing")
    add("--template", default="plain", help=f"what prompts are put into: {', '.join(TEMPLATES)}")
    add("--desc", default="", help="description of the question, for a template")
    add("--signature", default="", help="name of who answers, for a template")
    add("--source_prefix", default="", help="put before every prompt, after the template")
    add("--temperature", type=float, default=1.0, help="of sampling; 0 takes the likeliest token")
    add("--top_k", type=int, default=0, help="sample among so many tokens; 0 for all")
    add("--top_p", type=float, default=0.0, help="sample among the likeliest tokens of this probability; 0 for all")
    add("--repetition_penalty", type=float, default=1.0, help="divides the scores of tokens that occurred")
    add("--num_beams", type=int, default=1, help="beams of a search; with --temperature 0 deterministic")
    add("--max_length", alone=True, type=int, default=1024, help="tokens of prompt and text together")
    add("--max_new_tokens", type=int, help="tokens of the text, instead of --max_length")
    add("--batch_size", alone=True, type=int, default=1, help="prompts of --input_file at a time")
    add("--seed", type=int, default=1234, help="of sampling")
    add("--attention_window", type=int, help="keys that a Transformer-XL sees: 512 as trained, 768 as published")
    add("--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"], help="auto: as saved")
    text = "decode a Transformer-XL on one GPU, without beams, by replaying one recorded step"
    add("--cuda_graph", type=parse_bool, nargs="?", const=True, default=True, help=text)
    add("--use_cpu", action="store_true", help="leave an accelerator alone")
    args = parser.parse_args(argv)
    check(args)
    return args


def check(args) -> None:
    """ArgumentError for values that cannot work."""
    fill_template(args.template, "title")
    for holds, message in (
        (args.temperature >= 0, f"--temperature must be at least 0, got {args.temperature}"),
        (args.top_k >= 0, f"--top_k must be at least 0, got {args.top_k}"),
        (0 <= args.top_p <= 1, f"--top_p must lie between 0 and 1, got {args.top_p}"),
        (args.repetition_penalty > 0, f"--repetition_penalty must be positive, got {args.repetition_penalty}"),
        (args.batch_size > 0, f"--batch_size must be at least 1, got {args.batch_size}"),
        (args.num_beams > 0, f"--num_beams must be at least 1, got {args.num_beams}"),
        (args.attention_window is None or args.attention_window > 0, "--attention_window must be at least 1"),
        (args.prompt is None or args.input_file is None, "--prompt must stand without --input_file"),
        (
            not args.output_file or args.prompt is not None or args.input_file is not None,
            "--output_file needs --prompt or --input_file",
        ),
        (
            not args.output_file or not Path(args.output_file).exists(),
            f"--output_file must be new, got {args.output_file}, which is there; move it away or name another",
        ),
    ):
        if not holds:
            raise ArgumentError(message)


def make_generator(args, interrupt: SharedInterrupt) -> Generator:
    """Load tokenizer and model. ArgumentError for names and files that do not give them."""
    name, flag = (args.tokenizer_name, "--tokenizer_name") if args.tokenizer_name else (args.model, "MODEL")
    file = find_model_file(name)
    if args.newline_token and file is None:
        raise ArgumentError("--newline_token needs a sentencepiece file as --tokenizer_name; leave it out")
    tokenizer = cog_tokenizer(file, args.newline_token) if file else load_tokenizer(name, flag, args.trust_remote_code)
    model = load_model(args, tokenizer)
    entries = model.config.get_text_config().vocab_size
    if entries < entry_count(tokenizer):
        raise ArgumentError(
            f"--tokenizer_name must have at most the {entries} entries of MODEL, got {entry_count(tokenizer)}; "
            "name the tokenizer that the model was trained with"
        )
    begin = [] if model.config.is_encoder_decoder else split_frame(tokenizer.backend_tokenizer)[0]
    return Generator(model, tokenizer, begin, interrupt, args)


def load_model(args, tokenizer) -> torch.nn.Module:
    """The model on its device, or this process's part of it."""
    device = torch.device("cpu")
    if not args.use_cpu:
        device = torch.accelerator.current_accelerator(check_available=True) or device
    options = {"distributed_config": DistributedConfig(tp_size=PROCESSES)} if PROCESSES > 1 else {}
    changes = {} if args.attention_window is None else {"attention_window": args.attention_window}
    if thudm.is_checkpoint(Path(args.model)):
        changes |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        model = load_thudm(args.model, changes, dtype=dtype_of(args.dtype, torch.float16, device), **options)
    else:
        config = load_config(args.model, "MODEL", args.trust_remote_code)
        if changes and not hasattr(config, "attention_window"):
            raise ArgumentError("--attention_window is for Transformer-XL; leave it out")
        config.update(changes)
        auto_class = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        options["dtype"] = dtype_of(args.dtype, config.dtype or "auto", device)
        model = read_model(auto_class, config, args.model, "MODEL", args.trust_remote_code, **options)
    return own_memory(model if PROCESSES > 1 else model.to(device))


def dtype_of(name: str, saved, device: torch.device):
    """What --dtype asks for; as saved, but fp32 where that is fp16 on a CPU, which computes slowly in it."""
    if name != "auto":
        return getattr(torch, name)
    return torch.float32 if saved == torch.float16 and device.type == "cpu" else saved


def converse(generator: Generator) -> None:
    """Ask for prompts until `stop`, the end of the input or Ctrl-C."""
    args = generator.args
    while True:
        answer = [None]
        if PROCESS == 0:
            try:
                with generator.interrupt.at_once():
                    answer = [input(ASK)]
            except (EOFError, KeyboardInterrupt):
                print()
        if PROCESSES > 1:
            torch.distributed.broadcast_object_list(answer, 0)
        (title,) = answer
        if title is None or title.strip() == "stop":
            return
        if not title.strip():
            continue
        try:
            generator.stream(fill_template(args.template, title, args.desc, args.signature))
        except ArgumentError as error:
            print(error, file=sys.stderr)


def answer_all(generator: Generator, prompts: list[str]) -> None:
    """Generate for all prompts; to --output_file as each batch is done, or printed."""
    args = generator.args
    if not args.output_file and args.batch_size == 1:
        for prompt in prompts:
            generator.stream(prompt)
        return
    for first in range(0, len(prompts), args.batch_size):
        batch = prompts[first : first + args.batch_size]
        texts = generator.generate(batch)
        if PROCESS > 0:
            continue
        if args.output_file:
            with open(args.output_file, "a", encoding="utf-8") as file:
                for prompt, text in zip(batch, texts, strict=True):
                    file.write(json.dumps({"prompt": prompt, "text": text}, ensure_ascii=False) + "\n")
        else:
            for prompt, text in zip(batch, texts, strict=True):
                print(f"{prompt}{text}")


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    level = logging.INFO if PROCESS == 0 else logging.WARNING
    logging.basicConfig(format="%(message)s", level=level, stream=sys.stderr)
    disable_progress_bar()
    prompts = None
    if args.input_file is not None:
        prompts = read_prompts(args.input_file, args.template)
    elif args.prompt is not None:
        prompts = [fill_template(args.template, args.prompt, args.desc, args.signature)]
    interrupt = SharedInterrupt()
    try:
        generator = make_generator(args, interrupt)
        set_seed(args.seed)
        if prompts is None:
            converse(generator)
        else:
            answer_all(generator, prompts)
    except KeyboardInterrupt:
        print(file=sys.stderr)


if __name__ == "__main__":
    run_script(main)
