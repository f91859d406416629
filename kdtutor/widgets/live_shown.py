"""What a live distillation shows: the points of its curves, the present numbers, and a sentence."""

from __future__ import annotations

import math
import time

from kdtutor import plots
from kdtutor.plots.live import live_distillation
from kdtutor.widgets.live_parts import same_temperature, short, twin_name
from kdtutor.widgets.live_steering import Steered

POINTS = 240  # of a curve, at most; a point is the mean over some steps
SNAPSHOTS = 100  # of the probe's distributions, at most (and the first)
VALIDATION_SHARE = 0.06  # of the time; together with the probe and the pictures it stays below a fifth


class Shown(Steered):
    """The recording half of LiveDistillation, which trains and calls these after each step."""

    def _begin_anew(self) -> None:
        """Show the curves and the picture of a run that has not moved."""
        step = self.distillation.done
        self._sums, self._in_sum = [0.0] * len(self._columns), [0] * len(self._columns)
        self._fresh = {"losses": [], "scores": [], "snapshots": []}
        for rows in self.curves.values():
            rows.clear()
        self._add("scores", [step, *self._first_scores])
        self._scored = step
        self._asked.clear()
        self._validating = self._working = 0.0
        self.error, self.problem = None, ""
        self._marks.clear()
        self._show()
        self._settle("ready")

    def _record(self) -> None:
        """Add the step's losses: every `_width` steps their mean becomes a point, and what is left at the end."""
        step, rows = self.distillation.done, {who: run.history[-1] for who, run in self._runs.items()}
        for i, (who, term) in enumerate(self._columns):
            run, row = self._runs[who], rows[who]
            if row["settings"][run.term_names.index(term)]["weight"]:  # else it was not computed
                self._sums[i] += row[term]
                self._in_sum[i] += 1
        if step % self._width == 0 or step == self.distillation.total_steps:
            sums = zip(self._sums, self._in_sum, strict=True)
            self._add("losses", [step, *(short(total / count) if count else None for total, count in sums)])
            self._sums, self._in_sum = [0.0] * len(self._columns), [0] * len(self._columns)

    def _score_if_scheduled(self) -> None:
        step, total = self.distillation.done, self.distillation.total_steps
        spacing = self._every or math.ceil(total / POINTS)
        cost = self._score.seconds * len(self._runs)
        affordable = self._every or self._validating + cost <= VALIDATION_SHARE * (self._working + cost)
        if self._score.possible and (step == total or (step - self._scored >= spacing and affordable)):
            started = time.perf_counter()
            self._add("scores", [step, *self._scores()])
            self._scored = step
            self._validating += time.perf_counter() - started
            self._working += time.perf_counter() - started

    def _scores(self) -> list[float | None]:
        return [self._worth(run.student) for run in self._runs.values()]

    def _worth(self, model) -> float | None:
        score = self._score(model)
        return None if score is None or not math.isfinite(score) else short(score)

    def _add(self, what: str, row: object) -> None:
        self.curves[what].append(row)
        self._fresh[what].append(row)

    def _show(self, ask: bool = True) -> None:
        """Send a picture: the present numbers and the points that are new.

        ask: put the probe to the models again, which may fail where a step has.
        """
        self._shown = time.perf_counter()
        self._read_settings()
        run = self.distillation
        snapshot = self.now.get("snapshot")
        if ask:
            models = {who: run.student for who, run in self._runs.items()}
            snapshot = {"step": self.distillation.done} | self._probe.snapshot(models)
        kept = self.curves["snapshots"]
        spacing = math.ceil(run.total_steps / SNAPSHOTS)
        last = kept[-1]["step"] if kept else -math.inf
        if ask and (run.done - last >= spacing or (run.done == run.total_steps and run.done > last)):
            self._add("snapshots", snapshot)
        row = run.history[-1] if run.history else None
        speed = self._speed()
        self.now = {
            "count": self.now.get("count", 0) + 1,
            "step": run.done,
            "epoch": round(run.done / run.batches.per_epoch, 2),
            "rate": short(row["learning_rate"]) if row else None,
            "loss": short(row["loss"]) if row else None,
            "speed": short(speed) if speed else None,
            "left": round((run.total_steps - run.done) / speed, 1) if speed else None,
            "formula": repr(run.objective),
            "snapshot": snapshot,
            "fresh": self._fresh,
            "lengths": {name: len(rows) for name, rows in self.curves.items()},
        }
        self._fresh = {name: [] for name in self._fresh}

    def _settle(self, status: str) -> None:
        """Say that nothing moves now, and send all points."""
        self.status = status
        self.summary = self._sentence()
        self._send_whole()

    def _send_whole(self) -> None:
        """Send all of `curves` when somebody needs it: it grows in place, unnoticed by ipywidgets."""
        if self.comm is not None:
            self.send_state("curves")

    def _speed(self) -> float | None:
        """Compute the steps per second over the last three seconds of training; None before there are any."""
        now, done = time.perf_counter(), self.distillation.done
        if self.status == "training" or (self._marks and self._marks[-1][1] < done):
            self._marks.append((now, done))
        while len(self._marks) > 2 and self._marks[0][0] < self._marks[-1][0] - 3:
            self._marks.popleft()
        if len(self._marks) < 2 or self._marks[-1][0] <= self._marks[0][0]:
            return None
        (first, begun), (last, reached) = self._marks[0], self._marks[-1]
        return (reached - begun) / (last - first) or None

    def _make_plan(self, why_no_twin: str) -> dict:
        """Collect what the front end has to know once."""
        run, score = self.distillation, self._score
        twin = "" if self.twin is None else twin_name(self.twin, self.distillation)
        notes = [score.note, why_no_twin, self._probe.note, same_temperature(run)[1]]
        return {
            "name": self.name,
            "total": run.total_steps,
            "task": run.task.name,
            "terms": [term.label for term in run.objective.terms],
            "losses": [{"who": who, "name": self._legend(who, name)} for who, name in self._columns],
            "score": score.name,
            "goal": self._goal,
            "scored": score.possible,
            "width": self._width,
            "start": self._settings(),
            "fraction": score.is_fraction,
            "twin": twin,
            "probe": self._probe.about(list(self._runs)),
            "notes": [note for note in notes if note],
        }

    def _legend(self, who: str, name: str) -> str:
        """Say whose curve of which term it is: "student, soft targets (T²·KL)"; a term's second one has a number."""
        run = self._runs[who]
        term = run.objective.terms[run.term_names.index(name)]
        return f"{who}, {term.label} {name.removeprefix(type(term).__name__)}".rstrip()

    def _sentence(self) -> str:
        """Say what is seen now, in one sentence; at the end, what happened."""
        if self.status == "finished" and self._score.is_fraction and None not in self.curves["scores"][-1]:
            return self._ending()
        run, (_, student, *twin) = self.distillation, self.curves["scores"][-1]
        parts = []
        if self._score.possible:
            beside = f" (twin {self._format(twin[0])})" if twin else ""
            parts.append(f"{self._score.name} {self._format(student)}{beside}")
        if self.now["snapshot"]["distance"]:
            student, *twin = self.now["snapshot"]["distance"]
            beside = f" (twin {twin[0]:.3f})" if twin else ""
            parts.append(f"on the probe text KL(teacher ‖ student) is {student:.3f} nats{beside}")
        state = "not started" if self.status == "ready" else self.status
        said = f": {'; '.join(parts)}" if parts else ""
        return f"Live distillation, {state}, step {run.done:,} of {run.total_steps:,}{said}."

    def _ending(self) -> str:
        """Say in one sentence who is ahead, by how much, whether that may be chance, and where the teacher is."""
        (_, student, *twin), run = self.curves["scores"][-1], self.distillation
        step = f"step {run.done:,} of {run.total_steps:,}"
        said = f"Live distillation, finished, {step}: {self._score.name} {self._format(student)}"
        if twin:
            ahead = 100 * (student - twin[0])
            points = f"{abs(ahead):.1f} points {'ahead' if ahead > 0 else 'behind'}" if ahead else "level"
            said += (
                f", the twin's {self._format(twin[0])}: the student is {points}{self._chance(student, *twin)}"
            )
        return said + ("." if self._goal is None else f"; the teacher's is {self._format(self._goal)}.")

    def _chance(self, *shares: float) -> str:
        """Say so where two shares of right answers differ by less than two standard errors, if of different texts."""
        if self.distillation.task.rules.per_token:
            return ""
        error = 2 * math.sqrt(sum(p * (1 - p) for p in shares) / self._score.texts)
        chance = (
            f", which may be chance: on {self._score.texts:,} texts it takes {100 * error:.0f} to be sure"
        )
        return chance if abs(shares[0] - shares[1]) <= error else ""

    def _format(self, score: float | None) -> str:
        if score is None:
            return "undefined"
        return f"{100 * score:.1f}{plots.NBSP}%" if self._score.is_fraction else f"{score:.3f}"

    def __repr__(self) -> str:
        return self._sentence()

    def picture(self) -> plots.Picture:
        """Draw score, losses and the probe's distributions at this moment."""
        return live_distillation(
            self.plan, self.curves, self.now["snapshot"], list(self._runs), self._sentence()
        )
