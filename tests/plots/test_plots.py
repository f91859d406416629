"""The figures: what their sentences say comes from the data, and reaches the reader with the picture."""

import html
import re
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("matplotlib")
from matplotlib.transforms import Bbox

from kdtutor import plots
from kdtutor.errors import KDTutorError

NAMES = ("animal", "food", "plant", "time")
LOGITS = np.array([3.0, 2.0, 1.0, -2.0])
EVALUATIONS = {
    "teacher": SimpleNamespace(parameters=8_000_000, latency_ms=10.0, score=0.86),
    "student": SimpleNamespace(parameters=2_000_000, latency_ms=2.5, score=0.774),
}


def softmax(logits):
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def said(picture):
    return picture.alt.replace("\u00a0", " ")


def test_distributions_name_the_likeliest_classes_of_both_in_order():
    picture = plots.distributions([0.7, 0.2, 0.1, 0], [0.1, 0.6, 0.3, 0], NAMES, label="animal")
    assert "teacher's are animal 70 %, food 20 % and plant 10 %" in said(picture)
    assert "student's are food 60 %, plant 30 % and animal 10 %" in said(picture)
    assert said(picture).endswith("the true class is animal.")


def test_distributions_have_one_scale_in_every_picture_and_call_a_model_by_its_name():
    flat = plots.distributions([0.25] * 4, None, NAMES, model="masked LM")
    assert flat.axes[0].get_xlim() == plots.distributions([1, 0, 0, 0], None, NAMES).axes[0].get_xlim()
    assert "the masked LM's are animal 25 %" in said(flat)


def test_distributions_draw_only_the_classes_asked_for_and_star_the_true_one():
    picture = plots.distributions(softmax(LOGITS), None, NAMES, top=2, label="food")
    assert [text.get_text() for text in picture.axes[0].get_yticklabels()] == ["animal", "★ food"]
    assert "student" not in said(picture)


def test_logits_are_refused_where_probabilities_are_expected():
    with pytest.raises(
        KDTutorError, match=r"the student's are not probabilities of 4 classes: 4 numbers from -2"
    ):
        plots.distributions(softmax(LOGITS), LOGITS, NAMES)


def test_a_text_is_shown_as_it_is_dollars_included_and_shortened_if_long():
    picture = plots.distributions(softmax(LOGITS), None, NAMES, title="costs $5, then $x_{2 " + "long " * 200)
    picture.savefig(BytesIO())
    assert picture.axes[0].get_title(loc="left").startswith("costs $5, then $x_{2 long")
    assert len(picture.axes[0].get_title(loc="left")) <= 200


def test_a_tensor_with_a_gradient_can_be_drawn():
    torch = pytest.importorskip("torch")
    z = torch.tensor(LOGITS, requires_grad=True)
    assert said(plots.temperature_curves(z, NAMES)) == said(plots.temperature_curves(LOGITS, NAMES))


def test_temperature_curves_draw_the_first_guesses_and_what_all_others_have_together():
    picture = plots.temperature_curves(LOGITS, NAMES, temperatures=[1, 1e6], top=2)
    *_, others = picture.axes[0].lines
    assert others.get_label() == "2 others together"
    assert others.get_ydata() == pytest.approx([np.sort(softmax(LOGITS))[:2].sum(), 0.5], abs=1e-5)


def test_reliability_compares_confidence_and_accuracy_by_bins_as_the_calibration_error_does():
    torch = pytest.importorskip("torch")
    from kdtutor import evaluation

    torch.manual_seed(0)
    logits, labels = 3 * torch.randn(200, 4), torch.randint(4, (200,))
    picture = plots.reliability({"as it is": logits, "T = 3": logits / 3}, labels)
    for name, z in {"as it is": logits, "T = 3": logits / 3}.items():
        sure, right = z.softmax(-1).amax(-1).mean(), (z.argmax(-1) == labels).double().mean()
        error = f"expected calibration error {100 * evaluation.ece(z, labels):.1f} %"
        assert f"{name}: {100 * sure:.1f} % sure and {100 * right:.1f} % right on average, {error}" in said(
            picture
        )
    assert [axes.get_title(loc="left") for axes in picture.axes] == ["as it is", "T = 3"]


