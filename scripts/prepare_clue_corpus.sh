#!/usr/bin/env bash
# The four zips of CLUECorpusSmall -> text -> one shuffled JSONL -> corpus for run_mlm_wwm.py, each step once: re-running
# goes on where it stopped. Takes 14 GB for the text, twice as much while it is shuffled. Arguments go to the last step.
#   CLUE_ZIPS     folder with the zips (github.com/CLUEbenchmark/CLUECorpus2020 tells where to get them)
#   CLUE_OUTPUT   folder that receives everything
#   CLUE_MODEL    tokenizer: folder or hub name
#   CLUE_WORKERS  processes
set -euo pipefail
zips=$(realpath -m "${CLUE_ZIPS:-corpora/clue_zips}")
out=$(realpath -m "${CLUE_OUTPUT:-corpora/clue_small_wwm_data}")
model=${CLUE_MODEL:-junnyu/roformer_chinese_char_base}
[ ! -d "$model" ] || model=$(realpath "$model")
workers=${CLUE_WORKERS:-$(env -u OMP_NUM_THREADS nproc)}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=python
[ ! -x .venv/bin/python ] || python=.venv/bin/python

check_and_unzip() { # name, md5
    [ ! -d "$out/text/$1" ] || return 0
    [ -f "$zips/$1.zip" ] || { echo "CLUE_ZIPS must hold $1.zip, got the folder $zips; download it" >&2; exit 1; }
    echo "$2  $zips/$1.zip" | md5sum --check --quiet ||
        { echo "$zips/$1.zip must have the md5 $2; download it again" >&2; exit 1; }
    rm -rf "$out/unzipping"
    mkdir -p "$out/unzipping" "$out/text"
    "$python" -m zipfile -e "$zips/$1.zip" "$out/unzipping"
    rm -rf "$out/unzipping/__MACOSX"
    mv "$out/unzipping" "$out/text/$1"
}

check_and_unzip comment2019zh_corpus 8a8be341ebce39cfe9524fb0b46b08c5
check_and_unzip news2016zh_corpus 4bdc2c941a7adb4a061caf273fea42b8
check_and_unzip webText2019zh_corpus fc582409f078b10d717caf233cc58ddd
check_and_unzip wiki2019zh_corpus 157dacde91dcbd2e52a60af49f710fa5

if [ ! -f "$out/clue_corpus_small_14g.jsonl" ]; then
    "$python" data/trans_to_json.py \
        --input_path "$out/text" \
        --output_path "$out/clue_corpus_small_14g.jsonl" \
        --json_key text \
        --min_doc_length 10 \
        --seed 1234 \
        --workers "$workers"
fi

"$python" run_chinese_ref.py \
    --tokenizer_name "$model" \
    --input_path "$out/clue_corpus_small_14g.jsonl" \
    --json_key text \
    --output_dir "$out/corpus" \
    --max_seq_length 512 \
    --min_chars 1 \
    --segmenter rjieba \
    --workers "$workers" \
    --override "$@"
