#!/usr/bin/env bash
# Finetune Chinese Transformer-XL 2.9B as ds_finetune_gpt_2.9B.sh does, by torch's FSDP2 in bf16 instead of DeepSpeed:
#     NPROC=8 bash scripts/finetune_txl_fsdp.sh ./txl-2.9B ./data.json
# Weights, gradients and the optimizer's state are spread over the GPUs. Further flags go to run_clm.py.
#   NPROC        processes, one per GPU
#   TOKENIZER    sentencepiece file or tokenizer folder; default: the one in the model's folder
#   OUTPUT_DIR   folder of the run; running this again resumes
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: bash scripts/finetune_txl_fsdp.sh MODEL DATA [flags of run_clm.py]" >&2; exit 2; }
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
MODEL=$1 DATA=$2
shift 2
NPROC=${NPROC:-8}
TOKENIZER=${TOKENIZER:-$MODEL}
OUTPUT_DIR=${OUTPUT_DIR:-outputs/txl_finetuned}
torchrun --standalone --nproc-per-node "$NPROC" "$root/run_clm.py" \
    --do_train \
    --model_name_or_path "$MODEL" \
    --tokenizer_name "$TOKENIZER" \
    --train_file "$DATA" \
    --output_dir "$OUTPUT_DIR" \
    --max_seq_length 512 \
    --mem_len 256 \
    --per_device_train_batch_size 8 \
    --gradient_accumulation_steps 1 \
    --learning_rate 1e-5 \
    --adam_beta1 0.9 \
    --adam_beta2 0.95 \
    --adam_epsilon 1e-8 \
    --weight_decay 0.01 \
    --max_grad_norm 1.0 \
    --schedule cosine_to_floor \
    --schedule_floor 0.05 \
    --max_steps 10000 \
    --warmup_steps 1000 \
    --bf16 \
    --fsdp \
    --fsdp_config "$root/scripts/fsdp_txl.json" \
    --logging_steps 50 \
    --save_steps 2000 \
    --seed 1234 \
    --override "$@"
