"""Find a pretrained folder or hub name within seconds, and load its tokenizer with every entry in place.

transformers itself retries an unreachable hub for half a minute, reads a bare vocab.txt as a vocabulary of five
tokens, asks on the terminal whether to run a folder's code, and raises errors of every class about a damaged file; all
end here in one line that names the flag. Importing this module imports neither torch nor transformers.
"""

import functools
import http.client
import itertools
import json
import os
import re
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import ArgumentError, library_errors

HUB_SECONDS = 4.0  # the whole answer of the hub, name resolution included
_HUB_NAME = re.compile(r"(?!.*(--|\.\.))(?!.{97})\w([\w.-]*\w)?(/\w([\w.-]*\w)?)?")
_CACHED_FILES = ("config.json", "tokenizer_config.json", "tokenizer.json", "vocab.txt")
_TOKENIZER_JSON = ("tokenizer_config.json", "tokenizer.json", "special_tokens_map.json", "added_tokens.json")
_TOKENIZER_TEXT = ("vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja")
# Of whole numbers in a config.json: beyond these building a model, or already its config, takes minutes and more.
_MOST = {"num_labels": 10**6}
_MOST_PARTS, _MOST_NUMBER = 500, 2**31 - 1
# Counts of what has a module of its own.
_PARTS = re.compile(r"(.*_)?(layers?|experts|stages|blocks|groups)|depths?|.*group_num|num_feedforward_networks")


def resolve_pretrained(name: str, flag: str) -> str:
    """Turn what the user typed after `flag` into something `from_pretrained` finds at once.

    A local folder wins, then a name that the hub knows (returned as it is; HF_ENDPOINT and HF_HUB_OFFLINE are
    respected), then the newest snapshot in the local cache (returned as a folder).

    Raises:
        ArgumentError: within 5 seconds, when `name` is none of these.
    """
    if Path(name).is_dir():
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ArgumentError(
                f"{flag} must be a folder whose name is UTF-8, which tokenizers and transformers need, got "
                f"{os.fsencode(name)!r}; rename it, and start Python without LC_ALL=C and PYTHONUTF8=0"
            ) from None
        return name
    tried = "no such folder"
    if _HUB_NAME.fullmatch(name) and not Path(name).exists():
        reason = _hub_refusal(name)
        if reason is None:
            return name
        cached = _cached_snapshot(name)
        if cached is not None:
            return cached
        tried = f"no such folder, no cached copy, and the hub says: {reason}"
    raise ArgumentError(
        f"{flag} {name} must be a folder or a reachable hub name ({tried}); "
        f"copy the files to a folder and give its path"
    )


def refuse_unknown_names(argv: list[str], flags: tuple[str, ...]) -> None:
    """Resolve the value of each of `flags` on a command line, for scripts to call before their slow imports.

    The path of a file is left to what reads it.

    Raises:
        ArgumentError: as resolve_pretrained.
    """
    for flag, value in itertools.pairwise(argv):
        if flag in flags and not Path(value).is_file():
            resolve_pretrained(value, flag)


@functools.cache
def _hub_refusal(name: str) -> str | None:
    """None if the hub has `name`, else the reason in a few words; never longer than HUB_SECONDS."""
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        return "not asked, HF_HUB_OFFLINE is set"
    token = get_token()
    request = urllib.request.Request(
        f"{constants.ENDPOINT}/api/models/{name}", headers={"Authorization": f"Bearer {token}"} if token else {}
    )
    answer = [f"no answer in {HUB_SECONDS:g} seconds"]

    def ask():
        try:
            urllib.request.urlopen(request, timeout=HUB_SECONDS).close()
            answer[0] = None
        except (OSError, http.client.HTTPException) as error:
            answer[0] = str(error)

    # A thread, because name resolution knows no time limit; a daemon, so that a hanging one never delays the exit.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_SECONDS)
    return answer[0]


def _cached_snapshot(name: str) -> str | None:
    """Folder of the cached snapshot of a hub name, or None."""
    from huggingface_hub import try_to_load_from_cache

    for file_name in _CACHED_FILES:
        path = try_to_load_from_cache(name, file_name)
        if isinstance(path, str):
            return str(Path(path).parent)
    return None


def load_tokenizer(name: str, flag: str, trust_remote_code: bool = False):
    """Load the fast tokenizer of a folder or hub name.

    A folder that holds only vocab.txt (with a config.json of any model type, or none) is a BERT WordPiece
    vocabulary, as all published checkpoints of this family are. trust_remote_code: run code that comes with it.

    Raises:
        ArgumentError: `name` is not found, or holds no tokenizer, or entries of its vocab.txt are missing.
    """
    from transformers import AutoTokenizer, BertTokenizer

    resolved = resolve_pretrained(name, flag)
    folder = Path(resolved)
    check_vocabulary_file(resolved, flag)
    bare = _is_bare_vocabulary(folder, name, flag)
    files = ", ".join(file for file in (*_TOKENIZER_JSON, *_TOKENIZER_TEXT) if (folder / file).is_file())
    advice = "copy them again" if files else "add its vocab.txt"
    with (
        _no_code_of_others(name, flag),
        library_errors(
            ArgumentError, f"{flag} {name} must hold a tokenizer in {files or 'tokenizer.json or vocab.txt'}", advice
        ),
    ):
        tokenizer = (BertTokenizer if bare else AutoTokenizer).from_pretrained(
            resolved, trust_remote_code=trust_remote_code
        )
        size, vocabulary = len(tokenizer), tokenizer.get_vocab().keys()
    if (folder / "vocab.txt").is_file():
        entries = _read_text(folder / "vocab.txt", name, flag).rstrip("\n").split("\n")
        missing = {entry.rstrip() for entry in entries} - vocabulary  # as the library reads them
        if missing:
            raise ArgumentError(
                f"{flag} {name} must give all {len(entries)} entries of its vocab.txt, got {size} "
                f"without {min(missing)!r}; remove its stale tokenizer.json or tokenizer_config.json"
            )
    return tokenizer


