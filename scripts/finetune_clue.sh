#!/usr/bin/env bash
# Finetune and evaluate a model on every CLUE task that DATA holds, over PaddleNLP's grids for CLUE (of CLUENER: the CLUE
# baseline), and sum up: per task the configuration with the best mean dev score over the seeds.
#   bash scripts/finetune_clue.sh MODEL DATA [flags of run_glue.py, which win: --gpus 0,1 --seeds 1 --grid learning_rate=3e-5]
#   MODEL        folder or hub name of a pretrained encoder
#   DATA         folder with a folder for each task (afqmc, tnews, ...)
#   OUTPUT_DIR   folder of all results; running this again goes on there
# A task without a training file is evaluated once, without training. Epochs, lengths and warmup are those of the task table.
set -euo pipefail
board=clue
common=(--seeds 42,43,44 --weight_decay 0.01 --adam_epsilon 1e-8 --max_grad_norm 1.0 --lr_scheduler_type linear --select best)
source "$(dirname "${BASH_SOURCE[0]}")/find_tasks.sh"

classification=$(trained afqmc tnews iflytek cmnli ocnli csl clue_diagnostics)
run "$classification" \
    --grid "learning_rate=1e-5,2e-5,3e-5,5e-5;per_device_train_batch_size=16,32,64" --eval_steps 100 --override "${flags[@]}"
run "$(trained cluewsc2020)" \
    --grid "learning_rate=1e-5,2e-5,3e-5,5e-5;per_device_train_batch_size=8,16,32,64;dropout=0,0.1" --eval_steps 100 --override "${flags[@]}"
run "$(trained cmrc2018 drcd chid c3)" \
    --grid "learning_rate=1e-5,2e-5,3e-5;per_device_train_batch_size=24,32" --override "${flags[@]}"
run "$(trained cluener)" --grid "learning_rate=3e-5;per_device_train_batch_size=24" --override "${flags[@]}"
run "$evaluated" --override "${flags[@]}" --override --seeds 42 --grid ""
exit $failed
