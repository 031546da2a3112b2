#!/usr/bin/env bash
# Train a tiny ELECTRA on the corpus that quickstart.sh has prepared, ten minutes on two CPU cores, and compare its
# discriminator with a constant guess on the held-out documents. Re-running resumes; arguments go to the training.
#   QUICKSTART_OUTPUT  folder of quickstart.sh, which receives electra_tiny/ and electra.png
#   ELECTRA_STEPS      optimiser updates at most (fewer for a smoke run)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
cd "$root"
out=${QUICKSTART_OUTPUT:-outputs/quickstart}
steps=${ELECTRA_STEPS:-20000} processes=$(( $(getconf _NPROCESSORS_ONLN) < 2 ? 1 : 2 ))
export OMP_WAIT_POLICY=passive TOKENIZERS_PARALLELISM=false
for part in tokenizer corpus_train corpus_heldout; do
    [ -d "$out/$part" ] || { echo "QUICKSTART_OUTPUT must hold $part, got the folder $out; run quickstart.sh first" >&2; exit 1; }
done

# A process with one thread a core: matrices this small gain little from a second thread.
OMP_NUM_THREADS=1 "$python" -m torch.distributed.run --standalone --nproc_per_node "$processes" \
    run_electra.py --do_train --tokenizer_name "$out/tokenizer" \
    --train_dir "$out/corpus_train" --validation_dir "$out/corpus_heldout" --output_dir "$out/electra_tiny" \
    --model_type flash_quad --unigram_bias --count_embeddings \
    --config_overrides "hidden_size=256,num_hidden_layers=4,s=64,max_position_embeddings=128" \
    --electra_data packed --max_seq_length 128 --per_device_train_batch_size $((68 / processes)) --group_by_length \
    --mlm_probability 0.2 --initial_temperature 2 --max_steps "$steps" --max_train_minutes 10 --schedule_by_time \
    --optimizer muon --muon_learning_rate 2e-2 --learning_rate 4e-3 --adam_beta2 0.98 --adam_bias_correction true \
    --schedule separate_linear --warmup_steps 0.02 --max_grad_norm 1.0 --bf16 --dataloader_num_workers 0 \
    --logging_steps 25 --eval_strategy steps --eval_steps 200 --save_steps 200 --save_total_limit 1 \
    --checkpoint_percents 100 --seed 1234 --report_to none --override "$@"

"$python" plot_run.py "$out/electra_tiny" --output "$out/electra.png"
"$python" - "$out" <<'PYTHON'
import json, math, sys
records = [json.loads(line) for line in open(f"{sys.argv[1]}/electra_tiny/log.jsonl", encoding="utf-8")]
last = [record for record in records if "eval_loss" in record][-1]
share, loss, auc = (last[f"eval_{name}"] for name in ("share_replaced", "discriminator_loss", "discriminator_auc"))
guess = -share * math.log(share) - (1 - share) * math.log(1 - share)
print(f"held out, step {last['step']}: loss {loss:.3f}, {loss / guess:.2f} of the constant guess's {guess:.3f}; AUC {auc:.3f}")
print("expected after ten minutes on two cores: about 0.9 of the constant guess, AUC about 0.73 against a generator that has learnt (loss 3.7)")
print(f"curves: {sys.argv[1]}/electra.png, model: {sys.argv[1]}/electra_tiny/discriminator")
PYTHON
