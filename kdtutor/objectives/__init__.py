"""What the student minimises: terms that add up the way the formula does."""

from kdtutor.objectives.attention import (
    AttentionMaps,
    AttentionRelations,
    KeyRelations,
    QueryRelations,
    ValueRelations,
)
from kdtutor.objectives.formulas import (
    IGNORED,
    binary_soft_targets,
    cls_patience,
    cosine_hidden,
    entropy,
    hard_labels,
    hidden_states_mse,
    kl_divergence,
    logits_mse,
    masked_lm,
    soft_cross_entropy,
    soft_targets,
    uniform_targets,
)
from kdtutor.objectives.hidden import CLSPatience, CosineHidden, HiddenStates
from kdtutor.objectives.layers import layer_pairs
from kdtutor.objectives.logits import (
    BinarySoftTargets,
    Blend,
    HardLabels,
    LogitsMSE,
    MaskedLM,
    SoftCrossEntropy,
    SoftTargets,
    UniformTargets,
    blend,
)
from kdtutor.objectives.parse import OPERATORS, parse_objective
from kdtutor.objectives.relation_formulas import attention_kl, attention_mse, relation_scores
from kdtutor.objectives.rows import LIMITS, ObjectiveError
from kdtutor.objectives.terms import Batch, Formula, Objective, Term

__all__ = [
    "IGNORED",
    "LIMITS",
    "OPERATORS",
    "AttentionMaps",
    "AttentionRelations",
    "Batch",
    "BinarySoftTargets",
    "Blend",
    "CLSPatience",
    "CosineHidden",
    "Formula",
    "HardLabels",
    "HiddenStates",
    "KeyRelations",
    "LogitsMSE",
    "MaskedLM",
    "Objective",
    "ObjectiveError",
    "QueryRelations",
    "SoftCrossEntropy",
    "SoftTargets",
    "Term",
    "UniformTargets",
    "ValueRelations",
    "attention_kl",
    "attention_mse",
    "binary_soft_targets",
    "blend",
    "cls_patience",
    "cosine_hidden",
    "entropy",
    "hard_labels",
    "hidden_states_mse",
    "kl_divergence",
    "layer_pairs",
    "logits_mse",
    "masked_lm",
    "parse_objective",
    "relation_scores",
    "soft_cross_entropy",
    "soft_targets",
    "uniform_targets",
]
