#!/usr/bin/env bash
# Continue prompts with Chinese Transformer-XL as its authors do: bash scripts/generate_text.sh ./txl-2.9B
# The folder is theirs, in any number of parts, or one of transformers. Further flags go to generate_text.py.
#   MP_SIZE     processes, one per GPU, over which the model is spread
#   TOKENIZER   sentencepiece file or tokenizer folder; default: the one in the model's folder
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: bash scripts/generate_text.sh MODEL [flags of generate_text.py]" >&2; exit 2; }
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
MODEL=$1
shift
MP_SIZE=${MP_SIZE:-1}
TOKENIZER=${TOKENIZER:-$MODEL}
python=python
[ "$MP_SIZE" = 1 ] || python="launch --standalone --nproc-per-node $MP_SIZE"
launch() { # torchrun, with Ctrl-C for its processes, which end together, instead of for itself, which would kill them
    (trap '' INT && exec torchrun --signals-to-handle SIGTERM,SIGHUP,SIGQUIT "$@") <&0 &
    trap 'kill -INT $(</proc/$!/task/$!/children) 2>/dev/null || kill $!' INT # it has no processes at first
    until wait $!; do [ $? = 130 ] || return; done # 130: the trap ran
}
$python "$root/generate_text.py" "$MODEL" \
    --tokenizer_name "$TOKENIZER" \
    --temperature 0.9 \
    --top_k 0 \
    --top_p 0 \
    --max_length 1024 \
    --attention_window 768 \
    --seed 1234 \
    --override "$@"
