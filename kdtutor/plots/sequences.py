"""Figures about models that write: which bumps a student covers, errors along the output, distance at each token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kdtutor.plots.style import (
    INK,
    TEACHER,
    Picture,
    as_vector,
    canvas,
    describe,
    draw_curve,
    looks_of,
    percent,
    set_title,
    styled,
)


@styled
def covered_modes(teacher, students: Mapping[str, object], places=None, xlabel: str = "token") -> Picture:
    """Draw a teacher's distribution with the best that students too simple for it can do, by what they minimise.

    teacher, students: probabilities (V,), by name. places: where they stand on the axis, by default 0, 1, ….
    """
    p = as_vector(teacher)
    x = np.arange(len(p)) if places is None else as_vector(places)
    picture, axes = canvas(7.6, 3.4)
    how = {"color": TEACHER.colour, "alpha": 0.35, "edgecolor": INK, "linewidth": 0.4, "label": "teacher"}
    axes.bar(x, p, width=0.9 * (x[1] - x[0]), **how)
    said = []
    for name, look in looks_of(students).items():
        q = as_vector(students[name])
        draw_curve(axes, x, q, look, name, markers=12)
        said.append(f"{name} puts {percent(q[p < p.max() / 20].sum())} where the teacher has next to nothing")
    axes.set(xlabel=xlabel, ylabel="probability", ylim=(0, None))
    axes.legend()
    return describe(picture, f"A teacher with more than one bump, and students of one: {'; '.join(said)}.")


@styled
def errors_along(rates: Mapping[str, Sequence[float]], ylabel: str = "share of wrong tokens") -> Picture:
    """Draw error rates by the place in the output, one curve for each way of asking: by name, a rate for each place."""
    picture, axes = canvas(7.6, 3.2)
    for name, look in looks_of(rates).items():
        y = as_vector(rates[name])
        draw_curve(axes, np.arange(1, len(y) + 1), y, look, name)
    axes.set(xlabel="token of the output", ylabel=ylabel, ylim=(0, None))
    axes.legend()
    said = [
        f"{name} from {percent(y[0], 1)} at token 1 to {percent(y[-1], 1)} at token {len(y)}"
        for name, y in ((name, as_vector(y)) for name, y in rates.items())
    ]
    return describe(picture, f"{ylabel.capitalize()} by place: {'; '.join(said)}.")


@styled
def divergence_along(
    students: Mapping[str, tuple[Sequence[str], Sequence[float]]], title: str = ""
) -> Picture:
    """Draw each student's tokens, and at each how far it is from the teacher: by name, tokens and nats."""
    most = max(max(values) for _, values in students.values())
    picture = Picture(figsize=(8, 0.8 + 1.5 * len(students)), layout="constrained")
    axes = picture.subplots(len(students), 1, squeeze=False)[:, 0]
    for ax, (name, look) in zip(axes, looks_of(students).items(), strict=True):
        tokens, values = students[name]
        ax.bar(range(len(values)), values, color=look.colour, hatch=look.hatch, edgecolor=INK)
        longest = max(len(tokens) for tokens, _ in students.values())
        ax.set(
            xticks=range(len(tokens)),
            xticklabels=tokens,
            xlim=(-0.7, longest - 0.3),
            ylim=(0, 1.05 * max(most, 0.05)),
            ylabel="nats",
        )
        set_title(ax, name)
    picture.suptitle(title, x=0.01, ha="left")
    said = []
    for name, (tokens, values) in students.items():
        worst = int(np.argmax(values))
        said.append(
            f"{name} writes {' '.join(tokens)}, farthest from the teacher at {tokens[worst]} ({values[worst]:.2f} nats)"
        )
    return describe(picture, f"{title}. {'; '.join(said)}.")
