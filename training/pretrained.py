"""Find a pretrained folder or hub name within seconds, and load its tokenizer with every entry in place.

transformers itself retries an unreachable hub for half a minute, and reads a bare vocab.txt as a vocabulary of five
tokens; both end here in one line that names the flag. Importing this module imports neither torch nor transformers.
"""

import functools
import http.client
import itertools
import json
import re
import threading
import urllib.request
from pathlib import Path

from common.errors import UserError

HUB_SECONDS = 4.0  # the whole answer of the hub, name resolution included
_HUB_NAME = re.compile(r"(?!.*(--|\.\.))(?!.{97})\w([\w.-]*\w)?(/\w([\w.-]*\w)?)?")
_CACHED_FILES = ("config.json", "tokenizer_config.json", "tokenizer.json", "vocab.txt")


class ArgumentError(UserError):
    """A flag has a value that cannot work; the message is one line and starts with the flag."""


def resolve_pretrained(name: str, flag: str) -> str:
    """Turn what the user typed after `flag` into something `from_pretrained` finds at once.

    A local folder wins, then a name that the hub knows (returned as it is; HF_ENDPOINT and HF_HUB_OFFLINE are
    respected), then the newest snapshot in the local cache (returned as a folder).

    Raises:
        ArgumentError: within 5 seconds, when `name` is none of these.
    """
    if Path(name).is_dir():
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


def load_tokenizer(name: str, flag: str):
    """Load the fast tokenizer of a folder or hub name.

    A folder that holds only vocab.txt (with a config.json of any model type, or none) is a BERT WordPiece
    vocabulary, as all published checkpoints of this family are.

    Raises:
        ArgumentError: `name` is not found, or holds no tokenizer, or entries of its vocab.txt are missing.
    """
    from transformers import AutoTokenizer, BertTokenizer

    resolved = resolve_pretrained(name, flag)
    bare = _is_bare_vocabulary(Path(resolved))
    try:
        tokenizer = (BertTokenizer if bare else AutoTokenizer).from_pretrained(resolved)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ArgumentError(f"{flag} {name} must hold a tokenizer, got: {reason}; add its vocab.txt") from error
    vocabulary_file = Path(resolved) / "vocab.txt"
    if vocabulary_file.is_file():
        entries = vocabulary_file.read_bytes().decode("utf-8").rstrip("\n").split("\n")
        missing = {entry.rstrip() for entry in entries} - tokenizer.get_vocab().keys()  # as the library reads them
        if missing:
            raise ArgumentError(
                f"{flag} {name} must give all {len(entries)} entries of its vocab.txt, got {len(tokenizer)} "
                f"without {min(missing)!r}; remove its stale tokenizer.json or tokenizer_config.json"
            )
    return tokenizer


def _is_bare_vocabulary(folder: Path) -> bool:
    """Whether the folder has a vocab.txt but nothing that says which tokenizer class reads it."""
    if not (folder / "vocab.txt").is_file() or (folder / "tokenizer.json").is_file():
        return False
    settings = folder / "tokenizer_config.json"
    return not settings.is_file() or "tokenizer_class" not in json.loads(settings.read_text(encoding="utf-8"))


def load_config(name: str, flag: str):
    """Load the config of a folder or hub name.

    Published FLASH folders do not say what their linear attention is divided by; they were made for inputs padded to
    max_position_embeddings, so that is what they get here.

    Raises:
        ArgumentError: `name` is not found or holds no config that can be read.
    """
    from transformers import AutoConfig, PreTrainedConfig

    resolved = resolve_pretrained(name, flag)
    try:
        written, _ = PreTrainedConfig.get_config_dict(resolved)
        config = AutoConfig.from_pretrained(resolved)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ArgumentError(f"{flag} {name} must hold a config.json with a known model_type, got: {reason}") from error
    if hasattr(config, "linear_divisor") and "linear_divisor" not in written:
        config.linear_divisor = "max_position"
    return config