def test_temperature_curves_say_how_probability_and_entropy_change():
    picture = plots.temperature_curves(LOGITS, NAMES, temperatures=[1, 2, 1e6])
    p = softmax(LOGITS)
    assert f"animal goes from {100 * p[0]:.0f} % to 25 %" in said(picture)
    assert f"entropy from {-(p * np.log(p)).sum():.2f} to 1.39 nats, of at most 1.39" in said(picture)


def test_gradients_say_what_each_objective_raises_and_lowers():
    picture = plots.gradients({"KL": [-0.5, 0.3, 0.2, 0], "MSE": [0.1, -0.2, 0, 0.1]}, NAMES)
    assert "KL raises animal most (−0.50) and lowers food most (+0.30)" in said(picture)
    assert "MSE raises food most (−0.20)" in said(picture)


def test_gradient_sizes_follow_the_closed_forms():
    z_s, z_t = np.zeros((2, 4)), np.stack([LOGITS, -LOGITS])
    picture = plots.gradient_sizes(z_s, z_t, [0, 3], temperatures=[1, 10])
    gaps = [np.mean([np.linalg.norm(softmax(row / T) - 0.25) for row in z_t]) for T in (1, 10)]
    assert f"with T² from {gaps[0]:.2g} to {10 * gaps[1]:.2g}" in said(picture)
    assert f"without T² from {gaps[0]:.2g} to {gaps[1] / 10:.2g}" in said(picture)
    assert f"hard labels {np.sqrt(0.75):.2g} at any T" in said(picture)


def test_second_guesses_name_the_largest_shares_and_put_classes_that_share_together():
    shares = np.array([[0, 0.1, 0.9, 0], [0.2, 0, 0, 0.8], [0.95, 0.05, 0, 0], [np.nan] * 4])
    picture = plots.second_guesses(shares, NAMES)
    assert "plant to animal 95 %; from animal to plant 90 %; from food to time 80 %" in said(picture)
    drawn = [text.get_text() for text in picture.axes[0].get_yticklabels()]
    assert abs(drawn.index("animal") - drawn.index("plant")) == 1
    assert abs(drawn.index("food") - drawn.index("time")) == 1


def test_learning_curves_take_histories_and_pairs_and_smooth_only_the_long_ones():
    history = [{"step": i + 1, "loss": 2.0 if i < 50 else 1.0} for i in range(100)]
    picture = plots.learning_curves({"student": history, "control": [(1, 3.0), (100, 2.5)]})
    assert "student goes from 2 to 1, the mean of the last 5; control goes from 3 to 2.5" in said(picture)
    pale, mean, _ = picture.axes[0].lines
    assert len(pale.get_xdata()) == 100
    halfway = mean.get_xdata()[np.argmin(abs(mean.get_ydata() - 1.5))]
    assert halfway == pytest.approx(50.5, abs=1)  # the mean does not come after what it is a mean of


def test_scores_say_mean_and_interval_over_the_seeds_and_show_every_seed():
    pytest.importorskip("torch")
    picture = plots.scores_with_intervals(
        {"a": [0.60, 0.62, 0.64], "b": [0.7, 0.7, 0.7]}, reference=("teacher", 0.9)
    )
    # Student's t with 2 degrees of freedom: 4.303 · 2 points / √3 = 5.0 points
    assert "over 3 seeds, with 95 % intervals: a 62.0 % ± 5.0; b 70.0 % ± 0.0; teacher: 90.0 %" in said(
        picture
    )
    assert list(picture.axes[0].lines[0].get_xdata()) == [0.60, 0.62, 0.64]


@pytest.mark.parametrize("bar", [0.3, 0.65, 0.9])
def test_the_name_of_a_reference_lies_within_the_axes(bar):
    pytest.importorskip("torch")
    scores = {"a": [0.60, 0.62, 0.64], "b": [0.7, 0.7, 0.7]}
    picture = plots.scores_with_intervals(scores, reference=("teacher", bar))
    picture.canvas.draw()
    (name,) = [text for text in picture.axes[0].texts if "teacher" in text.get_text()]
    box, inside = name.get_window_extent(), picture.axes[0].get_window_extent()
    assert inside.x0 <= box.x0 and box.x1 <= inside.x1


def test_one_seed_is_said_to_be_one_and_gets_no_interval():
    pytest.importorskip("torch")
    assert "over one seed" in (text := said(plots.scores_with_intervals({"a": [0.6]})))
    assert "a 60.0 % (one seed)" in text


