"""Every figure of the course, each with one sentence that says what it shows."""

from kdtutor.plots.attention import (
    attention_maps,
    attention_overview,
    head_shares,
    masks,
    positions,
    saturation,
)
from kdtutor.plots.classroom import class_progress
from kdtutor.plots.diagrams import distillation, encoder_decoder, masking, read_from_cls, split_into_heads
from kdtutor.plots.landscape import best_so_far, landscape
from kdtutor.plots.layers import similarity_maps
from kdtutor.plots.probabilities import (
    class_scores,
    distributions,
    gradient_sizes,
    gradients,
    reliability,
    second_guesses,
    temperature_and_alpha,
    temperature_curves,
)
from kdtutor.plots.results import (
    ablation,
    beside_paper,
    comparison,
    differences,
    learning_curves,
    memory,
    patience,
    scores_with_intervals,
    size_accuracy_latency,
)
from kdtutor.plots.robustness import curves
from kdtutor.plots.rounding import rounding_grid, score_by_bytes
from kdtutor.plots.sequences import covered_modes, divergence_along, errors_along
from kdtutor.plots.style import (
    INK,
    NBSP,
    OTHERS,
    STUDENT,
    STYLE,
    TEACHER,
    Look,
    Picture,
    as_array,
    as_grid,
    as_vector,
    canvas,
    describe,
    draw_curve,
    draw_grouped_bars,
    draw_heatmap,
    looks_of,
    percent,
    ranking,
    set_title,
    signed,
    softmax,
    styled,
)
