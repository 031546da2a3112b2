"""Reshards a Transformer-XL checkpoint of THUDM's layout for another number of model-parallel processes.

    python change_mp.py outputs/mine/txl_thudm 2              # writes outputs/mine/txl_thudm_MP2

A folder that the example of convert_checkpoint.py writes. Of the published model:

    python change_mp.py ./txl-2.9B 2                          # writes ./txl-2.9B_MP2
    python change_mp.py --vocab_size 50176 ./txl-2.9B 2       # as THUDM's finetuning wants its vocabulary padded
    python change_mp.py ./txl-2.9B_MP2 1

Any number of parts becomes any other that divides the heads and the vocabulary. Tensors keep their bits, each part
holds only its own share, and what every part repeats is compared first.
"""

import argparse
import shutil
from pathlib import Path

if __name__ == "__main__":
    import common.script  # noqa: F401  no traceback of Ctrl-C amid the slow imports

import torch

from common.flags import FlagParser
from common.script import run_script
from models.convert import CheckpointError, thudm
from models.convert.output import new_output

# What a part holds beside its tensors and is still true after resharding; other keys stay, without a value.
KEPT = {"lr_scheduler", "skipped_steps", "global_steps", "global_samples", "dp_world_size", "iteration"}
KEPT |= {"client_lr_scheduler", "random_rng_state", "np_rng_state", "torch_rng_state", "cuda_rng_state"}
KEPT |= {"rng_tracker_states"}


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = FlagParser(doc=__doc__)
    parser.add_argument("folder", type=Path, help="folder with mp_rank_*_model_states.pt, or with a tracker file")
    parser.add_argument("parts", type=int, help="number of parts to write")
    parser.add_argument("--output", type=Path, help="folder to make; default: the folder's name with _MP and parts")
    parser.add_argument("--vocab_size", type=int, help="rows of the vocabulary: zeros are added, or last rows cut")
    return parser.parse_args(argv)


def resize(rows: torch.Tensor, size: int) -> torch.Tensor:
    """rows [V, H] -> [size, H]: the first rows, or all and zeros below."""
    return torch.cat((rows[:size], rows.new_zeros(max(0, size - len(rows)), rows.shape[1])))


def make_part(shards: thudm.Shards, rank: int, parts: int, vocab_size: int) -> dict:
    """The content of one file of the output."""
    module = {}
    for name, whole in shards.walk():
        if name == thudm.VOCABULARY:
            whole = [resize(whole[0], vocab_size)]
        module[name] = thudm.cut(thudm.resolve(name)[0], whole, rank, parts)
    content = {key: value if key in KEPT else None for key, value in shards.contents[0].items()}
    return content | {"mp_world_size": parts, "module": module}


def check(shards: thudm.Shards, parts: int, vocab_size: int) -> None:
    """Raises CheckpointError unless heads and vocabulary divide into so many parts."""
    heads = shards.shape("transformer.r_w_bias")[0] if "transformer.r_w_bias" in shards.names else None
    width = shards.shape(thudm.VOCABULARY)[1]
    if parts < 1 or (heads or width) % parts:
        what = f"heads {heads}" if heads else f"hidden size {width}"
        raise CheckpointError(f"parts must divide the {what} of {shards.files[0]}, got {parts}; choose another number")
    if vocab_size < 1 or vocab_size % parts:
        fitting = -(-max(vocab_size, 1) // (128 * parts)) * 128 * parts
        raise CheckpointError(
            f"--vocab_size must divide into {parts} parts, got {vocab_size}; {fitting} is the next multiple of "
            f"{128 * parts}"
        )


def reshard(arguments: argparse.Namespace) -> Path:
    """Writes the parts and returns their folder."""
    folder, parts = arguments.folder, arguments.parts
    if not folder.is_dir() or not thudm.is_checkpoint(folder):
        raise CheckpointError(
            f"folder {folder} must hold {thudm.SHARD.format(0)} or {thudm.TRACKER}, got neither; give a checkpoint of "
            "THUDM's layout, which convert_checkpoint.py --reverse makes of a transformers folder"
        )
    output = arguments.output or folder.resolve().with_name(f"{folder.resolve().name}_MP{parts}")
    files = thudm.find_shards(folder)
    with new_output(output) as target:
        shards = thudm.Shards(files, scratch=target.parent)
        vocab_size = arguments.vocab_size or shards.shape(thudm.VOCABULARY)[0]
        check(shards, parts, vocab_size)
        place = target / files[0].parent.relative_to(folder)
        place.mkdir(parents=True)
        if place != target:
            (target / thudm.TRACKER).write_text(f"{place.name}\n", encoding="ascii")
        for file in folder.glob("*.model"):  # the tokenizer goes with the weights
            if file.is_file():
                shutil.copy2(file, target)
        for rank in range(parts):
            torch.save(make_part(shards, rank, parts, vocab_size), place / thudm.SHARD.format(rank))
        shards.close()
    return output


def main(argv: list[str] | None = None) -> None:
    print(reshard(parse_arguments(argv)))


if __name__ == "__main__":
    run_script(main)
