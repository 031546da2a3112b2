#!/usr/bin/env bash
# Finetune and evaluate a model on every GLUE task that DATA holds, over RoBERTa's grid (fairseq; Liu et al. 2019): ten
# epochs, the best one of each run, five seeds. The paper quotes medians: the summary has them beside mean and sd.
#   bash scripts/finetune_glue.sh MODEL DATA [flags of run_glue.py, which win: --gpus 0,1 --seeds 1 --grid learning_rate=2e-5]
#   MODEL        folder or hub name of a pretrained encoder
#   DATA         folder with a folder for each task (CoLA, SST-2, ...)
#   OUTPUT_DIR   folder of all results; running this again goes on there
# A task without a training file is evaluated once, without training. ELECTRA's way: --recipe electra --grid ""
# --num_train_epochs 3 --warmup_ratio 0.1 --weight_decay 0.01 --adam_beta2 0.999. From MNLI's weights: --init_from_task
# rte,mrpc,stsb=mnli.
set -euo pipefail
board=glue
common=(--seeds 1,2,3,4,5 --num_train_epochs 10 --warmup_ratio 0.06 --lr_scheduler_type linear --select best
    --weight_decay 0.1 --adam_beta2 0.98 --adam_epsilon 1e-6 --max_grad_norm 0)
source "$(dirname "${BASH_SOURCE[0]}")/find_tasks.sh"

run "$(trained cola sst2 mrpc stsb qqp mnli qnli rte wnli ax)" \
    --grid "learning_rate=1e-5,2e-5,3e-5;per_device_train_batch_size=16,32" --override "${flags[@]}"
run "$evaluated" --override "${flags[@]}" --override --seeds 1 --grid ""
exit $failed
