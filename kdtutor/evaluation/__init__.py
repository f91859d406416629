"""What a student is worth, and whether a difference is real."""

from kdtutor.evaluation.scores import (
    FORMATS,
    SCORES,
    Evaluation,
    accuracy,
    ece,
    evaluate,
    macro_f1,
    masked_lm_scores,
    mean_average_precision,
    mean_squared_error,
    measure,
    micro_f1,
    predict,
    scores_of,
    spearman,
)
from kdtutor.evaluation.speed import latencies_ms, latency_ms
from kdtutor.evaluation.statistics import (
    Interval,
    PairedTest,
    mean_and_interval,
    paired_seeds_and_texts,
    paired_seeds_test,
    paired_test,
)

__all__ = [
    "FORMATS",
    "SCORES",
    "Evaluation",
    "Interval",
    "PairedTest",
    "accuracy",
    "ece",
    "evaluate",
    "latencies_ms",
    "latency_ms",
    "macro_f1",
    "masked_lm_scores",
    "mean_and_interval",
    "mean_average_precision",
    "mean_squared_error",
    "measure",
    "micro_f1",
    "paired_seeds_and_texts",
    "paired_seeds_test",
    "paired_test",
    "predict",
    "scores_of",
    "spearman",
]
