"""Accuracy of TF-IDF over character 1- to 3-grams with logistic regression: the bar that pretraining has to pass.

    python benchmarks/learning/chnsenticorp_tfidf.py --train_file train.tsv --dev_file dev.tsv --test_file test.tsv

The files are UER's ChnSentiCorp or laid out like it: tab separated with a header, columns `label` and `text_a`.
Settings, everything else as scikit-learn has it: n-grams of at least two texts, 1 + log of counts, C 10.
"""

import argparse
import sys
from pathlib import Path

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from data.tasks.own_files import adhoc_task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for split in ("train", "dev", "test"):
        parser.add_argument(f"--{split}_file", required=True, help=f"{split} TSV with the columns label and text_a")
    options = parser.parse_args()
    _, splits = adhoc_task(
        "classification", options.train_file, options.dev_file, options.test_file, "text_a", "label"
    )
    texts = {name: [record["text_a"] for record in split.records] for name, split in splits.items()}
    labels = {name: [record["label"] for record in split.records] for name, split in splits.items()}
    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), min_df=2, sublinear_tf=True)
    model = LogisticRegression(C=10, max_iter=1000).fit(vectorizer.fit_transform(texts["train"]), labels["train"])
    for name in ("validation", "test"):
        accuracy = 100 * model.score(vectorizer.transform(texts[name]), labels[name])
        print(f"{name}: {accuracy:.2f} % of {len(labels[name])} rows")


if __name__ == "__main__":
    main()
