"""The figures: what their sentences say comes from the data, and reaches the reader with the picture."""

from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("matplotlib")
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


def test_distributions_draw_only_the_classes_asked_for_and_star_the_true_one():
    picture = plots.distributions(softmax(LOGITS), None, NAMES, top=2, label="food")
    assert [text.get_text() for text in picture.axes[0].get_yticklabels()] == ["animal", "★ food"]
    assert "student" not in said(picture)


def test_logits_are_refused_where_probabilities_are_due():
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


def test_temperature_curves_say_how_probability_and_entropy_change():
    picture = plots.temperature_curves(LOGITS, NAMES, temperatures=[1, 2, 1e6])
    p = softmax(LOGITS)
    assert f"animal goes from {100 * p[0]:.0f} % to 25 %" in said(picture)
    assert f"entropy from {-(p * np.log(p)).sum():.2f} to 1.39 nats, of at most 1.39" in said(picture)


def test_gradients_say_what_each_objective_raises_and_lowers():
    picture = plots.gradients({"KL": [-0.5, 0.3, 0.2, 0], "MSE": [0.1, -0.2, 0, 0.1]}, NAMES)
    assert "KL raises animal most (−0.50) and lowers food most (+0.30)" in said(picture)
    assert "MSE raises food most (−0.20)" in said(picture)


def test_learning_curves_take_histories_and_pairs_and_smooth_only_the_long_ones():
    history = [{"step": i + 1, "loss": 2.0 if i < 50 else 1.0} for i in range(100)]
    picture = plots.learning_curves({"student": history, "control": [(1, 3.0), (100, 2.5)]})
    assert "student goes from 2 to 1; control goes from 3 to 2.5" in said(picture)
    assert len(picture.axes[0].lines) == 3  # the history is there both pale and smoothed


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


def test_one_seed_is_said_to_be_one_and_gets_no_interval():
    pytest.importorskip("torch")
    assert "over one seed" in (text := said(plots.scores_with_intervals({"a": [0.6]})))
    assert "a 60.0 % (one seed)" in text


def test_the_comparison_says_what_the_student_saves_and_costs():
    sentence = said(plots.comparison(EVALUATIONS))
    assert "teacher (86.0 % accuracy)" in sentence
    assert "student has 4.0 times fewer parameters, needs 25 % of the time and reaches 77.4 %" in sentence


def test_size_and_accuracy_are_said_for_every_model():
    assert "teacher 8.0 M, 86.0 %; student 2.0 M, 77.4 %" in said(plots.size_accuracy(EVALUATIONS))


def test_teacher_and_student_look_the_same_in_every_place_and_nobody_else_looks_like_them():
    assert plots._look("teacher", 3) == plots.TEACHER
    assert plots._look("Student, distilled", 0) == plots.STUDENT
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


def test_in_a_notebook_the_sentence_is_the_alt_text_and_is_printed_below(monkeypatch, capsys):
    display = pytest.importorskip("IPython.display")
    shown = []
    monkeypatch.setattr(display, "display", lambda data, **more: shown.append((data, more)))
    picture = plots.size_accuracy(EVALUATIONS)
    picture._ipython_display_()
    (data, more), printed = shown[0], capsys.readouterr().out
    assert data["image/png"].startswith(b"\x89PNG")
    assert more["metadata"]["image/png"]["alt"] == picture.alt
    assert printed.split() == picture.alt.split()


def test_the_same_figure_is_the_same_bytes():
    files = [BytesIO(), BytesIO()]
    for file in files:
        plots.size_accuracy(EVALUATIONS).savefig(file, format="png", metadata={"Software": None})
    assert files[0].getvalue() == files[1].getvalue()
