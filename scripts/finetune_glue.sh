#!/usr/bin/env bash
# Finetune and evaluate a model on every GLUE task that DATA holds, over RoBERTa's grid (fairseq; Liu et al. 2019): ten
# epochs, the best one of each run, five seeds. The paper quotes medians: the summary has them beside mean and sd.
#   bash scripts/finetune_glue.sh MODEL DATA [flags of run_glue.py, which win: --gpus 0,1 --seeds 1 --grid lr=2e-5]
#   MODEL        folder or hub name of a pretrained encoder
#   DATA         folder with a folder for each task (CoLA, SST-2, ...)
#   OUTPUT_DIR   folder of all results; running this again goes on there
# A task without a training file is evaluated once, without training. ELECTRA's way: --recipe electra --grid "" --epochs 3
# --warmup_ratio 0.1 --weight_decay 0.01 --betas 0.9,0.999. From MNLI's weights: --init_from_task rte,mrpc,stsb=mnli.
set -euo pipefail
board=glue
common=(--seeds 1,2,3,4,5 --epochs 10 --warmup_ratio 0.06 --weight_decay 0.1 --betas 0.9,0.98 --eps 1e-6 --clip 0 --schedule linear
    --select best)
source "$(dirname "${BASH_SOURCE[0]}")/find_tasks.sh"

run "$(trained cola sst2 mrpc stsb qqp mnli qnli rte wnli ax)" --grid "lr=1e-5,2e-5,3e-5;batch_size=16,32" "${flags[@]}"
run "$evaluated" "${flags[@]}" --seeds 1 --grid ""
exit $failed
