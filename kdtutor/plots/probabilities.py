"""Pictures of distributions over classes, and of what temperature and objective do to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import FuncFormatter, PercentFormatter

from kdtutor.errors import KDTutorError
from kdtutor.plots.style import (
    INK,
    OTHERS,
    STUDENT,
    TEACHER,
    Picture,
    as_array,
    as_vector,
    canvas,
    describe,
    draw_curve,
    draw_grouped_bars,
    in_percent,
    looks_of,
    percent,
    ranking,
    set_title,
    signed,
    softmax,
    styled,
)


@styled
def distributions(
    teacher_probs, student_probs, class_names: Sequence[str],
    top: int = 8, title: str = "", label: str | None = None, model: str = "teacher",
) -> Picture:  # fmt: skip
    """Draw teacher's and student's probabilities over the classes: both (C,); the student's may be None.

    The `top` classes that either of them finds likeliest are drawn, from 0 to 100 % in every picture, so that two
    pictures can be compared. title: the text that was classified, say. label: the true class, marked with a star.
    model: the first one's name, where it is no teacher. Raises KDTutorError if what is given are not probabilities.
    """
    rows = {model: (as_vector(teacher_probs), TEACHER)}
    if student_probs is not None:
        rows["student"] = (as_vector(student_probs), STUDENT)
    for name, (p, _) in rows.items():
        if len(p) != len(class_names) or p.min() < 0 or abs(p.sum() - 1) > 0.01:
            what = f"{len(p)} numbers from {p.min():.3g} with the sum {p.sum():.3g}"
            raise KDTutorError(f"the {name}'s are not probabilities of {len(class_names)} classes: {what}")
    likeliest = np.max([p for p, _ in rows.values()], axis=0)
    shown = np.argsort(-likeliest, kind="stable")[:top]
    picture, axes = canvas(7.2, 1.3 + 0.24 * len(shown) * len(rows))
    names = [f"★ {class_names[i]}" if class_names[i] == label else class_names[i] for i in shown]
    drawn = {name: (p[shown], look) for name, (p, look) in rows.items()}
    draw_grouped_bars(axes, drawn, names, lambda v: percent(v, 1))
    axes.set(xlim=(0, 1.12), xticks=np.linspace(0, 1, 6), xlabel="probability")
    in_percent(axes.xaxis)
    set_title(axes, title)
    said = [f"the {name}'s are {ranking(p, class_names)}" for name, (p, _) in rows.items()]
    truth = f"; the true class is {label}" if label else ""
    return describe(picture, f"Probabilities of the likeliest classes: {'; '.join(said)}{truth}.")


@styled
def temperature_curves(
    logits, class_names: Sequence[str], temperatures: Sequence[float] | None = None, top: int = 3
) -> Picture:
    """Draw how softmax(logits / T) changes with T, logits (C,): the `top` classes, all others together, the entropy."""
    z = as_vector(logits)
    t = np.geomspace(0.25, 20, 80) if temperatures is None else np.asarray(temperatures, float)
    p = softmax(z / t[:, None])  # (len(t), C)
    entropy = -(p * np.log(np.maximum(p, 1e-300))).sum(1)
    picture, (left, right) = canvas(8.4, 3.8, columns=2)
    order = np.argsort(-z, kind="stable")
    for i, c in enumerate(order[:top]):
        draw_curve(left, t, p[:, c], (TEACHER, *OTHERS)[i % 6], class_names[c])
    if rest := order[top:].tolist():
        draw_curve(left, t, p[:, rest].sum(1), OTHERS[-1], f"{len(rest)} others together")
    draw_curve(right, t, entropy, TEACHER, None)
    right.axhline(np.log(len(z)), color=INK, linestyle=":")
    right.annotate(f"uniform: log {len(z)}", (t[0], np.log(len(z))), (0, -15), textcoords="offset points")
    left.set(ylabel="probability", ylim=(0, 1.02))
    in_percent(left.yaxis)
    right.set(ylabel="entropy in nats", ylim=(0, 1.08 * np.log(len(z))))
    for axes in (left, right):
        axes.set(xscale="log", xlabel="temperature T")
        ticks = [tick for tick in (0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 50, 100) if t[0] <= tick <= t[-1]]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.grid()
    picture.legend(loc="outside upper left", ncols=top + 1)
    favourite = int(z.argmax())
    return describe(
        picture,
        f"As T rises from {t[0]:g} to {t[-1]:g}, the probability of {class_names[favourite]} goes from "
        f"{percent(p[0, favourite])} to {percent(p[-1, favourite])}, and the entropy from {entropy[0]:.2f} "
        f"to {entropy[-1]:.2f} nats, of at most {np.log(len(z)):.2f}.",
    )


@styled
def temperature_and_alpha(
    probabilities: Mapping[str, Sequence[float]], pulls: Mapping[str, Sequence[float]], class_names: Sequence[str],
    shown: Sequence[int], title: str = "", setting: str = "", label: int | None = None,
) -> Picture:  # fmt: skip
    """Draw the temperature explorer at one setting: distributions, and what each term of the loss pulls with.

    probabilities: "teacher" and "student", (C,) each. pulls: gradients of the weighted terms "hard" and "soft" with
    respect to the student's logits, (C,) each; a diamond marks their sum. shown: the classes to draw, in order; the
    others are added up. label: a class, or None. The caller says in `alt` what is seen.
    """
    looks = {"teacher": TEACHER, "student": STUDENT, "hard": OTHERS[1], "soft": OTHERS[0]}
    names = [f"★ {class_names[c]}" if c == label else class_names[c] for c in shown]
    others = sorted(set(range(len(class_names))) - set(shown))
    names += [f"{len(others)} others"] if others else []
    picture, (left, right) = canvas(11.6, 1.6 + 0.46 * len(names), columns=2, sharey=True)
    for axes, rows, text in ((left, probabilities, lambda v: percent(v, 1)), (right, pulls, signed)):
        values = {name: as_vector(v) for name, v in rows.items()}
        drawn = {n: np.append(v[shown], [v[others].sum()] if others else []) for n, v in values.items()}
        draw_grouped_bars(axes, {n: (v, looks[n]) for n, v in drawn.items()}, names, text)
        axes.margins(x=0.16)
    left.invert_yaxis()  # shared, so both calls have turned it: once is enough
    total = sum(as_vector(v) for v in pulls.values())
    total = np.append(total[shown], [total[others].sum()] if others else [])
    right.plot(total, range(len(total)), "D", color="white", markeredgecolor=INK, label="their sum")
    right.legend(loc="best")
    left.set(xlabel="probability", xlim=(0, None))
    in_percent(left.xaxis)
    right.axvline(0, color=INK, linewidth=1)
    right.set_xlabel(
        "gradient with respect to the student's logit\n← the step raises it      the step lowers it →"
    )
    right.tick_params(labelleft=False)
    set_title(left, title)
    right.set_title(setting, loc="left")
    return picture


@styled
def gradients(
    vectors: Mapping[str, Sequence[float]], class_names: Sequence[str], top: int = 6, title: str = ""
) -> Picture:
    """Draw how several objectives pull on the student's logits: for each one its gradient (C,), of one example.

    The `top` classes with the largest gradients are drawn. Gradient descent raises a logit whose gradient is
    negative.
    """
    looks = looks_of(vectors)
    rows = {name: (as_vector(v), looks[name]) for name, v in vectors.items()}
    strongest = np.max([np.abs(v) / (np.abs(v).max() or 1) for v, _ in rows.values()], axis=0)
    shown = np.argsort(-strongest, kind="stable")[:top]
    picture, axes = canvas(7.6, 1.5 + 0.24 * len(shown) * len(rows))
    drawn = {name: (v[shown], look) for name, (v, look) in rows.items()}
    draw_grouped_bars(axes, drawn, [class_names[i] for i in shown], signed)
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_xlabel(
        "gradient with respect to the student's logit\n← the step raises it      the step lowers it →"
    )
    set_title(axes, title)
    axes.margins(x=0.14)
    said = [
        f"{name} raises {class_names[v.argmin()]} most ({signed(v.min())}) and lowers "
        f"{class_names[v.argmax()]} most ({signed(v.max())})"
        for name, (v, _) in rows.items()
    ]
    return describe(picture, f"Gradients over the classes: {'; '.join(said)}.")


@styled
def class_scores(predicted: Sequence[int], labels: Sequence[int], class_names: Sequence[str]) -> Picture:
    """Draw each class's F1 = 2·TP / (2·TP + FP + FN), the largest class first, and what its texts are mistaken for.

    predicted, labels: class indices (N,). On a bar: F1; beside it, how many of its texts got the commonest wrong
    answer. Classes that are neither predicted nor true are left out; the line is the mean over the others, macro-F1.
    """
    counts = np.zeros((len(class_names),) * 2, int)  # true class × predicted class
    np.add.at(counts, (as_vector(labels).astype(int), as_vector(predicted).astype(int)), 1)
    right, texts = counts.diagonal(), counts.sum(1)
    occurrences = texts + counts.sum(0)  # 2·TP + FP + FN
    shown = [i for i in np.argsort(-texts, kind="stable") if occurrences[i]]
    f1 = 2 * right / np.maximum(occurrences, 1)
    wrong = counts - np.diag(right)
    picture, axes = canvas(8.4, 1.1 + 0.27 * len(shown))
    axes.barh(range(len(shown)), f1[shown], 0.72, color=TEACHER.colour, edgecolor=INK, linewidth=0.8)
    mean = f1[shown].mean()
    axes.axvline(mean, color=INK, linestyle=":", zorder=0)
    for row, i in enumerate(shown):
        # On the bar, which hides the line, wherever it has room.
        dx, side, colour = (-4, "right", "white") if f1[i] > 0.15 else (4, "left", INK)
        axes.annotate(
            percent(f1[i]), (f1[i], row), (dx, 0), textcoords="offset points", ha=side, va="center",
            fontsize=10, color=colour,
        )  # fmt: skip
        if wrong[i].any():
            other = wrong[i].argmax()
            share = percent(wrong[i, other] / texts[i])
            axes.annotate(f"{class_names[other]} {share}", (1.12, row), va="center", fontsize=10)
    heads = {mean: (f"macro-F1 {percent(mean)}", "center"), 1.12: ("taken for", "left")}
    for x, (text, side) in heads.items():
        axes.annotate(text, (x, -1.1), ha=side, va="center", annotation_clip=False)
    axes.set(
        yticks=range(len(shown)), yticklabels=[f"{class_names[i]} ({texts[i]:,})" for i in shown],
        ylim=(len(shown) - 0.4, -0.7), xlim=(0, 1.5), xlabel="F1", xticks=np.linspace(0, 1, 6),
    )  # fmt: skip
    in_percent(axes.xaxis)
    axes.tick_params(axis="y", length=0)
    best, worst = shown[int(f1[shown].argmax())], shown[int(f1[shown].argmin())]
    i, j = np.unravel_index(wrong.argmax(), wrong.shape)
    said = f"; most often, {class_names[i]} is taken for {class_names[j]} ({wrong[i, j]} of {texts[i]})"
    return describe(
        picture,
        f"F1 of {len(shown)} classes, from {class_names[best]} {percent(f1[best])} to {class_names[worst]} "
        f"{percent(f1[worst])}, mean {percent(mean)}{said if wrong.any() else ''}.",
    )


@styled
def gradient_sizes(
    student_logits, teacher_logits, labels, temperatures: Sequence[float] | None = None
) -> Picture:
    """Draw how hard each loss pulls at the student's logits as T changes: mean length of a text's gradient (C,).

    Both logits: (N, C), labels: (N,). Soft targets with T² have the gradient T (p_S − p_T), KL alone has
    (p_S − p_T) / T, hard labels have p_S − onehot, in which there is no T.
    """
    z_s, z_t, y = as_array(student_logits), as_array(teacher_logits), as_array(labels).astype(int)
    t = np.geomspace(1, 100, 60) if temperatures is None else np.asarray(temperatures, float)
    gap = np.array([np.linalg.norm(softmax(z_s / T) - softmax(z_t / T), axis=1).mean() for T in t])
    hard = np.linalg.norm(softmax(z_s) - np.eye(z_s.shape[1])[y], axis=1).mean()
    curves = {
        "soft targets, with T²": (t * gap, OTHERS[0]),
        "without T²": (gap / t, OTHERS[2]),
        "hard labels": (np.full_like(t, hard), OTHERS[1]),
    }
    picture, axes = canvas(7.2, 4.2)
    for name, (values, look) in curves.items():
        draw_curve(axes, t, values, look, name)
    axes.set(xscale="log", yscale="log", xlabel="temperature T", ylabel="mean length of the gradient")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.grid()
    axes.legend()
    said = [f"{name} from {v[0]:.2g} to {v[-1]:.2g}" for name, (v, _) in list(curves.items())[:2]]
    return describe(
        picture,
        f"Mean length of the gradient as T rises from {t[0]:g} to {t[-1]:g}: {'; '.join(said)}; "
        f"hard labels {hard:.2g} at any T.",
    )


@styled
def reliability(models: Mapping[str, object], labels: Sequence[int], bins: int = 15) -> Picture:
    """Draw how often models are right when they say so: for each name logits (N, C); labels (N,).

    The texts are sorted by the confidence in the first guess into equal bins, as for the expected calibration error
    (Guo et al. 2017), which the sentence states. A mark's area is the bin's share of the texts; below the diagonal a
    model is too sure of itself.
    """
    y, looks = as_array(labels), looks_of(models)
    picture, all_axes = canvas(4.4 * len(models), 4.6, columns=len(models), squeeze=False, sharey=True)
    said = []
    for axes, (name, logits) in zip(all_axes[0], models.items(), strict=True):
        p = softmax(as_array(logits))
        sure, right = p.max(1), p.argmax(1) == y
        bin_of = np.clip(np.ceil(sure * bins).astype(int), 1, bins)
        filled = [bin_of == b for b in range(1, bins + 1) if (bin_of == b).any()]
        share, confidence, accuracy = np.array(
            [(b.mean(), sure[b].mean(), right[b].mean()) for b in filled]
        ).T
        axes.plot([0, 1], [0, 1], color=INK, linestyle=":", label="as sure as right")
        axes.vlines(confidence, accuracy, confidence, color=INK, linewidth=1)
        look = {"color": looks[name].colour, "marker": looks[name].marker, "edgecolor": INK}
        axes.scatter(confidence, accuracy, 25 + 500 * share, zorder=2, **look)
        axes.set(xlim=(0, 1.04), ylim=(0, 1.04), xlabel="confidence in the first guess")
        in_percent(axes.xaxis)
        axes.grid()
        set_title(axes, name)
        error = (share * abs(accuracy - confidence)).sum()
        said.append(
            f"{name}: {percent(confidence @ share, 1)} sure and {percent(right.mean(), 1)} right on average, "
            f"expected calibration error {percent(error, 1)}"
        )
    all_axes[0, 0].set_ylabel("right")
    in_percent(all_axes[0, 0].yaxis)
    all_axes[0, 0].legend(loc="upper left")
    return describe(
        picture, f"Confidence and accuracy of {len(y):,} texts in {bins} bins. {'; '.join(said)}."
    )


@styled
def second_guesses(shares, class_names: Sequence[str]) -> Picture:
    """Draw where a model's probability goes beside its first guess: shares (C, C), a row for each class.

    shares[i, j] is the part that class j gets of what texts of class i leave for the other classes: rows sum
    to 1, the diagonal is 0. Classes are reordered so that those which share much stand together.
    """
    shares = as_array(shares)
    order = _seriation(shares)
    names = [class_names[i] for i in order]
    shown = shares[np.ix_(order, order)]
    picture, axes = canvas(9.6, 8.2)
    hidden = np.ma.masked_where(np.eye(len(shown), dtype=bool), shown)
    image = axes.imshow(hidden, cmap="Blues", vmin=0)
    axes.set_facecolor("#e8e8e8")  # the diagonal
    for (row, column), share in np.ndenumerate(shown):
        if share >= 0.1:
            colour = "white" if share > 0.6 * np.nanmax(shown) else INK
            axes.annotate(
                f"{100 * share:.0f}", (column, row), ha="center", va="center", color=colour, fontsize=9
            )
    axes.set(xlabel="gets this part of the rest", ylabel="definitions of this class, classified right")
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    percent = PercentFormatter(1, decimals=0, symbol=" %")
    picture.colorbar(image, ax=axes, shrink=0.6, format=percent, label="share of the rest")
    largest = np.argsort(-np.nan_to_num(shares), axis=None, kind="stable")[:4]
    said = [
        f"from {class_names[i]} to {class_names[j]} {percent(shares[i, j])}"
        for i, j in zip(*np.unravel_index(largest, shares.shape), strict=True)
    ]
    return describe(
        picture,
        "Which other classes get what the first guess leaves over; the largest shares are "
        + "; ".join(said)
        + ".",
    )


def _seriation(shares: np.ndarray) -> np.ndarray:
    """Order the classes so that neighbours share much: along the Fiedler vector of the graph of shares."""
    weights = np.nan_to_num(shares)
    weights = weights + weights.T
    np.fill_diagonal(weights, 0)
    scale = 1 / np.sqrt(np.maximum(weights.sum(1), 1e-12))
    _, vectors = np.linalg.eigh(np.eye(len(weights)) - scale[:, None] * weights * scale)
    place = vectors[:, 1] * scale
    return np.argsort(place * (1 if place[0] <= 0 else -1), kind="stable")  # an eigenvector has no sign