def entry_count(tokenizer) -> int:
    """The highest id + 1: ids are the line numbers of vocab.txt, of which len() leaves out those that stand twice."""
    return max(tokenizer.get_vocab().values(), default=-1) + 1


def check_special_tokens(tokenizer, name: str, flag: str) -> None:
    """ArgumentError when a tokenizer lacks what masked language modelling needs."""
    for kind in ("mask", "pad"):
        if getattr(tokenizer, f"{kind}_token_id") is None:
            raise ArgumentError(
                f"{flag} {name} must have a {kind} token for masked language modelling, got none; name one that its "
                f"vocabulary holds as {kind}_token in tokenizer_config.json, or take another tokenizer"
            )


def check_vocabulary_file(name: str, flag: str) -> None:
    """ArgumentError when the vocab.txt of a folder begins with a mark that would be part of its first token."""
    path = Path(name) / "vocab.txt"
    if path.is_file():
        with path.open("rb") as file:
            if file.read(3) == b"\xef\xbb\xbf":
                raise ArgumentError(
                    f"{flag} {name} must have a vocab.txt without byte order mark, got one before its first token; "
                    "save it as plain UTF-8"
                )


def _is_bare_vocabulary(folder: Path, name: str, flag: str) -> bool:
    """Whether the folder has a vocab.txt but nothing that says which tokenizer class reads it.

    ArgumentError for a tokenizer file that cannot be read at all.
    """
    settings = {file: read_object(folder / file, name, flag) for file in _TOKENIZER_JSON if (folder / file).is_file()}
    for file in _TOKENIZER_TEXT:
        if (folder / file).is_file():
            _read_text(folder / file, name, flag)
    if not (folder / "vocab.txt").is_file() or "tokenizer.json" in settings:
        return False
    return "tokenizer_class" not in settings.get("tokenizer_config.json", {})


def _read_text(file: Path, name: str, flag: str) -> str:
    """A user's text file. ArgumentError unless it can be read as UTF-8."""
    try:
        return file.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(
            f"{flag} {name} must hold {file.name} as UTF-8, got: {error}; save it as such or copy it again"
        ) from error


def read_object(file: Path, name: str, flag: str) -> dict:
    """A JSON file of a user's folder, typed after `flag`. ArgumentError, naming the place, unless it is an object."""
    text = _read_text(file, name, flag)
    try:
        value = json.loads(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # raises for half a character
    except (ValueError, RecursionError) as error:
        raise ArgumentError(f"{flag} {name} must hold {file.name} as JSON, got: {error}; copy it again") from error
    if not isinstance(value, dict):
        raise ArgumentError(
            f"{flag} {name} must hold {file.name} as a JSON object, got {type(value).__name__}; copy it again"
        )
    return value


@contextmanager
def _no_code_of_others(name: str, flag: str) -> Iterator[None]:
    """ArgumentError that names the flag to give where transformers would run code of the folder or hub name."""
    try:
        yield
    except ArgumentError as error:
        if "trust_remote_code=True" not in str(error.__cause__):
            raise
        raise ArgumentError(
            f"{flag} {name} comes with code of its own (auto_map in config.json or tokenizer_config.json), which is "
            "not run without being asked for; read that code and add --trust_remote_code if you trust it"
        ) from error.__cause__


def load_config(name: str, flag: str, trust_remote_code: bool = False):
    """Load the config of a folder or hub name.

    Published FLASH folders do not say what their linear attention is divided by; they were made for inputs padded to
    max_position_embeddings, so that is what they get here. trust_remote_code: run code that comes with it.

    Raises:
        ArgumentError: `name` is not found, or holds no config that can be read, or adapters.
    """
    from transformers import AutoConfig, PreTrainedConfig

    resolved = resolve_pretrained(name, flag)
    if (Path(resolved) / "adapter_config.json").is_file():  # which transformers would load, too, where peft is there
        raise ArgumentError(
            f"{flag} {name} must hold a model, got adapters (adapter_config.json); name the model they were made for, "
            "and give theirs as --lora, or merge them into it"
        )
    if (Path(resolved) / "config.json").is_file():
        read_object(Path(resolved) / "config.json", name, flag)
    expected = f"{flag} {name} must hold a config.json with a known model_type"
    with _no_code_of_others(name, flag), library_errors(ArgumentError, expected, "correct it or copy it again"):
        written, _ = PreTrainedConfig.get_config_dict(resolved)
        check_numbers(written, f"{flag} {name}")
        config = AutoConfig.from_pretrained(resolved, trust_remote_code=trust_remote_code)
        names = config.architectures
        if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise ValueError(f"architectures {names!r}")
    if config.model_type == "flash" and "linear_divisor" not in written:
        config.linear_divisor = "max_position"
    return config


def check_numbers(fields: dict, owner: str, place: str = "") -> None:
    """ArgumentError for a whole number in a config's fields, nested ones too, with which no model can be built."""
    for key, value in fields.items():
        field = f"{place}{key}"
        most = _MOST.get(key, _MOST_PARTS if _PARTS.fullmatch(str(key)) else _MOST_NUMBER)
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and not -_MOST_NUMBER <= number <= most:
                raise ArgumentError(f"{owner} must have {field} of at most {most} in its config.json, got {number}")
            if isinstance(number, dict):
                check_numbers(number, owner, f"{field}.")
