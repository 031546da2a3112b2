#!/usr/bin/env bash
# Ten minutes of Transformer-XL on two CPU cores, after quickstart.sh: a month of People's Daily in printed order, cut into
# documents of 200 lines, in segments of 64 tokens with a memory of 192. Then the same weights are measured with and
# without their memory, and continue a prompt. Re-running resumes; arguments go to the training.
#   QUICKSTART_OUTPUT   folder that quickstart.sh filled; the run goes below it
#   TXL_STEPS           optimiser updates at most (fewer for a smoke run); ten minutes end the training, too
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
cd "$root"
out=${QUICKSTART_OUTPUT:-outputs/quickstart}
steps=${TXL_STEPS:-4000} processes=$(( $(getconf _NPROCESSORS_ONLN) < 2 ? 1 : 2 ))
export OMP_WAIT_POLICY=passive TOKENIZERS_PARALLELISM=false
[ -s "$out/text/news.txt" ] || { echo "$out must hold text/news.txt; run scripts/quickstart.sh first" >&2; exit 1; }

echo "== 1. Documents of 200 lines; every twentieth is held out"
"$python" - "$out" <<'PYTHON'
import json, sys
lines = open(f"{sys.argv[1]}/text/news.txt", encoding="utf-8").read().split("\n")
lines = [line for line in lines if line.strip()]
documents = ["\n".join(lines[first : first + 200]) for first in range(0, len(lines), 200)]
for part, chosen in (("heldout", documents[10::20]), ("train", [d for i, d in enumerate(documents) if i % 20 != 10])):
    with open(f"{sys.argv[1]}/news_{part}.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in chosen)
PYTHON

echo "== 2. Training: 4 layers, hidden 256, on $processes process(es)"
# A process with one thread a core: matrices this small gain little from a second thread.
OMP_NUM_THREADS=1 "$python" -m torch.distributed.run --standalone --nproc_per_node "$processes" \
    run_clm.py --do_train --tokenizer_name "$out/tokenizer" \
    --train_file "$out/news_train.jsonl" --validation_file "$out/news_heldout.jsonl" --output_dir "$out/transformer_xl" \
    --config_overrides "hidden_size=256,num_hidden_layers=4,num_attention_heads=4,segment_length=64,mem_len=192,\
attention_window=256,hidden_dropout=0.0,attention_dropout=0.0" \
    --per_device_train_batch_size $((32 / processes)) --max_steps "$steps" --max_train_minutes 10 --schedule_by_time \
    --optimizer muon --muon_learning_rate 2e-2 --learning_rate 3e-3 --adam_beta2 0.98 --weight_decay 0.01 --max_grad_norm 1.0 \
    --warmup_steps 0.02 --lr_scheduler_type linear --bf16 --logging_steps 25 --eval_strategy steps --eval_steps 100 \
    --save_steps 100 --save_total_limit 1 --seed 1234 --report_to none --override "$@"

echo "== 3. Held-out perplexity of the same weights: memory 192, then none"
for memory in 192 0; do
    "$python" run_clm.py --do_eval --model_name_or_path "$out/transformer_xl" --validation_file "$out/news_heldout.jsonl" \
        --mem_len "$memory" --output_dir "$out/transformer_xl_memory_$memory" --report_to none
done

echo "== 4. A prompt goes on"
"$python" generate_text.py "$out/transformer_xl" --prompt "新华社北京１月１日电" --temperature 0.7 --top_p 0.9 --max_new_tokens 120
"$python" plot_run.py "$out/transformer_xl" --output "$out/transformer_xl.png"
