#!/usr/bin/env bash
# Clean evaluation on ChnSentiCorp: corpora without its dev and test texts, three ways of pretraining on them and none,
# three finetuning seeds each, and TF-IDF beside. Some hours on two CPU cores; re-running resumes.
#   bash benchmarks/learning/chnsenticorp.sh DATA [OUTPUT]     DATA/chnsenticorp holds train.tsv, dev.tsv and test.tsv; after quickstart.sh,
#                                                     whose text (not its model, which has read the test texts) is used
#   PRETRAIN_MINUTES, REVIEW_MINUTES                  of mlm and of electra (20); further ones, on reviews, of mlm_reviews (15)
#   OMP_NUM_THREADS                                   of each process (1)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/setup_env.sh"
data=$(realpath "${1:?DATA must name the folder that holds chnsenticorp/}")
cd "$root"
out=${2:-outputs/chnsenticorp} text=${QUICKSTART_OUTPUT:-outputs/quickstart}/text minutes=${PRETRAIN_MINUTES:-20}
sets="$data/chnsenticorp"
export OMP_WAIT_POLICY=passive TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

echo "== 1. Text: reviews and newspaper of quickstart.sh and the task's own training reviews, without any label"
mkdir -p "$out/all" "$out/reviews"
sed 's/\r$//' "$sets/train.tsv" | awk -F '\t' 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == "text_a") column = i; next } { print $column }' \
    > "$out/reviews/chnsenticorp_train.txt"
cp "$text/pos.txt" "$text/neg.txt" "$out/reviews/"
cp "$out"/reviews/*.txt "$text/news.txt" "$out/all/"

echo "== 2. Corpora, apart from the dev and test texts; 400 documents of each measure the pretraining"
for name in all reviews; do
    "$python" data/trans_to_json.py --input_path "$out/$name" --output_path "$out/$name.jsonl" --doc_spliter line --min_doc_length 4 \
        --dedup --seed 1 --exclude "$sets/dev.tsv,$sets/test.tsv"
    head -n 400 "$out/$name.jsonl" > "$out/${name}_heldout.jsonl"
    tail -n +401 "$out/$name.jsonl" > "$out/${name}_train.jsonl"
done
"$python" data/train_tokenizer.py --input_path "$out/all.jsonl" --output_dir "$out/tokenizer" --vocab_size 8000 --nfkc
for part in all_heldout all_train reviews_heldout reviews_train; do
    "$python" run_chinese_ref.py --tokenizer_name "$out/tokenizer" --input_path "$out/$part.jsonl" --output_dir "$out/corpus_$part" \
        --max_seq_length 256 --workers 2
done

echo "== 3. Pretraining"
common=(--do_train --tokenizer_name "$out/tokenizer" --schedule_by_time --optimizer muon --adam_beta2 0.98
    --max_grad_norm 1.0 --warmup_steps 0.02 --bf16 --logging_steps 100 --eval_strategy steps --eval_steps 2000 --save_steps 2000
    --save_total_limit 1 --seed 1234 --report_to none --max_steps 60000)
# A process with one thread a core, as in quickstart.sh; rows of 256 tokens without padding.
mlm=("$python" -m torch.distributed.run --standalone --nproc_per_node 2 run_mlm_wwm.py "${common[@]}" --packing isolated --max_seq_length 256
    --per_device_train_batch_size 10 --mlm_probability 0.25 --mask_share 0.9 --random_share 0.02 --weight_decay 0.01)
"${mlm[@]}" --train_dir "$out/corpus_all_train" --validation_dir "$out/corpus_all_heldout" --output_dir "$out/mlm" \
    --model_type flash_quad --unigram_bias --count_embeddings \
    --config_overrides "hidden_size=256,num_hidden_layers=4,s=64,max_position_embeddings=256" \
    --max_train_minutes "$minutes" --muon_learning_rate 2e-2 --learning_rate 6e-3
"${mlm[@]}" --train_dir "$out/corpus_reviews_train" --validation_dir "$out/corpus_reviews_heldout" --output_dir "$out/mlm_reviews" \
    --model_name_or_path "$out/mlm" --max_train_minutes "${REVIEW_MINUTES:-15}" --muon_learning_rate 1e-2 --learning_rate 3e-3
"$python" run_electra.py "${common[@]}" --train_dir "$out/corpus_all_train" --validation_dir "$out/corpus_all_heldout" \
    --output_dir "$out/electra" --model_type gau_alpha --group_by_length --per_device_train_batch_size 32 \
    --config_overrides "hidden_size=256,intermediate_size=512,attention_key_size=64,max_position_embeddings=256,\
hidden_dropout_prob=0.0,attention_probs_dropout_prob=0.0,num_hidden_layers=4" \
    --electra_data packed --max_seq_length 256 --mlm_probability 0.2 --temperature 2 \
    --max_train_minutes "$minutes" --muon_learning_rate 2e-2 --learning_rate 4e-3 --adam_bias_correction true --schedule separate_linear \
    --dataloader_num_workers 0 --checkpoint_percents 100

echo "== 4. Finetuning"
"$python" benchmarks/learning/chnsenticorp_tfidf.py --train_file "$sets/train.tsv" --dev_file "$sets/dev.tsv" --test_file "$sets/test.tsv"
finetune() {
    "$python" run_glue.py --tasks chnsenticorp --data_dir "$data" --output_dir "$out/finetuned_$1" --model_name_or_path "$out/$2" --do_predict \
        --seeds 1,2,3 --max_seq_length 256 --per_device_train_batch_size 32 --bf16 --pooling mean --optimizer muon --muon_learning_rate 5e-3 \
        --learning_rate 1e-3 --adam_beta2 0.98 --adam_epsilon 1e-6 --weight_decay 0.01 --max_grad_norm 1 --warmup_ratio 0.1 \
        --lr_scheduler_type linear --num_train_epochs 3 --logging_steps 25 "${@:3}"
}
finetune random mlm --random_init
for name in mlm mlm_reviews electra; do finetune "$name" "$name"; done

echo "== 5. Picture: dev accuracy over the epochs of finetuning"
runs=()
for name in random mlm mlm_reviews electra; do
    for configuration in "$out/finetuned_$name"/chnsenticorp/*/; do runs+=("$name=$configuration"); done
done
"$python" plot_run.py "${runs[@]}" --reference "TF-IDF=nan,91.75" --output "$out/chnsenticorp.png"
