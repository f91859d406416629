"""What the tests read off a temperature explorer, and the same numbers from torch in double precision."""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F
from playwright.sync_api import Locator, Page, expect

CLASSES = ["animal", "food", "plant", "person", "act"]
# Two texts, one labelled; the logits are as uneven as a model's.
TEACHER = [[1.25, 4.5, 5.125, -2.0, -3.7], [0.3, -1.1, 0.9, 2.2, 2.1]]
STUDENT = [[2.0, 1.5, 3.25, 0.1, -1.3], [1.3, 0.2, -0.4, 0.8, 1.9]]
TEXTS = ["hybrid between plum and apricot", "one who looks on"]
MAKE = f"""import kdtutor as kd
explorer = kd.widgets.TemperatureExplorer.from_logits(
    {TEACHER}, {STUDENT}, {CLASSES}, labels=[2, None], texts={TEXTS})"""


def from_torch(T: float, alpha: float, example: int = 0, t_squared: bool = True) -> dict[str, float]:
    """The explorer's numbers, by their data-kd, for one of the examples above; the label of the first is 2."""
    z_t, z_s = (torch.tensor(z[example], dtype=torch.float64) for z in (TEACHER, STUDENT))
    log_p, log_q = (F.log_softmax(z / T, -1) for z in (z_t, z_s))
    kl = F.kl_div(log_q, log_p, reduction="sum", log_target=True)
    soft = kl * (T**2 if t_squared else 1)
    hard = F.cross_entropy(z_s, torch.tensor(2)) if example == 0 else None
    total = (1 - alpha) * soft + (0 if hard is None else alpha * hard)
    entropies = {
        f"entropy-{who}": torch.distributions.Categorical(logits=z / T).entropy()
        for who, z in (("teacher", z_t), ("student", z_s))
    }
    numbers = {**entropies, "kl": kl, "loss-soft": soft, "loss-total": total}
    return {name: float(x) for name, x in numbers.items()} | (
        {} if hard is None else {"loss-hard": float(hard)}
    )


def bars_from_torch(T: float, alpha: float) -> dict[str, dict[str, list[float]]]:
    """Of the first example: the bars of both charts by class, gradients by autograd."""
    z_t, z_s = (torch.tensor(z[0], dtype=torch.float64) for z in (TEACHER, STUDENT))
    z_s.requires_grad_()
    p, q = F.softmax(z_t / T, -1), F.softmax(z_s / T, -1)
    soft = T**2 * F.kl_div(F.log_softmax(z_s / T, -1), p, reduction="sum")
    pulls = [
        torch.autograd.grad(loss, z_s)[0]
        for loss in (alpha * F.cross_entropy(z_s, torch.tensor(2)), (1 - alpha) * soft)
    ]
    charts = {"probabilities": (p.detach(), q.detach()), "gradients": pulls}
    return {
        chart: {name: [float(v[c]) for v in values] for c, name in enumerate(CLASSES)}
        for chart, values in charts.items()
    }


class Explorer:
    """One view of a temperature explorer."""

    def __init__(self, page: Page, root: Locator) -> None:
        self.page, self.root = page, root
        self.T, self.alpha = self.part("temperature"), self.part("alpha")

    def part(self, name: str) -> Locator:
        return self.root.locator(f'[data-kd="{name}"]')

    def value(self, name: str) -> float:
        return float(self.part(name).get_attribute("data-value"))

    def settle(self) -> None:
        """Until no number has changed for a tenth of a second: the picture comes with the next frame."""
        self.root.evaluate(
            """async (root) => {
                const numbers = () => [...root.querySelectorAll("[data-value]")].map((e) => e.dataset.value).join();
                for (let last = null, now = numbers(); now !== last; now = numbers()) {
                    last = now;
                    await new Promise((done) => setTimeout(() => requestAnimationFrame(done), 100));
                }
            }"""
        )

    def numbers(self) -> dict[str, float]:
        self.settle()
        shown = self.root.evaluate(
            """(root) => Object.fromEntries([...root.querySelectorAll("[data-kd][data-value]")]
                .map((e) => [e.dataset.kd, e.dataset.value]))"""
        )
        names = ("entropy-teacher", "entropy-student", "kl", "loss-hard", "loss-soft", "loss-total")
        return {name: float(shown[name]) for name in names if shown[name]}

    def bars(self, chart: str) -> dict[str, list[float]]:
        self.settle()
        return self.part(chart).evaluate(
            """(chart) => Object.fromEntries([...chart.querySelectorAll("g[data-row]")].map((row) =>
                [row.dataset.row, row.dataset.values.split(" ").map(Number)]))"""
        )

    def drag(self, slider: Locator, to: float) -> None:
        """The handle with the mouse to a place between 0 and 1 of the slider's way, in many small moves."""
        slider.scroll_into_view_if_needed()
        box = slider.bounding_box()
        low, high, now = (float(slider.evaluate(f"(s) => s.{name}")) for name in ("min", "max", "value"))
        y = box["y"] + box["height"] / 2
        at = 8 + (now - low) / (high - low) * (box["width"] - 16)  # a handle is 16 px wide
        self.page.mouse.move(box["x"] + at, y)
        self.page.mouse.down()
        self.page.mouse.move(box["x"] + 8 + to * (box["width"] - 16), y, steps=12)
        self.page.mouse.up()

    def type(self, name: str, text: str) -> None:
        box = self.part(f"{name}-box")
        box.fill(text)
        box.press("Enter")

    def says(self, pattern: str) -> None:
        """One of the explorer's alerts shows a sentence like this."""
        alerts = self.root.locator('[role="alert"]:visible')
        expect(alerts.filter(has_text=re.compile(pattern))).to_have_count(1)
