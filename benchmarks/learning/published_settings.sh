#!/usr/bin/env bash
# Published settings of FLASHQuad beside those that the quickstart's trials found, at equal time: 12 layers, hidden 384, rows
# of up to 512 tokens, an hour of one core each, two seeds. Two hours on two cores; re-running resumes.
#   bash benchmarks/learning/published_settings.sh [OUTPUT]   after quickstart.sh, whose texts and tokenizer it takes
#   QUICKSTART_OUTPUT                                         folder of quickstart.sh
#   TRAIN_MINUTES                                             of each run (60)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/setup_env.sh"
cd "$root"
out=${1:-outputs/published_settings} quickstart=${QUICKSTART_OUTPUT:-outputs/quickstart}
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive TOKENIZERS_PARALLELISM=false
mkdir -p "$out"

for part in train heldout; do
    "$python" run_chinese_ref.py --tokenizer_name "$quickstart/tokenizer" --input_path "$quickstart/$part.jsonl" \
        --output_dir "$out/corpus_$part" --max_seq_length 512 --workers 2
done

train() {
    "$python" run_mlm_wwm.py --do_train --tokenizer_name "$quickstart/tokenizer" \
        --train_dir "$out/corpus_train" --validation_dir "$out/corpus_heldout" --output_dir "$out/$1-$2" --seed "$2" \
        --model_type flash_quad --config_overrides "hidden_size=384,num_hidden_layers=12,s=96,max_position_embeddings=512" \
        --max_steps 100000 --max_train_minutes "${TRAIN_MINUTES:-60}" --schedule_by_time --lr_scheduler_type linear \
        --weight_decay 0.01 --bf16 --logging_steps 25 --eval_strategy steps --eval_steps 250 --save_steps 250 \
        --save_total_limit 1 --report_to none --override "${@:3}" > "$out/$1-$2.txt" 2>&1
}
for seed in 1 2; do
    # scripts/pretrain_flashquad_small.sh, with a share of warm-up for its 5,000 of 250,000 steps and 32 rows for its 128
    train published $seed --mlm_probability 0.15 --learning_rate 1e-4 --adam_epsilon 1e-6 --max_grad_norm 3.0 --warmup_steps 0.02 \
        --per_device_train_batch_size 32 &
    # the line behind "Learnt more" in that script, in rows of as many tokens as its own have on average
    train improved $seed --packing isolated --max_seq_length 512 --per_device_train_batch_size 4 --unigram_bias --count_embeddings \
        --mlm_probability 0.33 --mask_share 0.9 --random_share 0.02 --optimizer muon --muon_learning_rate 2e-2 \
        --learning_rate 6e-3 --adam_beta2 0.98 --max_grad_norm 1.0 --warmup_steps 0.02 &
    wait
done
runs=()
for seed in 1 2; do runs+=("published settings=$out/published-$seed" "the quickstart's=$out/improved-$seed"); done
"$python" plot_run.py "${runs[@]}" --output "$out/curves.png"
