"""One vocabulary of flags in all scripts, and what --help shows."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from common.errors import ArgumentError
from common.flags import ALIASES, NAMES, FlagParser, Foreign, flag_name, own_words, spellings, split_flags, switch
from training.arguments import TRAINERS
from training.flag_checks import REFUSED

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(
    path.relative_to(ROOT)
    for folder in ("", "data", "examples")
    for path in (ROOT / folder).glob("*.py")
    if "def main(" in path.read_text(encoding="utf-8")
)
# Where a word is the name of something else.
OTHERWISE = {
    ("generate_text.py", "max_length"),  # of prompt and text, as transformers' generate() has it
    ("generate_text.py", "batch_size"),  # prompts at a time, as its pipelines have it
    ("data/trans_to_json.py", "json_key"),  # of what is written
    ("data/trans_to_json.py", "text_column"),  # of what is read, which --json_field is
    ("examples/finetune_task.py", "batch_size"),  # rows of all processes
}


@pytest.fixture(scope="module")
def parsers():
    """Each script's path -> the parser whose --help it shows."""
    shown = {}
    with pytest.MonkeyPatch.context() as patch:
        for path in SCRIPTS:
            patch.setattr(FlagParser, "print_help", lambda parser, path=path: shown.update({str(path): parser}))
            spec = importlib.util.spec_from_file_location(f"help_{path.stem}", ROOT / path)
            module = importlib.util.module_from_spec(spec)
            patch.setitem(sys.modules, spec.name, module)
            spec.loader.exec_module(module)
            with pytest.raises(SystemExit):
                module.main(["--help"])
    return shown


@pytest.mark.parametrize("script", [*map(str, SCRIPTS)])
def test_a_flag_has_all_its_words_and_transformers_first(parsers, script):
    taken = {word for words in parsers[script].flags() for word in words}
    assert len(taken) == sum(map(len, parsers[script].flags())), "no word stands for two flags"
    for words in parsers[script].flags():
        names = {flag_name(word.removeprefix("--")) for word in words if word.removeprefix("--") in NAMES}
        if names and not any((script, word.removeprefix("--")) in OTHERWISE for word in words):
            (name,) = names
            assert {f"--{word}" for word in spellings(name)} <= {*words} and words[0] == f"--{name}"


# In an order in which each finds its inputs.
EXAMPLES = """data/trans_to_json data/train_tokenizer run_chinese_ref data/create_data run_mlm_wwm run_electra run_clm
    run_glue generate_text probe_mlm plot_run convert_checkpoint change_mp examples/finetune_task"""


def example(help_text: str) -> str:
    """The first block of a help's indented lines."""
    blocks = help_text.split("\n\n")
    return textwrap.dedent(next(block for block in blocks if block.startswith("    ")))


@pytest.mark.parametrize("script", [*map(str, SCRIPTS)])
def test_help_begins_with_what_a_script_does_and_an_example(parsers, script):
    parser = parsers[script]
    first, second, *_ = parser.format_help().split("\n\n")
    assert re.fullmatch(r"[A-Z][^\n]*\.", first) and second.startswith("    ")
    words = shlex.split(example(parser.format_help()).replace("\\\n", " "))
    assert script in words, "the example runs this script"
    flags = {word.partition("=")[0] for word in words if word.startswith("--")} - {"--nproc_per_node"}
    names = {words[0] for words in parser.flags()}
    assert flags <= names | {f"--no_{name[2:]}" for name in names}, "it has the names of flags, not their aliases"