def test_the_comparison_says_what_the_student_saves_and_costs():
    sentence = said(plots.comparison(EVALUATIONS))
    assert "teacher (86.0 % accuracy)" in sentence
    assert "student has 4.0 times fewer parameters, needs 25 % of the time and reaches 77.4 %" in sentence


ABLATION = {
    "accuracy": {"full": [0.80, 0.82, 0.84], "without A": [0.79, 0.80, 0.81], "random": [0.70, 0.72, 0.74]},
    "masked words": {"full": [0.30, 0.30, 0.30], "without A": [0.31, 0.32, 0.33], "random": [0.2, 0.2, 0.2]},
}


def test_the_ablation_says_each_paired_difference_with_its_interval():
    pytest.importorskip("torch")
    from scipy import stats

    picture = plots.ablation(ABLATION)
    picture.savefig(BytesIO())
    # without A: −1, −2, −3 points; the interval is t · s / √n with 2 degrees of freedom
    half_width = stats.t.ppf(0.975, 2) * 1 / np.sqrt(3)
    text = said(picture)
    assert f"accuracy (full 82.0 %): without A −2.00 ± {half_width:.2f}, random −10.00 ± 0.00" in text
    assert "masked words (full 30.0 %): without A +2.00" in text and "over 3 seeds" in text
    names = [label.get_text() for label in picture.axes[0].get_yticklabels()]
    assert names == ["without A", "random"]
    assert sorted(picture.axes[0].lines[0].get_xdata()) == pytest.approx([-3, -2, -1])
    assert text.startswith("Difference from the full recipe in points")
    assert said(plots.ablation(ABLATION, base="the control")).startswith("Difference from the control in")


def test_an_ablation_over_other_seeds_than_the_full_recipe_s_is_refused():
    pytest.importorskip("torch")
    with pytest.raises(KDTutorError, match="same seeds on both sides"):
        plots.ablation({"accuracy": {"full": [0.8, 0.9], "without A": [0.8, 0.9, 0.7]}})


def found(difference, half_width):
    return SimpleNamespace(difference=difference, half_width=half_width)


def test_differences_say_which_intervals_leave_out_zero_and_fill_their_marks():
    panels = {
        "copied": {"few": {"alone": found(0.003, 0.002), "at equal time": found(-0.001, 0.002)}},
        "random": {"many": {"alone": found(-0.12, 0.03)}},
    }
    picture = plots.differences(panels)
    picture.savefig(BytesIO())
    text = said(picture)
    assert "copied, minus alone: 1 of 1: few +0.30 ± 0.20. copied, minus at equal time: none of 1." in text
    assert "random, minus alone: 1 of 1: many −12.00 ± 3.00." in text
    assert "random, minus at equal time" not in text
    copied, random = picture.axes
    assert [label.get_text() for label in copied.get_yticklabels()] == ["few", "many"]
    marks = [line for line in copied.lines if line.get_marker() in {"^", "D"} and len(line.get_xdata())]
    assert [line.get_xdata()[0] for line in marks] == pytest.approx([0.3, -0.1])
    assert [line.get_markerfacecolor() == "white" for line in marks] == [False, True]
    (mark,) = (line for line in random.lines if line.get_marker() == "^" and len(line.get_xdata()))
    assert round(mark.get_ydata()[0]) == 1, "the row that it shares"


def test_a_difference_without_an_interval_is_refused():
    with pytest.raises(KDTutorError, match="copied, few: its difference from alone has no interval"):
        plots.differences({"copied": {"few": {"alone": found(0.1, np.nan)}}})


def test_our_figures_stand_beside_the_paper_s():
    pytest.importorskip("torch")
    claims = {"score retained": ([0.96, 0.98, 1.0], 0.97), "share of the parameters": ([0.65], 0.6)}
    picture = plots.beside_paper(claims, ["{:.1%}"])
    picture.savefig(BytesIO())
    text = said(picture)
    assert "score retained: 98.0% ± 5.0%, paper 97.0%" in text
    assert "share of the parameters: 0.65, paper 0.60." in text
    assert [bar.get_height() for bar in picture.axes[0].patches] == pytest.approx([0.98, 0.97])


