"""TF-IDF + logistic regression on the embedded classification tasks: the bar that a Transformer has to clear.

    OMP_NUM_THREADS=1 python tools/tfidf_baseline.py

Word 1- and 2-grams with sublinear term frequency; for 25 classes one softmax or 25 one-against-the-rest models. That
choice, `min_df` and `C` are made by accuracy on the validation split; the model is fitted on the train split alone
and the chosen one scored on the test split. Writes results/tfidf-baseline.json beside the assets, after about six
minutes on one core. Needs scikit-learn, which kdtutor itself does not.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import product
from pathlib import Path

import pyarrow.parquet as pq
import sklearn
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.multiclass import OneVsRestClassifier

from kdtutor.assets import ROOT, manifest, verified

COMMAND = "OMP_NUM_THREADS=1 python tools/tfidf_baseline.py"
MIN_DF = (1, 2)
C = (3, 10, 30, 100)
# Solvers that are quick on sparse features; the seed makes their order of examples repeatable.
KINDS = {
    "softmax": lambda c: LogisticRegression(C=c, solver="saga", tol=1e-3, max_iter=200, random_state=0),
    "one against the rest": lambda c: OneVsRestClassifier(
        LogisticRegression(C=c, solver="liblinear", dual=True, tol=0.01, max_iter=1000, random_state=0)
    ),
}


def read(task: str, split: str) -> tuple[list[str], list[int]]:
    table = pq.read_table(verified(f"data/{task}/{split}.parquet"))
    return table["text"].to_pylist(), table["label"].to_pylist()


def scores(labels: list[int], predicted) -> dict[str, float]:
    return {
        "accuracy": round(float(accuracy_score(labels, predicted)), 5),
        "macro_f1": round(float(f1_score(labels, predicted, average="macro")), 5),
    }


def baseline(task: str) -> dict:
    """Find the best model by validation accuracy: its settings, its scores, and every setting that was tried."""
    data = {split: read(task, split) for split in ("train", "validation", "test")}
    start, tried, best = time.process_time(), [], None
    for min_df in MIN_DF:
        # One-letter words count too ("I", "a"), which scikit-learn's default pattern would skip.
        vectorizer = TfidfVectorizer(
            ngram_range=(1, 2), sublinear_tf=True, min_df=min_df, token_pattern=r"(?u)\b\w+\b"
        )
        train = vectorizer.fit_transform(data["train"][0])
        validation, test = (vectorizer.transform(data[split][0]) for split in ("validation", "test"))
        for (kind, make), c in product(KINDS.items(), C):
            model = make(c).fit(train, data["train"][1])
            found = scores(data["validation"][1], model.predict(validation))
            setting = {"kind": kind, "min_df": min_df, "C": c, "features": train.shape[1]}
            tried.append({**setting, "validation": found})
            print(task, json.dumps(tried[-1]), f"{time.process_time() - start:.0f} s", flush=True)
            if best is None or found["accuracy"] > best["validation"]["accuracy"]:
                best = {**tried[-1], "predicted": model.predict(test)}
    best["test"] = scores(data["test"][1], best.pop("predicted"))
    return {
        **best,
        "splits": {split: len(texts) for split, (texts, _) in data.items()},
        "data_sha256": {split: manifest()[f"data/{task}/{split}.parquet"]["sha256"] for split in data},
        "cpu_seconds": round(time.process_time() - start),
        "tried": tried,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "tfidf-baseline.json")
    out = parser.parse_args().out
    result = {
        "model": "TF-IDF (word 1- and 2-grams, sublinear) + logistic regression",
        "command": COMMAND,
        "scikit-learn": sklearn.__version__,
        "tasks": {task: baseline(task) for task in ("sentiment", "supersense")},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for task, found in result["tasks"].items():
        print(
            f"{task}: test accuracy {found['test']['accuracy']:.4f}, macro-F1 {found['test']['macro_f1']:.4f}"
        )


if __name__ == "__main__":
    main()
