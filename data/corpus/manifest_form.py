"""What a manifest of a corpus must look like, and where a damaged one does not."""

from collections.abc import Callable

_MOST = 1 << 24  # entries of a vocabulary and tokens of a row: what is more comes from a damaged manifest
FORM = {  # of the keys of a manifest; more of them may be there
    "complete": bool,
    "tokenizer": {"name": str, "hash": str, "size": int},
    "inputs": [{"file": str, "bytes": int, "sha256": str}],
    "settings": {},
    "shards": [{"file": str, "bytes": int}],
}


def manifest_fault(manifest: dict, shard_name: Callable[[int], str]) -> str | None:
    """What is wrong in a manifest, None for nothing. shard_name: of the file of each shard by its number."""
    needed = {"complete", "tokenizer", *(["shards"] if manifest.get("complete") else [])}
    for key in needed - manifest.keys():
        return f"without {key}"
    for key in FORM.keys() & manifest.keys():
        if fault := misfit(manifest[key], FORM[key], key):
            return fault
    for index, shard in enumerate(manifest.get("shards", [])):
        if shard["file"] != shard_name(index):
            return f"shards[{index}].file is not {shard_name(index)}"
        if type(rows := shard.get("blocks", 0)) is not int or not 0 <= rows < 1 << 40:
            return f"shards[{index}].blocks is {rows!r:.60}"
    for where, value in (
        ("tokenizer.size", manifest["tokenizer"]["size"]),
        ("settings.max_seq_length", manifest.get("settings", {}).get("max_seq_length", 1)),
    ):
        if type(value) is not int or not 0 < value <= _MOST:
            return f"{where} is {value!r:.60}"
    return None


def misfit(value, form, where: str) -> str | None:
    """Where a JSON value has another form: a type, or a container whose keys are needed or whose items are alike."""
    if isinstance(form, type):
        fits = type(value) is form and (form is not int or 0 <= value < 1 << 63)
        return None if fits else f"{where} is {value!r:.60}"
    if type(value) is not type(form):
        return f"{where} is {value!r:.60}"
    if isinstance(form, list):
        faults = (misfit(item, form[0], f"{where}[{index}]") for index, item in enumerate(value))
    else:
        faults = (
            misfit(value[key], form[key], f"{where}.{key}") if key in value else f"{where} without {key}"
            for key in form
        )
    return next(filter(None, faults), None)