def test_size_accuracy_and_latency_are_compared_with_the_first_model():
    pytest.importorskip("torch")
    models = {"teacher": ([0.8, 0.82], 10.0, 8_000_000), "student, distilled": ([0.78, 0.78], 5.5, 5_200_000)}
    picture = plots.size_accuracy_latency(models)
    picture.savefig(BytesIO())
    text = said(picture)
    assert "Beside teacher (81.0 %, 10.0 ms, 8.0 M parameters)" in text
    assert "student, distilled reaches 78.0 % with 65 % of the parameters in 55 % of the time" in text
    areas = [
        float(marks.get_sizes()[0])
        for marks in picture.axes[0].collections
        if hasattr(marks, "get_sizes") and len(marks.get_sizes())
    ]
    assert areas[1] / areas[0] == pytest.approx(0.65)
    assert picture.axes[0].get_xscale() == "linear"
    # A model that is a hundred times faster would stand on the axis, and one a hundred times smaller not be seen.
    apart = {"teacher": ([0.8], 20.0, 8_000_000), "bag": ([0.7], 0.2, 80_000)}
    picture = plots.size_accuracy_latency(apart)
    low, high = picture.axes[0].get_xlim()
    assert picture.axes[0].get_xscale() == "log" and low < 0.2 < 20 < high
    assert (
        min(float(marks.get_sizes()[0]) for marks in picture.axes[0].collections if len(marks.get_offsets()))
        > 50
    )


def test_no_name_of_a_model_touches_a_mark_or_another_name_also_where_models_stand_close():
    pytest.importorskip("torch")
    crowd = {
        "teacher": ([0.88], 8.9, 15_600_000),
        "LSTM, labels alone": ([0.61], 0.53, 800_000),
        "LSTM": ([0.785, 0.79], 0.55, 800_000),
        "CNN": ([0.82], 0.24, 820_000),
        "GRU": ([0.80], 0.50, 790_000),
        "static": ([0.79], 0.09, 770_000),
    }
    for models in (crowd, dict(reversed(crowd.items())), {"a": ([0.5], 1.0, 9e6), "b": ([0.6], 1.0, 9e6)}):
        picture = plots.size_accuracy_latency(models)
        picture.savefig(BytesIO())
        [axes] = picture.axes
        dots = [
            (*axes.transData.transform(c.get_offsets()[0]), c.get_sizes()[0] ** 0.5 / 2 * picture.dpi / 72)
            for c in axes.collections
            if len(c.get_offsets()) and hasattr(c, "get_sizes")
        ]
        names = [text.get_window_extent() for text in axes.texts]
        assert len(dots) == len(names) == len(models)
        for i, name in enumerate(names):
            for x, y, radius in dots:
                dx, dy = max(name.x0 - x, x - name.x1, 0), max(name.y0 - y, y - name.y1, 0)
                assert (dx**2 + dy**2) ** 0.5 > radius + 2  # pixels
            assert not any(name.overlaps(other) for other in names[:i])
            inside = axes.get_window_extent()
            assert inside.x0 <= name.x0 and name.x1 <= inside.x1
            assert inside.y0 <= name.y0 and name.y1 <= inside.y1


def test_memory_is_said_by_its_total_and_its_largest_part_and_drawn_part_by_part():
    runs = {"whole": {"weights": 1e9, "logits": 4e9}, "in pieces": {"weights": 1e9, "other": 0.5e9}}
    assert (
        len(plots.memory({"a": {"student's weights": 1.0, "student's logits": 2.0}}).axes[0].containers) == 2
    )
    picture = plots.memory(runs)
    assert "whole 5.0 GB, of which logits 4.0; in pieces 1.5 GB, of which weights 1.0." in said(picture)
    widths = [[bar.get_width() for bar in bars] for bars in picture.axes[0].containers]
    assert widths == [[1, 1], [4, 0], [0, 0.5]]
    assert [text.get_text() for text in picture.legends[0].get_texts()] == ["weights", "logits", "other"]


def test_the_explorer_s_picture_marks_what_both_terms_pull_with_together():
    pulls = {"hard": [-0.5, 0.3, 0.1, 0.1], "soft": [0.2, -0.1, 0, -0.1]}
    probabilities = {"teacher": softmax(LOGITS), "student": softmax(-LOGITS)}
    picture = plots.temperature_and_alpha(probabilities, pulls, NAMES, shown=[0, 1])
    [diamonds] = [line for line in picture.axes[1].lines if line.get_label() == "their sum"]
    # The last: all classes that are not shown.
    assert list(diamonds.get_xdata()) == pytest.approx([-0.3, 0.2, 0.1])


