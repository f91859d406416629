"""kdtutor distill --control: the same student without a teacher, trained after the other one, and the difference."""

from __future__ import annotations

from kdtutor.errors import KDTutorError


def make_control(run, output):
    """Make the run without a teacher that is compared with `run`; it must not have taken a step."""
    from kdtutor.training.control import NoControl, control_of

    if run.settings.patience:
        raise KDTutorError("--control compares students after equal steps: leave --patience out")
    try:
        return control_of(run, folder=output / "checkpoints", progress=run.progress)
    except NoControl as error:
        raise KDTutorError(f"--control has nothing to compare with: {error}") from error


def difference(student, control, task, card: dict, control_card: dict, name: str) -> dict:
    """Compare two saved models, by the score `name` on validation and test, and text by text where there are classes.

    Returns what belongs in the card: the control's scores, the differences (student minus control), and the paired
    test, which speaks of these two trained students; other seeds would give others.
    """
    from kdtutor.evaluation import paired_test, predict

    scores, theirs = card["scores"], control_card["scores"]
    found = {
        "objective": control_card["settings"]["objective"],
        "steps": control_card["steps"],
        "scores": theirs,
        "difference": {split: scores[split][name] - theirs[split][name] for split in scores},
    }
    if task.rules.answer == "classes":
        logits = (predict(model, task, "test") for model in (student, control))
        test = paired_test(*logits, task.targets("test"))
        found |= {"p_value": test.p_value, "paired_test": test.detail}
    return found


def told(card: dict, name: str) -> str:
    """Write the comparison that a card holds, as a line for each part."""
    control = card["control"]
    lines = ["with the teacher, and without it (the control):"]
    for split, value in control["difference"].items():
        mine, theirs = (scores[split][name] for scores in (card["scores"], control["scores"]))
        lines.append(
            f"  {split:<12}{name.replace('_', ' ')} {mine:.4f} and {theirs:.4f}: difference {value:+.4f}"
        )
    if "p_value" in control:
        lines[-1] += f", p = {control['p_value']:.2g} (of these two students; {control['paired_test']})"
    return "\n".join(lines)
