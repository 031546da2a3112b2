"""The one vocabulary of flags of all scripts, how a command line is read by it, and what --help looks like.

A flag has the name that transformers has for it, else ours; other words for the same thing are aliases in every script
that has the flag. Two words for one flag may stand in a command line if they say the same, or with --override between
them, which shell scripts put before the flags of their caller.
"""

import argparse
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from common.errors import ArgumentError

# The name of a flag -> other words for it. Words of one project alone stand with the script that replaces its scripts
# (training/pretraining_flags.py).
ALIASES = {
    "adam_epsilon": "eps",
    "early_stopping_patience": "patience",
    "eval_strategy": "evaluation_strategy",
    "gradient_accumulation_steps": "grad_accum",
    "label_column_name": "label_column",
    "label_smoothing_factor": "label_smoothing",
    "layer_decay": "lwlrd",
    "layer_decay_offset": "lwlrd_offset",
    "learning_rate": "lr",
    "max_answer_length": "max_answer",
    "max_grad_norm": "clip",
    "max_seq_length": "max_length block_size",
    "max_steps": "max_train_steps",
    "metric_for_best_model": "metric_for_best",
    "model_name_or_path": "model",
    "model_type": "arch",
    "muon_learning_rate": "muon_lr",
    "n_best_size": "n_best",
    "num_train_epochs": "epochs",
    "per_device_eval_batch_size": "eval_batch_size per_gpu_eval_batch_size",
    "per_device_train_batch_size": "batch_size train_batch_size per_gpu_train_batch_size",
    "preprocessing_num_workers": "workers",
    "seed": "seeds",
    "text_column_name": "text_column text_columns text_column_names json_key",
    "tokenizer_name": "tokenizer tokenizer_name_or_path",
    "use_cpu": "no_cuda",
    "warmup_ratio": "warmup_proportion",
    "warmup_steps": "num_warmup_steps",
}
NAMES = {word: name for name, words in ALIASES.items() for word in (name, *words.split())}
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)
_NO = [["false"], ["0"], ["no"]]
_COLUMNS = 110  # of --help
OVERRIDE = "--override"
TRUE, FALSE = ("", "1", "yes", "true"), ("0", "no", "false")


def flag_name(word: str) -> str:
    """The name of a flag that a script may know by another word, without dashes."""
    return NAMES.get(word, word)


def spellings(word: str) -> list[str]:
    """All words for a flag, its name first, without dashes."""
    name = flag_name(word)
    return [name, *ALIASES.get(name, "").split()]


class Foreign(NamedTuple):
    """What a script makes of flags that are not its own. Names are without dashes.

    prepare: words of a command line -> words, before all else; rewritten: flag -> function of its value to words, or
    ValueError with what the value must be; renamed: flag -> its name here; anyway: flags that ask for what is done
    anyway, unless their value is no; idle: flags that change nothing, whatever their value; answered: flag -> what to
    use instead.
    """

    rewritten: Mapping[str, Callable[[str], list[str]]] = {}
    renamed: Mapping[str, str] = {}
    anyway: Collection[str] = ()
    idle: Collection[str] = ()
    answered: Mapping[str, str] = {}
    prepare: Callable[[Sequence[str]], Sequence[str]] = list


NONE = Foreign()


def switch(on: str = "", off: str = "") -> Callable[[str], list[str]]:
    """For Foreign.rewritten: a flag of yes or no -> words for either."""

    def rewrite(value: str) -> list[str]:
        if value.lower() not in (*TRUE, *FALSE):
            raise ValueError("true or false")
        return (on if value.lower() in TRUE else off).split()

    return rewrite


class Typed(NamedTuple):
    """A flag of a command line, with its dashes, or a word before the first one; joined: by =, as --flag=value."""

    flag: str
    values: list[str]
    joined: bool = False

    def words(self) -> list[str]:
        return [f"{self.flag}={self.values[0]}", *self.values[1:]] if self.joined else [self.flag, *self.values]


def split_flags(argv: Sequence[str]) -> list[Typed]:
    """The flags of a command line with their values."""
    flags = []
    for word in argv:
        if word.startswith("--"):
            flag, equals, value = word.partition("=")
            flags.append(Typed(flag, [value] if equals else [], bool(equals)))
        elif flags and flags[-1].flag.startswith("--"):
            flags[-1].values.append(word)
        else:
            flags.append(Typed(word, []))
    return flags


def own_words(argv: Sequence[str], known: Mapping[str, str], foreign: Foreign = NONE) -> list[str]:
    """A command line in a script's own flags.

    known: every word for a flag of the script, without dashes -> what is the same for all words of that flag.

    Raises:
        ArgumentError: a flag without a counterpart, a value that has none, or two words for one flag that differ.
    """
    words, seen = [], {}
    for typed in split_flags(foreign.prepare(argv)):
        if typed.flag == OVERRIDE:
            seen.clear()
            words += typed.values
            continue
        name = typed.flag.removeprefix("--").replace("-", "_")
        for own in _translated(name, typed, known, foreign) if typed.flag.startswith("--") else [typed]:
            key = known.get(own.flag.removeprefix("--"), own.flag)
            _compare(seen.setdefault(key, {}), typed, own.values)
            words += own.words()
    return words