def test_class_scores_are_the_f1_of_each_class_the_largest_first_with_its_commonest_mistake():
    labels = [0] * 5 + [1] * 3 + [2] * 2  # nothing is a time, and nothing is taken for one
    predicted = [0, 0, 0, 1, 2, 1, 0, 0, 2, 2]
    picture = plots.class_scores(predicted, labels, NAMES)
    axes = picture.axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["animal (5)", "food (3)", "plant (2)"]
    # animal: TP 3, FP 2, FN 2; food: TP 1, FP 1, FN 2; plant: TP 2, FP 1, FN 0
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0.6, 0.4, 0.8])
    beside = [text.get_text().replace("\u00a0", " ") for text in axes.texts]
    assert beside[:5] == ["60 %", "food 20 %", "40 %", "animal 67 %", "80 %"]
    assert "from plant 80 % to food 40 %, mean 60 %; most often, food is taken for animal (2 of 3)" in said(
        picture
    )


def test_the_line_of_macro_f1_runs_through_no_number():
    labels = [0] * 100 + [1] * 100 + [2] * 100  # F1 of 96, 74 and 83 %
    predicted = [0] * 95 + [1] * 5 + [1] * 62 + [2] * 38 + [2] * 98 + [0] * 2
    axes = plots.class_scores(predicted, labels, NAMES).axes[0]
    axes.figure.canvas.draw()
    at = axes.transData.transform((axes.lines[0].get_xdata()[0], 0))[0]
    for bar, number in zip(axes.patches, axes.texts[::2], strict=False):
        extent = number.get_window_extent()
        on_the_bar = bar.get_window_extent().x1 > extent.x1  # and the bar hides the line
        assert on_the_bar or not extent.x0 < at < extent.x1, number.get_text()


def test_class_scores_without_a_mistake_name_none():
    assert said(plots.class_scores([0, 1], [0, 1], NAMES)).endswith("mean 100 %.")


def test_class_scores_name_no_mistake_of_a_class_that_has_no_text():
    picture = plots.class_scores([1, 1], [0, 1], NAMES)
    assert said(picture).endswith("most often, animal is taken for food (1 of 1).")
    picture.savefig(BytesIO())


def test_the_transformer_s_diagram_holds_the_example_and_says_what_reads_what():
    picture = plots.encoder_decoder("three hundred", "<s> 3", "0")
    drawn = [text.get_text() for text in picture.axes[0].texts]
    assert {"three hundred", "<s> 3", "0", "encoder layer, N times", "decoder layer, N times"} < set(drawn)
    assert drawn.count("add & norm") == 5  # two sublayers in an encoder layer, three in a decoder layer
    assert "The encoder reads “three hundred”" in said(picture)
    assert "cross-attention, whose keys and values come from the memory, the encoder's output" in said(
        picture
    )
    assert {"Q", "K, V", "memory"} < set(drawn)


def test_the_picture_of_distillation_has_two_models_two_losses_and_one_that_learns():
    picture = plots.distillation("a kind of bird", "animal")
    drawn = [text.get_text() for text in picture.axes[0].texts]
    assert {"teacher", "student", "soft loss\nT² · KL", "hard loss\ncross-entropy", "label: animal"} <= set(
        drawn
    )
    assert drawn.count("softmax(z / T)") == 2  # both models are softened
    assert "“a kind of bird”" in said(picture) and "Gradients flow back to the student only" in said(picture)


def test_heads_are_columns_and_their_shapes_stand_beside_them():
    picture = plots.split_into_heads(["[CLS]", "a", "bird", "[SEP]"], width=12, heads=3)
    drawn = [text.get_text() for text in picture.axes[0].texts]
    assert drawn.count("4 × 12, in 3 heads") == 3  # Q, K and V
    assert {"4 × 4", "softmax(Q₀ K₀ᵀ / √4)", "[CLS]", "bird"} <= set(drawn)
    assert "cut by columns into 3 heads of 4" in said(picture)


