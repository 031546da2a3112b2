#!/usr/bin/env bash
# Finetune Chinese Transformer-XL 2.9B on JSON lines of prompt and text, with the settings of its authors and DeepSpeed:
#     bash scripts/ds_finetune_gpt_2.9B.sh ./txl-2.9B ./data.json
# The folder is theirs, in any number of parts whatever MP_SIZE, or one of transformers. Needs `pip install deepspeed`,
# for MP_SIZE 0.19.8 or later. Rows per update: NUM_WORKERS x NUM_GPUS_PER_WORKER / MP_SIZE x 8; ZeRO stage 2 spreads
# the optimizer over the processes with different rows. Running this again resumes; further flags go to run_clm.py.
#   NUM_WORKERS, NUM_GPUS_PER_WORKER, HOST_FILE_PATH   machines, processes on each, and DeepSpeed's list of the machines
#   MP_SIZE      adjacent GPUs that share each layer's matrices and read the same rows; divides their number and heads
#   OFFLOAD      1 keeps the optimizer's state in the memory of the host, for GPUs of 32 GB
#   TOKENIZER    sentencepiece file or tokenizer folder; default: the one in the model's folder
#   OUTPUT_DIR   folder of the run
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: bash scripts/ds_finetune_gpt_2.9B.sh MODEL DATA [flags of run_clm.py]" >&2; exit 2; }
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
MODEL=$1 DATA=$2
shift 2
NUM_WORKERS=${NUM_WORKERS:-1}
NUM_GPUS_PER_WORKER=${NUM_GPUS_PER_WORKER:-8}
HOST_FILE_PATH=${HOST_FILE_PATH:-./hostfile}
MP_SIZE=${MP_SIZE:-1}
OFFLOAD=${OFFLOAD:-0}
TOKENIZER=${TOKENIZER:-$MODEL}
OUTPUT_DIR=${OUTPUT_DIR:-outputs/txl_finetuned}
settings=$root/scripts/ds_config_2.9B_finetune
[ "$OFFLOAD" = 0 ] || settings+=_offload
python="torchrun --standalone --nproc-per-node $NUM_GPUS_PER_WORKER"
[ "$NUM_WORKERS" = 1 ] ||
    python="deepspeed --no_local_rank --hostfile $HOST_FILE_PATH --num_nodes $NUM_WORKERS --num_gpus $NUM_GPUS_PER_WORKER"
$python "$root/run_clm.py" \
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
    --fp16 \
    --gradient_checkpointing \
    --deepspeed "$settings.json" \
    --model_parallel_size "$MP_SIZE" \
    --logging_steps 50 \
    --save_steps 2000 \
    --seed 1234 \
    --override "$@"