def _translated(name: str, typed: Typed, known: Mapping, foreign: Foreign) -> list[Typed]:
    """What stands for a typed flag, whose name is `name`."""
    values = typed.values
    if name in foreign.rewritten:
        try:
            return split_flags([*foreign.rewritten[name](values[0] if values else ""), *values[1:]])
        except ValueError as error:
            shown = values[0] if values and values[0] else "nothing"
            raise ArgumentError(f"--{name} must be {error}, got {shown}; change it") from None
    if name in known:
        return [typed._replace(flag=f"--{name}")]
    if foreign.renamed.get(name) in known:
        return [typed._replace(flag=f"--{foreign.renamed[name]}")]
    if name in foreign.idle or (name in foreign.anyway and [value.lower() for value in values] not in _NO):
        return []
    answer = next((foreign.answered[word] for word in (name, *spellings(name)) if word in foreign.answered), None)
    if name in foreign.anyway or answer is not None:
        raise ArgumentError(f"--{name} is a flag of another script: {answer or 'leave it out'}")
    return [typed]


def _compare(seen: dict[str, tuple[Typed, list[str]]], typed: Typed, values: list[str]) -> None:
    """Note the values of a flag. ArgumentError where another word for it was typed, with another value.

    The same word twice is no mistake: the last one wins, so that the flags of a shell script may be overridden.
    """
    for word, (other, before) in seen.items():
        if word != typed.flag and _meaning(before) != _meaning(values):
            shown = [" ".join((one.flag, *one.values)) for one in (other, typed)]
            raise ArgumentError(f"{shown[0]} and {shown[1]} contradict each other; leave one of them out")
    seen[typed.flag] = typed, values


def _meaning(values: list[str]) -> list:
    """Values as they are compared: no value and true are one, and so are 1e-4 and 0.0001."""
    return [float(word) if _NUMBER.fullmatch(word) else word.lower() for word in values or ["true"]]


def parse_bool(text: str) -> bool:
    """true or false, as people write them. argparse.ArgumentTypeError for anything else."""
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in known:
        raise argparse.ArgumentTypeError(f"must be true or false, got {text!r}")
    return known[text.lower()]


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """A line for each flag with all its words and what it does; defaults where they say something."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=32, width=_COLUMNS)

    def _get_help_string(self, action):
        silent = action.default in (None, False, argparse.SUPPRESS, []) or not str(action.default).strip()
        if silent or "default" in action.help or not action.option_strings:
            return action.help
        return f"{action.help} (default: %(default)s)"

    def _format_action_invocation(self, action):
        if not action.option_strings:
            return super()._format_action_invocation(action)
        return f"{', '.join(action.option_strings)} {self._format_args(action, '')}".rstrip()

    def _metavar_formatter(self, action, default_metavar):
        kinds = {int: "INT", float: "FLOAT"}
        usual = kinds.get(action.type, "true|false" if action.const is True else "VALUE")
        return super()._metavar_formatter(action, usual if action.option_strings else default_metavar)


class FlagParser(argparse.ArgumentParser):
    """A script's parser: its flags by all their words, one line for a mistake, help that begins with what it does.

    doc: the script's docstring, which begins with what it does and an example; foreign: flags that are not its own.
    """

    def __init__(self, *arguments, doc: str = "", foreign: Foreign = NONE, **options):
        self.foreign = foreign
        super().__init__(
            *arguments, description=doc, formatter_class=HelpFormatter, usage=argparse.SUPPRESS, **options
        )
        text = "flags behind it win over those before it, by whatever word they are typed"
        argparse.ArgumentParser.add_argument(self, OVERRIDE, action="store_true", default=argparse.SUPPRESS, help=text)

    def add_argument(self, *names: str, alone: bool = False, **options) -> argparse.Action:
        """As argparse's, by all words for the flag. alone: here it is another thing than ALIASES says."""
        names, options = self.all_words(names, alone, options)
        return super().add_argument(*names, **options)

    @staticmethod
    def all_words(names: Sequence[str], alone: bool, options: dict) -> tuple[list[str], dict]:
        """Names and options for argparse's add_argument; what was first among the names stays its attribute."""
        word = names[0].removeprefix("--")
        if alone or not names[0].startswith("--") or word not in NAMES:
            return [*names], options
        words = [f"--{one}" for one in (*spellings(word), *(name.removeprefix("--") for name in names))]
        return list(dict.fromkeys(words)), {"dest": word} | options

    def parse_known_args(self, args=None, namespace=None):
        return super().parse_known_args(self.in_own_words(sys.argv[1:] if args is None else args), namespace)

    def in_own_words(self, argv: Sequence[str]) -> list[str]:
        """See own_words."""
        known = {word.removeprefix("--"): words[0] for words in self.flags() for word in words}
        return own_words(argv, known, self.foreign)

    def flags(self) -> list[list[str]]:
        """The words of each flag."""
        return [action.option_strings for action in self._actions if action.option_strings]

    def error(self, message: str):
        raise ArgumentError(message)
