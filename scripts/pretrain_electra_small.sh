#!/usr/bin/env bash
# Pretrain ELECTRA-small: generator and discriminator.
# google-research/electra's settings in richarddwang/electra_pytorch's form.
#   TRAIN_DIR      corpus folder, as data/create_data.py makes it; with the lines of the references:
#                  --line_by_line true --keep_lines true --drop_brackets true, and --min_line_chars 80 for Wikipedia
#   OUTPUT_DIR     folder of the run; running this again resumes
#   NPROC          processes, one per GPU: a power of two up to 128
#   TOKENIZER      folder or hub name of the tokenizer that made the corpus
# Further flags go to run_electra.py. 128 rows an update, shared out among processes and accumulation.
# Precision: bf16 on cards that have it (Ampere or later), else fp16; --bf16 false --fp16 takes fp16 anywhere.
# The model is small, and a GPU waits for its launches: --torch_compile --torch_compile_mode reduce-overhead records them
# as CUDA graphs, one for each shape of a batch, after some minutes of compiling (not yet measured on a GPU, so not on).
# What the quickstart trains four layers of FLASHQuad with on a CPU (docs/electra.md), not tried at this size:
#     --initial_temperature 2 --count_embeddings --unigram_bias --optimizer muon --muon_learning_rate 2e-2 --adam_beta2 0.98
#     --adam_bias_correction true
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
TRAIN_DIR=${TRAIN_DIR:-openwebtext}
OUTPUT_DIR=${OUTPUT_DIR:-outputs/electra_small}
NPROC=${NPROC:-1}
TOKENIZER=${TOKENIZER:-google/electra-small-discriminator}
torchrun --nproc_per_node "$NPROC" run_electra.py \
    --do_train \
    --size small \
    --tokenizer_name "$TOKENIZER" \
    --train_dir "$TRAIN_DIR" \
    --validation_split 0.001 \
    --output_dir "$OUTPUT_DIR" \
    --logging_dir "$OUTPUT_DIR/runs" \
    --electra_data reference \
    --max_seq_length 128 \
    --mask_unit token \
    --mask_style electra \
    --mlm_probability 0.15 \
    --sampling fp32_gumbel \
    --per_device_train_batch_size "$((128 / NPROC))" \
    --per_device_eval_batch_size 32 \
    --gradient_accumulation_steps 1 \
    --schedule original_linear \
    --learning_rate 5e-4 \
    --warmup_steps 10000 \
    --max_steps 1000000 \
    --adam_bias_correction false \
    --adam_epsilon 1e-6 \
    --weight_decay 0.01 \
    --max_grad_norm 1.0 \
    --checkpoint_percents 6.25 12.5 25 50 100 \
    --logging_steps 100 \
    --eval_strategy steps \
    --eval_steps 10000 \
    --save_steps 10000 \
    --save_total_limit 2 \
    --dataloader_num_workers 3 \
    --bf16 \
    --seed 11081 \
    --override "$@"