def test_masking_asks_where_it_has_chosen_and_nowhere_else():
    picture = plots.masking(["[CLS]", "a", "bird"], ["[CLS]", "[MASK]", "bird"], [None, "a", "bird"])
    drawn = [text.get_text() for text in picture.axes[0].texts]
    assert (drawn.count("[CLS]"), drawn.count("a"), drawn.count("bird")) == (2, 2, 3)
    assert "asks at 2 of them only, for a (it reads [MASK]), bird (it reads bird)" in said(picture)


def test_the_classifier_reads_the_first_token_and_every_token_has_three_embeddings():
    picture = plots.read_from_cls(["[CLS]", "bird", "[SEP]"], width=8, classes=5)
    drawn = [text.get_text() for text in picture.axes[0].texts]
    assert {"place 0", "place 2", "pooler", "classifier", "5 logits"} <= set(drawn)
    assert drawn.count("text A") == 3 and drawn.count("+") == 6
    assert "reads that of [CLS] alone" in said(picture)


def test_positions_say_whether_dot_products_depend_on_the_distance_alone():
    angles = np.arange(10)[:, None] / np.array([1.0, 5.0])
    sinusoids = np.stack([np.sin(angles), np.cos(angles)], -1).reshape(10, 4)
    expected = [np.cos(distance * np.array([1, 0.2])).sum() for distance in (0, 1, 6)]
    text = said(plots.positions(sinusoids, reach=6))
    assert (
        "depends on the distance alone: 2.0 at distance 0, {1:.1f} at 1, {2:.1f} at 6".format(*expected)
        in text
    )
    assert "Encoding of 10 positions in 4 columns" in text
    assert "depends on more than the distance" in said(plots.positions(np.eye(5)[:, [0, 1, 1]]))


def test_teacher_student_and_the_terms_of_the_loss_look_the_same_in_every_figure():
    looks = plots.looks_of(["control", "soft targets, T = 1", "Student, distilled", "teacher", "hard labels"])
    assert (looks["teacher"], looks["Student, distilled"]) == (plots.TEACHER, plots.STUDENT)
    assert looks["hard labels"] == plots.looks_of(["hard"])["hard"]
    assert looks["soft targets, T = 1"] == plots.looks_of(["a", "soft"])["soft"]
    assert len(set(looks.values())) == 5


def test_a_students_look_says_what_it_learned_from_in_whatever_order_it_stands():
    names = ["hard student", "smoothed student", "distilled student", "teacher"]
    looks = plots.looks_of(names)
    assert looks == plots.looks_of(names[::-1]) and len(set(looks.values())) == 4
    assert looks["distilled student"] == plots.STUDENT
    terms = plots.looks_of(["hard labels", "label smoothing"])
    assert (looks["hard student"], looks["smoothed student"]) == tuple(terms.values())
    for pair in (["student", "distilled again"], ["distilled again", "student"]):
        assert (
            len(set(plots.looks_of(pair).values())) == 2 and plots.looks_of(pair)["student"] == plots.STUDENT
        )


def test_two_of_a_kind_are_told_apart():
    assert (
        len(set(plots.looks_of(["soft targets, T = 1", "soft targets, T = 2", "hard labels"]).values())) == 3
    )


def test_nobody_else_looks_like_teacher_and_student():
    looks = [plots.TEACHER, plots.STUDENT, *plots.OTHERS]
    for parts in zip(*looks, strict=True):  # colours, markers, dashes, hatchings: each tells them all apart
        assert len(set(parts)) == len(looks)


def test_the_reader_s_own_settings_neither_change_the_figures_nor_are_changed():
    import matplotlib as mpl

    with mpl.rc_context({"font.size": 30, "text.color": "red"}):
        picture = plots.distributions(softmax(LOGITS), None, NAMES, title="any text")
        assert (
            picture.axes[0].title.get_color() == "#1a1a1a"
            or picture.axes[0]._left_title.get_color() == "#1a1a1a"
        )
        assert mpl.rcParams["font.size"] == 30


def test_in_a_notebook_the_sentence_is_the_alt_text_and_stands_below(monkeypatch):
    display = pytest.importorskip("IPython.display")
    shown = []
    monkeypatch.setattr(display, "display", lambda data, **more: shown.append((data, more)))
    picture = plots.comparison(EVALUATIONS)
    picture._ipython_display_()
    (data, more), (below, _) = shown
    assert data["image/png"].startswith(b"\x89PNG")
    assert more["metadata"]["image/png"]["alt"] == picture.alt
    assert below["text/plain"].split() == picture.alt.split()
    assert f">{html.escape(picture.alt)}</p>" in below["text/html"] and "<p" not in below["text/plain"]


