#!/usr/bin/env bash
# Pretrain RoBERTa base from scratch on a corpus of create_data.py, by PaddleNLP's RoBERTa recipe (JunnYu), 3 epochs.
# The corpus: python data/create_data.py --output_dir wiki --dataset_name wikimedia/wikipedia \
#   --dataset_config_name 20231101.en --tokenizer_name roberta-base --max_seq_length 512 \
#   --preprocessing_num_workers 20 --validation_split 0.001
#   TRAIN_DIR      corpus folder
#   OUTPUT_DIR     folder of the run; running this again resumes
#   NPROC          processes, one per GPU
#   TOKENIZER      folder or hub name of the tokenizer that made the corpus
# Further flags go to run_mlm_wwm.py. Rows per update: NPROC x per_device_train_batch_size x gradient_accumulation_steps.
# Precision: bf16 on cards that have it (Ampere or later), else fp16; --bf16 false --fp16 takes fp16 anywhere.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
TRAIN_DIR=${TRAIN_DIR:-wiki}
OUTPUT_DIR=${OUTPUT_DIR:-outputs/roberta}
NPROC=${NPROC:-2}
TOKENIZER=${TOKENIZER:-roberta-base}
shape=num_hidden_layers=12,hidden_size=768,num_attention_heads=12,intermediate_size=3072
torchrun --nproc_per_node "$NPROC" run_mlm_wwm.py \
    --do_train \
    --model_type roberta \
    --config_overrides "$shape,max_position_embeddings=514,type_vocab_size=1,layer_norm_eps=1e-5" \
    --tokenizer_name "$TOKENIZER" \
    --train_dir "$TRAIN_DIR" \
    --validation_dir "$TRAIN_DIR/validation" \
    --packing concat \
    --max_seq_length 512 \
    --output_dir "$OUTPUT_DIR" \
    --logging_dir "$OUTPUT_DIR/runs" \
    --mask_unit token \
    --mlm_probability 0.15 \
    --mask_share 0.8 \
    --random_share 0.1 \
    --per_device_train_batch_size 16 \
    --per_device_eval_batch_size 16 \
    --gradient_accumulation_steps 1 \
    --learning_rate 1e-4 \
    --weight_decay 0.01 \
    --adam_epsilon 1e-6 \
    --max_grad_norm 1.0 \
    --num_train_epochs 3 \
    --max_steps -1 \
    --warmup_steps 10000 \
    --logging_steps 100 \
    --eval_strategy steps \
    --eval_steps 10000 \
    --save_steps 10000 \
    --save_total_limit 5 \
    --dataloader_num_workers 6 \
    --bf16 \
    --seed 42 \
    --override "$@"