@pytest.mark.parametrize("script", ["run_mlm_wwm.py", "run_electra.py", "run_clm.py", "run_glue.py"])
def test_help_has_our_own_flags_first_and_none_that_is_refused(parsers, script):
    shown = parsers[script].format_help()
    headings = re.findall(r"(?m)^(\w.*):$", shown)
    if script == "run_glue.py":
        assert TRAINERS not in headings
        return
    assert headings[0] == "options" and headings[-1] == TRAINERS and headings.count(TRAINERS) == 1
    own, theirs = shown.split(f"{TRAINERS}:\n")
    assert all(f"--{name} " in own for name in ("output_dir", "resume_from_checkpoint", "schedule", "on_nan"))
    assert all(f"--{name}" in theirs for name in ("adam_beta1", "gradient_accumulation_steps", "bf16", "use_cpu"))
    listed = {name for line in re.findall(r"(?m)^  (--.*?)(?:  |$)", shown) for name in re.findall(r"--(\w+)", line)}
    assert not listed & REFUSED.keys() and {"optim", "mask_unit" if script != "run_clm.py" else "mem_len"} <= listed
    if script == "run_clm.py":
        assert not listed & {"group_by_length", "train_sampling_strategy"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_examples_of_help_run_as_pasted(parsers, tmp_path):
    """In this order, in a folder that holds nothing but this repository."""
    for path in ROOT.iterdir():
        if path.name != "outputs":
            (tmp_path / path.name).symlink_to(path)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    assert {f"{name}.py" for name in EXAMPLES.split()} == {*map(str, SCRIPTS)}
    for name in EXAMPLES.split():
        command = example(parsers[f"{name}.py"].format_help()).split("\ntorchrun")[0]
        run = subprocess.run(
            ["bash", "-ec", command], cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True
        )
        assert run.returncode == 0, f"{command}\n{run.stderr[-2000:]}"


def test_the_page_on_migrating_lists_all_words():
    text = (ROOT / "docs" / "migrating.md").read_text(encoding="utf-8")
    for name, words in ALIASES.items():
        (line,) = re.findall(rf"(?m)^\| `--{name}` \| (.*) \|$", text)
        assert {f"--{word}" for word in words.split()} <= {*re.findall(r"--\w+", line)}


def test_no_word_is_of_two_flags():
    words = [word for name in ALIASES for word in spellings(name)]
    assert len(words) == len({*words}) and not ALIASES.keys() & {
        flag for text in ALIASES.values() for flag in text.split()
    }


KNOWN = dict.fromkeys(spellings("learning_rate"), "rate") | {"use_cpu": "cpu", "no_cuda": "cpu", "name": "name"}
FOREIGN = Foreign(
    rewritten={"quick": switch("--lr 1", "--lr 0.1")},
    renamed={"title": "name", "heading": "nothing"},
    anyway=["fast"],
    idle=["verbosity"],
    answered={"slow": "leave it to us"},
)


@pytest.mark.parametrize(
    ("typed", "own"),
    [
        ("word --lr 1e-4 --no-cuda rest", "word --lr 1e-4 --no_cuda rest"),
        ("--lr=-1 --name=--x", "--lr=-1 --name=--x"),
        ("--quick", "--lr 1"),
        ("--quick no more", "--lr 0.1 more"),
        ("--title a b", "--name a b"),
        ("--fast --fast true --verbosity false", ""),
        ("--heading x --New-Flag 3", "--heading x --New-Flag 3"),
        ("--lr 1 --lr 2", "--lr 1 --lr 2"),
        (
            "--lr 1e-4 --learning_rate 0.0001 --use_cpu --no_cuda true",
            "--lr 1e-4 --learning_rate 0.0001 --use_cpu --no_cuda true",
        ),
    ],
)
def test_command_lines_in_own_words(typed, own):
    assert own_words(typed.split(), KNOWN, FOREIGN) == own.split()


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("--lr 1 --learning_rate 2", "--lr 1 and --learning_rate 2 contradict each other; leave one of them out"),
        ("--lr 1 --lr 2 --learning_rate=1", "--lr 2 and --learning_rate 1 contradict each other"),
        ("--learning_rate 2 --quick", "--learning_rate 2 and --quick contradict each other"),
        ("--lr 1 --override --lr 2 --learning_rate 1", "--lr 2 and --learning_rate 1 contradict each other"),
        ("--use_cpu --no_cuda false", "--use_cpu and --no_cuda false contradict each other"),
        ("--quick perhaps", "--quick must be true or false, got perhaps; change it"),
        ("--fast no", "--fast is a flag of another script: leave it out"),
        ("--slow 1", "--slow is a flag of another script: leave it to us"),
    ],
)
def test_what_a_command_line_must_not_say(typed, line):
    with pytest.raises(ArgumentError) as error:
        own_words(typed.split(), KNOWN, FOREIGN)
    assert str(error.value).startswith(line)


def test_flags_are_split_from_their_values():
    words = ["a", "b", "--x", "1", "2", "--y=3", "--z"]
    flags = [("a", []), ("b", []), ("--x", ["1", "2"]), ("--y", ["3"]), ("--z", [])]
    typed = split_flags(words)
    assert [(one.flag, one.values) for one in typed] == flags
    assert [word for one in typed for word in one.words()] == words


def test_an_attribute_keeps_its_name():
    parser = FlagParser(doc="Does it.")
    parser.add_argument("--lr", type=float)
    parser.add_argument("--max_length", alone=True)
    assert vars(parser.parse_args(["--learning_rate", "1"])) == {"lr": 1.0, "max_length": None}
    with pytest.raises(ArgumentError, match="unrecognized arguments: --max_seq_length"):
        parser.parse_args(["--max_seq_length", "1"])
