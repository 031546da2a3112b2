#!/usr/bin/env bash
# Pretrain FLASHQuad small (12 layers, H-768) with whole-word masks, by JunnYu/FLASHQuad_pytorch's recipe.
#   TRAIN_DIR      corpus folder, as prepare_clue_corpus.sh makes it
#   OUTPUT_DIR     folder of the run; running this again resumes
#   NPROC          processes, one per GPU
#   TOKENIZER      folder or hub name of the tokenizer that made the corpus
# Further flags go to run_mlm_wwm.py. Rows per update: NPROC x per_device_train_batch_size x gradient_accumulation_steps.
# Precision: bf16 on cards that have it (Ampere or later), else fp16; --bf16 false --fp16 takes fp16 anywhere.
# Learnt more in the same time on a CPU (docs/results.md: four layers of hidden 256), not tried at this size:
#     --mlm_probability 0.33 --mask_share 0.9 --random_share 0.02 --count_embeddings --unigram_bias --optimizer muon
#     --muon_learning_rate 2e-2 --learning_rate 6e-3 --adam_beta2 0.98 --max_grad_norm 1.0
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
TRAIN_DIR=${TRAIN_DIR:-clue_small_wwm_data}
OUTPUT_DIR=${OUTPUT_DIR:-outputs/flashquad_small}
NPROC=${NPROC:-1}
TOKENIZER=${TOKENIZER:-junnyu/roformer_chinese_char_base}
torchrun --nproc_per_node "$NPROC" run_mlm_wwm.py \
    --do_train \
    --model_type flash_quad \
    --config_overrides num_hidden_layers=12,hidden_size=768,expansion_factor=2,s=128 \
    --tokenizer_name "$TOKENIZER" \
    --train_dir "$TRAIN_DIR" \
    --validation_split 0.001 \
    --output_dir "$OUTPUT_DIR" \
    --logging_dir "$OUTPUT_DIR/runs" \
    --mlm_probability 0.15 \
    --per_device_train_batch_size 32 \
    --per_device_eval_batch_size 32 \
    --gradient_accumulation_steps 4 \
    --learning_rate 1e-4 \
    --weight_decay 0.01 \
    --adam_epsilon 1e-6 \
    --max_grad_norm 3.0 \
    --max_steps 250000 \
    --warmup_steps 5000 \
    --logging_steps 100 \
    --eval_strategy steps \
    --eval_steps 5000 \
    --save_steps 5000 \
    --save_total_limit 5 \
    --dataloader_num_workers 6 \
    --bf16 \
    --seed 2022 \
    --override "$@"
