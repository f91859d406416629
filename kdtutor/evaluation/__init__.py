"""What a student is worth, and whether a difference is real."""

from kdtutor.evaluation.attacks import Attacked, attack, attack_rates
from kdtutor.evaluation.calibration import auroc, energy, fit_temperature, risk_coverage
from kdtutor.evaluation.choosing import COSTS, Choice, choices, pareto_front
from kdtutor.evaluation.ensembles import disagreement, fit_weights, mixture_weights
from kdtutor.evaluation.robustness import other_domain, robustness_curve, transfer
from kdtutor.evaluation.scores import (
    FORMATS,
    SCORES,
    Evaluation,
    accuracy,
    ece,
    evaluate,
    macro_f1,
    mean_average_precision,
    mean_squared_error,
    measure,
    micro_f1,
    predict,
    scores_of,
    spearman,
)
from kdtutor.evaluation.similarity import (
    cka_of_layers,
    layer_probes,
    layer_similarity,
    layer_states,
    linear_cka,
)
from kdtutor.evaluation.speed import Speed, Speeds, latencies_ms, latency_ms, speeds, stored_bytes
from kdtutor.evaluation.statistics import (
    Interval,
    PairedTest,
    mean_and_interval,
    paired_seeds_and_texts,
    paired_seeds_test,
    paired_test,
    share_interval,
)
from kdtutor.evaluation.tokens import token_scores
from kdtutor.evaluation.writing import edit_distance, error_rates, written_scores