def test_the_same_figure_is_the_same_bytes():
    assert plots.comparison(EVALUATIONS).png() == plots.comparison(EVALUATIONS).png()


TOKENS = ("[CLS]", "a", "bird", "[SEP]")


def test_attention_maps_say_where_most_of_it_goes_and_name_the_largest_weight():
    towards_bird = np.full((4, 4), 0.1) + 0.6 * (np.arange(4) == 2)
    towards_bird[1] = [0, 0, 0.05, 0.95]
    picture = plots.attention_maps({"head 3": towards_bird, "head 4": np.eye(4, k=-1)}, TOKENS)
    assert "head 3: most of it goes to bird (54 % on average)" in said(picture)
    assert "the largest single weight is 95 %, from a to [SEP]" in said(picture)
    assert "head 4: from each token, 75 % of it goes to the token before" in said(picture)
    assert [text.get_text() for text in picture.axes[0].get_yticklabels()] == list(TOKENS)
    assert "10" in [text.get_text() for text in picture.axes[0].texts]


def test_attention_maps_may_have_other_keys_than_queries_and_refuse_another_shape():
    picture = plots.attention_maps({"cross": np.full((4, 2), 0.5)}, TOKENS, ["ein", "Vogel"])
    assert "4 queries over 2 keys" in said(picture)
    with pytest.raises(
        KDTutorError, match=r"cross has the shape \(4, 2\), but there are 4 queries and 4 keys"
    ):
        plots.attention_maps({"cross": np.full((4, 2), 0.5)}, TOKENS)


def test_masks_count_and_tick_what_they_allow():
    picture = plots.masks({"causal": np.tri(4, dtype=bool), "all": np.ones((4, 4), bool)}, TOKENS)
    assert "Of 16 pairs are allowed: causal 10, all 16" in said(picture)
    assert [len(axes.texts) for axes in picture.axes] == [10, 16]


def test_the_overview_has_a_map_for_every_head_and_counts_the_favourites():
    torch = pytest.importorskip("torch")
    layer = torch.zeros(1, 3, 4, 4)  # three heads: two look at the bird only, one at [SEP]
    layer[:, :2, :, 2] = layer[:, 2, :, 3] = 1
    picture = plots.attention_overview([layer, layer], TOKENS)
    assert len(picture.axes) == 6
    assert "looked at most is bird in 4, [SEP] in 2 of the 6 maps" in said(picture)


def test_head_shares_say_the_mean_and_the_extreme_head_and_print_every_number():
    shares = np.array([[0.1, 0.2, 0.9], [0.1, 0.2, 0.3]])
    picture = plots.head_shares({"back": shares, "on": shares / 2, "self": shares / 3})
    assert "back: 30 % over all heads, most in layer 0, head 2 (90 %)" in said(picture)
    assert [text.get_text() for text in picture.axes[0].texts] == ["10", "20", "90", "10", "20", "30"]
    assert [axes.get_visible() for axes in picture.axes] == [True, True, True, False]


def test_saturation_says_how_the_largest_weight_and_its_gradient_end():
    largest, gradient = {"q·k": [0.2, 0.96]}, {"q·k": [0.05, 0.004]}
    assert (
        "from 1 to 1024: q·k, the largest weight goes from 20 % to 96 % and the gradient from 0.05 to 0.004"
        in (said(plots.saturation([1, 1024], largest, gradient)))
    )


def test_patience_draws_the_mean_of_each_length_and_tells_all_of_them():
    curves = {
        "hard labels": [(2, [0.5, 0.6]), (10, [0.6, 0.62])],
        "soft targets, T = 2": [(2, [0.4, 0.5]), (10, [0.66, 0.7])],
    }
    picture = plots.patience(curves, references={"TF-IDF": 0.73})
    assert "hard labels 55.0 % at 2, 61.0 % at 10; soft targets, T = 2 45.0 % at 2, 68.0 % at 10" in said(
        picture
    )
    assert "the line TF-IDF is at 73.0 %" in said(picture)
    (axes,) = picture.axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ["2", "10"]
    assert axes.lines[0].get_ydata() == pytest.approx([0.55, 0.61])


