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
    decoupled_kd,
    entropy,
    hard_labels,
    hidden_states_mse,
    kl_divergence,
    logits_mse,
    masked_lm,
    pearson_kd,
    soft_cross_entropy,
    soft_targets,
    uniform_targets,
)
from kdtutor.objectives.hidden import CLSPatience, CosineHidden, HiddenStates
from kdtutor.objectives.layers import layer_pairs
from kdtutor.objectives.learned import LearnedTemperature
from kdtutor.objectives.logits import (
    AnnealedLogits,
    BinarySoftTargets,
    Blend,
    DecoupledKD,
    HardLabels,
    LogitsMSE,
    MaskedLM,
    PearsonKD,
    SoftCrossEntropy,
    SoftTargets,
    UniformTargets,
    blend,
)
from kdtutor.objectives.parse import OPERATORS, parse_objective
from kdtutor.objectives.relation_formulas import (
    attention_kl,
    attention_mse,
    contrastive,
    relation_scores,
    relational_angle,
    relational_distance,
    similarity_preserving,
)
from kdtutor.objectives.relations import (
    Contrastive,
    RelationalAngle,
    RelationalDistance,
    SimilarityPreserving,
)
from kdtutor.objectives.rows import LIMITS, ObjectiveError
from kdtutor.objectives.sequences import (
    GeneralisedJSD,
    ReverseKL,
    SkewedKL,
    SkewedReverseKL,
    generalised_jsd,
    reverse_kl,
    skewed_kl,
    skewed_reverse_kl,
)
from kdtutor.objectives.terms import Batch, Formula, Objective, Term