def test_similarity_maps_say_which_layers_are_most_alike_and_frame_the_pairs():
    grid = np.array([[0.9, 0.4, 0.1], [0.2, 0.3, 0.8]])
    picture = plots.similarity_maps({"before": grid, "after": grid[:, ::-1]}, {"after": {1: 0}})
    assert "before: 0 resembles 0 most (0.90), 1 resembles 2 most (0.80); after: 0 resembles 2 most" in said(
        picture
    )
    assert said(picture).endswith("and of the framed pairs 1 and 0 0.80.")
    frames = [[patch for patch in axes.patches if not patch.get_fill()] for axes in picture.axes[:2]]
    assert [len(found) for found in frames] == [0, 1]
    assert [axes.get_title(loc="left") for axes in picture.axes[:2]] == ["before", "after"]


@pytest.mark.parametrize(
    ("grid", "pairs"), [(np.zeros(3), {}), (np.zeros((2, 2)), {2: 0}), (np.zeros((2, 2)), {0: -1})]
)
def test_similarity_maps_refuse_what_is_no_grid_and_pairs_outside_it(grid, pairs):
    with pytest.raises(KDTutorError):
        plots.similarity_maps({"a": grid}, {"a": pairs})


def test_curves_say_where_each_begins_and_ends():
    picture = plots.curves({"teacher": ([0, 0.5], [0.8, 0.7]), "hard student": ([0, 0.5], [0.7, 0.55])})
    assert "teacher from 80.0" in picture.alt and "hard student from 70.0" in picture.alt
    [axes] = picture.axes
    assert [line.get_label() for line in axes.lines] == ["teacher", "hard student"]
    assert axes.lines[1].get_ydata().tolist() == [0.7, 0.55]


def test_the_grid_of_each_row_is_finer_where_one_weight_is_large():
    weights = np.random.default_rng(0).normal(size=(8, 40))
    weights[0, 0] = 30
    picture = plots.rounding_grid(weights, row=3, bits=4)
    found = [int(share) for share in re.findall(r"(\d+) %", said(picture))]
    errors = []
    for size in (np.full(8, 30.0), np.abs(weights).max(1)):
        scale = size[:, None] / 7
        off = (weights / scale).round() * scale - weights
        errors.append(np.median(np.sqrt((off**2).mean(1) / (weights**2).mean(1))))
    assert found == [round(100 * error) for error in errors]
    # One scale for all: this row has nothing but 0 within its reach.
    left, _ = picture.axes
    coarse, fine = (len(lines.get_segments()) for lines in left.collections[::2])
    assert (coarse, fine) == (1, 15)


def test_score_by_bytes_says_size_and_score_of_each():
    models = {"teacher": (62e6, 0.85, 500), "student, int8": (10.4e6, 0.8, 500)}
    picture = plots.score_by_bytes(models)
    assert said(picture) == "Accuracy and size: teacher 62.0 MB and 85.0 %; student, int8 10.4 MB and 80.0 %."
    assert picture.axes[0].get_xscale() == "log"


def test_no_name_in_score_by_bytes_lies_on_an_interval_or_another_name():
    sizes, scores = (41.1e6, 10.4e6, 9.3e6, 15.9e6, 62.4e6), (0.805, 0.805, 0.79, 0.84, 0.85)
    names = ("student", "student, int8", "pruned, int8", "teacher, int8", "teacher")
    picture = plots.score_by_bytes(
        {name: (size, score, 400) for name, size, score in zip(names, sizes, scores, strict=True)}
    )
    picture.canvas.draw()
    [axes] = picture.axes
    labels = [text.get_window_extent() for text in axes.texts]
    segments = [lines.get_segments()[0] for lines in axes.collections if hasattr(lines, "get_segments")]
    bars = [Bbox(axes.transData.transform(segment)) for segment in segments]
    assert len(labels) == len(bars) == 5
    for i, label in enumerate(labels):
        assert not any(label.overlaps(other) for other in (*bars, *labels[:i]))
        assert axes.get_window_extent().y0 < label.y0 and label.y1 < axes.get_window_extent().y1
    # 82.5 % would be written as 82 %.
    assert all(round(100 * tick, 6) % 1 == 0 for tick in axes.get_yticks())
