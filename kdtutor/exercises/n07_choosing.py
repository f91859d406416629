"""The exercises of notebook 07 on soft targets that reach the student, and on choosing among students."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from kdtutor.exercises.banks import RIGHT
from kdtutor.exercises.definitions import Exercise, Mistake
from kdtutor.exercises.stepping import GRAPH_KEPT
from kdtutor.exercises.toys import Inputs, TinyClassifier, keeps_graph, padded_texts, weights_of

# ------------------------------------------------------------------------------- 7.4 every batch's soft targets


def distil_epoch(
    student: nn.Module, teacher: nn.Module, batches: Sequence[Inputs], temperature: float,
    wrong: frozenset[str] = RIGHT,
) -> list[float]:  # fmt: skip
    """Ask the teacher about all batches, then take a step of SGD on each batch's soft targets. Returns the losses."""
    teacher.train("teacher in train mode" in wrong)
    asked = reversed(batches) if "the answers in another order" in wrong else batches
    answers = []
    with torch.set_grad_enabled("teacher inside the graph" in wrong):
        for inputs in asked:
            z_t = teacher(**inputs).logits
            answers.append((z_t / (1 if "temperature on one side" in wrong else temperature)).softmax(-1))
    if "the last batch's answers for all" in wrong:
        answers = [answers[-1]] * len(batches)
    if "the first batch's answers for all" in wrong:
        answers = [answers[0]] * len(batches)

    if "the mean of all answers" in wrong:
        answers = [sum(answers) / len(answers)] * len(batches)

    pairs = [*zip(batches, answers, strict=True)]
    if "each batch with all answers" in wrong:
        pairs = [(inputs, p_t) for inputs in batches for p_t in answers]
    if "all batches with each answer" in wrong:
        pairs = [(inputs, p_t) for p_t in answers for inputs in batches]
    student.train("the student in eval mode" not in wrong)
    kind = torch.optim.Adam if "another optimiser" in wrong else torch.optim.SGD
    optimizer, losses = kind(student.parameters(), lr=0.1), []
    for place, (inputs, p_t) in enumerate(pairs):
        log_p_s = (student(**inputs).logits / temperature).log_softmax(-1)
        if "the teacher's softmax taken twice" in wrong:
            p_t = (p_t / temperature).softmax(-1)
        if "soft targets never used" in wrong:
            p_t = p_t.argmax(-1, keepdim=True).eq(torch.arange(p_t.shape[-1])).float()
        per_text = (p_t * (p_t.clamp(min=1e-30).log() - log_p_s)).sum(-1)
        loss = (1 if "no T²" in wrong else temperature**2) * per_text.mean()
        if "never cleared" not in wrong:
            optimizer.zero_grad()
        loss.backward()
        if "one step for all batches" not in wrong or place == len(pairs) - 1:
            optimizer.step()
        losses.append(loss if GRAPH_KEPT.name in wrong else loss.item())
    return losses


def _observe_epoch(
    function: Callable, student: TinyClassifier, teacher: TinyClassifier, *rest: object
) -> dict:
    before = weights_of(student)
    teacher.train()
    losses = function(student.train(), teacher, *rest)
    return {
        "whether the teacher answers in eval mode": not any(teacher.in_train_mode),
        "whether the student learns in train mode": all(student.in_train_mode),
        "whether gradients reach the teacher": any(w.grad is not None for w in teacher.parameters()),
        "the losses that are returned": torch.tensor(losses),
        "whether the returned losses keep their graphs": keeps_graph(*losses),
        "the change of the student's weights": weights_of(student) - before,
    }


def _epoch_probes(generator: torch.Generator) -> list[tuple]:
    probes = []
    for texts, temperature in ((3, 2.0), (4, 3.0)):
        student = TinyClassifier(width=3, generator=generator)
        teacher = TinyClassifier(width=6, dropout=0.5, generator=generator)
        probes.append((student, teacher, [padded_texts(generator, texts) for _ in range(3)], temperature))
    return probes


DISTIL_EPOCH = Exercise(
    name="distil_epoch",
    number="7.4",
    title="Every batch its own soft targets",
    reference=distil_epoch,
    mistakes=(
        GRAPH_KEPT,
        Mistake(
            "the last batch's answers for all",
            "Every batch of yours learns the teacher's answers to the last one. What becomes of a name to which "
            "something is assigned in each round of a loop?",
        ),
        Mistake(
            "the first batch's answers for all",
            "Every batch of yours learns the teacher's answers to the first one.",
        ),
        Mistake(
            "the mean of all answers",
            "Every batch of yours learns the mean of the teacher's answers. Each text has an answer of its own.",
        ),
        Mistake(
            "the answers in another order",
            "The teacher's answers are all there, but they meet the batches in another order.",
        ),
        Mistake(
            "teacher in train mode",
            "The teacher answers with dropout on: its soft targets are noise.",
        ),
        Mistake(
            "teacher inside the graph",
            "Every batch's graph of the teacher is kept until its step, and the backward pass runs through it. Nobody "
            "wants these gradients.",
        ),
        Mistake(
            "temperature on one side",
            "The temperature divides the logits of one of the two only.",
        ),
        Mistake(
            "the student in eval mode",
            "Your student learns in eval mode, in which its dropout is off. It came in train mode: leave it there.",
        ),
        Mistake(
            "each batch with all answers",
            "Your student takes a step on every batch with the answers to every batch. Each batch has its own: walk "
            "through the two side by side, not one inside the other.",
            also=("all batches with each answer",),
        ),
        Mistake(
            "one step for all batches",
            "Your student takes a single step at the end. A step on each batch is asked for.",
        ),
        Mistake(
            "the teacher's softmax taken twice",
            "Your teacher's probabilities go through a softmax once more, and become nearly alike.",
        ),
        Mistake("another optimiser", "Your steps are those of another optimiser: plain SGD is asked for."),
        Mistake("no T²", "Your losses are too small: what does a temperature do to the gradient?"),
        Mistake(
            "soft targets never used",
            "Your student learns the teacher's first guess: all it knew of the other classes is lost.",
        ),
        Mistake(
            "never cleared", "Your first step is right. In the later ones there is still the gradient before."
        ),
    ),
    planted=("the last batch's answers for all",),
    symptom="The loss falls, and on new texts the student guesses the same few classes for all of them.",
    probes=_epoch_probes,
    observe=_observe_epoch,
)


# --------------------------------------------------------------------------------------- 7.5 the Pareto front


def pareto_front(cost: Tensor, score: Tensor, wrong: frozenset[str] = RIGHT) -> list[int]:
    """Tell which models are worth choosing: those than which no other is cheaper (or as cheap) and better (or as good).

    cost, score: (N,). The numbers of these models, from the cheapest to the dearest; of two equal ones, both.
    """
    if swept := SWEEPS & wrong:
        return _swept(cost, score, *swept)
    front = []
    for i in range(len(cost)):
        cheaper, better = cost <= cost[i], score >= score[i]
        strictly = (cost < cost[i]) | (score > score[i])
        if "only if better in both" in wrong:
            dominated = (cost < cost[i]) & (score > score[i])
        elif "only cheaper ones dominate" in wrong:
            dominated = (cost < cost[i]) & better
        elif "only better ones dominate" in wrong:
            dominated = cheaper & (score > score[i])
        elif "each dominates itself" in wrong:
            dominated = cheaper & better
        elif "its equal dominates it" in wrong:
            others = torch.arange(len(cost)) != i
            dominated = cheaper & better & others
        elif "cheaper or better is enough" in wrong:
            dominated = strictly
        elif "dear is good" in wrong:
            dominated = (cost >= cost[i]) & better & ((cost > cost[i]) | (score > score[i]))
        elif "a low score is good" in wrong:
            dominated = cheaper & (score <= score[i]) & ((cost < cost[i]) | (score < score[i]))
        else:
            dominated = cheaper & better & strictly
        if not dominated.any():
            front.append(i)
    if "in the order given" not in wrong:
        front.sort(key=lambda i: (float(cost[i]), i))
    if "from the dearest" in wrong:
        front.reverse()
    if "the costs, not the models" in wrong:
        return sorted(float(cost[i]) for i in front)
    if "the scores, not the models" in wrong:
        return [float(score[i]) for i in front]
    if "places in the sorted list" in wrong:
        order = cost.argsort(stable=True).tolist()
        return sorted(order.index(i) for i in front)
    if {"all models", "yes and no for the numbers"} & wrong:
        front = (
            cost.argsort(stable=True).tolist()
            if "all models" in wrong
            else [i in front for i in range(len(cost))]
        )
    if "the dominated ones" in wrong:
        front = [i for i in cost.argsort(stable=True).tolist() if i not in front]
    return front


SWEEPS = frozenset(
    ("better than all before", "as good as all before", "better than the one before", "by the quotient")
)


def _swept(cost: Tensor, score: Tensor, how: str) -> list[int]:
    """Sweep from the cheapest to the dearest: those that are better than what came before."""
    if how == "by the quotient":
        return (score / cost).argsort(descending=True, stable=True).tolist()
    front, best = [], -torch.inf
    for i in cost.argsort(stable=True).tolist():
        if score[i] > best or (how == "as good as all before" and score[i] == best):
            front.append(i)
            best = score[i]
        elif how == "better than the one before":
            best = score[i]
    return front


def _observe_front(function: Callable, cost: Tensor, score: Tensor) -> dict:
    front = [float(i) for i in function(cost, score)]
    if all(i in range(len(cost)) for i in front):  # models of the same cost may come in any order
        front = [i for _, i in itertools.groupby(front, lambda i: cost[int(i)]) for i in sorted(i)]
    return {
        "how many models there are": len(front),
        "the list of their numbers": torch.tensor(front, dtype=torch.float64),
    }


def _front_probes(generator: torch.Generator) -> list[tuple]:
    probes = []
    for models in (9, 7, 12):
        order = torch.randperm(models, generator=generator)
        cost = torch.arange(1, models + 1).float()[order]
        noise = torch.randint(-3, 4, (models,), generator=generator)
        score = 50 + 2 * cost + noise
        # Two that cost the same, two that are the same, and two of the same score.
        cost, score = (
            torch.cat([cost, cost[:3]]),
            torch.cat([score, score[:3] + torch.tensor([0.0, 3.0, -3.0])]),
        )
        cost, score = torch.cat([cost, cost[-1:] + 0.5]), torch.cat([score, score[-1:]])
        # The last of all is the cheapest, and on the front; the first the dearest, whoever takes that for good.
        cost = torch.cat([torch.tensor([40.0]), cost, torch.tensor([0.5])])
        score = torch.cat([torch.tensor([30.0]), score, torch.tensor([40.0])])
        probes.append((cost, score))
    # One that is the cheapest and the best of all: who asks too much, or too little, still has it or drops it.
    cost, score = (side[:6].clone() for side in probes[0])
    cost[2], score[2] = 0.1, 99.0
    return [*probes, (cost, score)]


PARETO_FRONT = Exercise(
    name="pareto_front",
    number="7.5",
    title="Which models are worth a look?",
    reference=pareto_front,
    mistakes=(
        Mistake(
            "only if better in both",
            "You keep models that cost the same as another and are worse, or are as good and cost more. Nobody would "
            "take those.",
        ),
        Mistake(
            "only cheaper ones dominate",
            "A model that costs the same as another and is worse is left in: to be better in one of the two is enough.",
        ),
        Mistake(
            "only better ones dominate",
            "A model that is as good as another and costs more is left in: to be better in one of the two is enough.",
        ),
        Mistake(
            "each dominates itself",
            "Every model costs no more than itself and scores no less, so that yours all drive themselves out. One of "
            "the two has to be really better.",
        ),
        Mistake(
            "its equal dominates it",
            "Two models of the same cost and score drive each other out: neither is better than the other.",
        ),
        Mistake(
            "cheaper or better is enough",
            "You drop a model as soon as another is cheaper, *or* another is better. Then hardly any is left.",
        ),
        Mistake("dear is good", "Your front is that of the dearest models: a cost should be low."),
        Mistake("a low score is good", "Your front is that of the worst models: a score should be high."),
        Mistake(
            "in the order given",
            "Those are the models. They were to be named from the cheapest to the dearest.",
            also=("from the dearest",),
        ),
        Mistake(
            "better than all before",
            "You go from the cheapest up and keep what is better than all before it. Of two that cost the same, the "
            "first may be the worse one, and of two that are equal in both, both are to stay.",
            also=("as good as all before",),
        ),
        Mistake(
            "better than the one before",
            "You compare each model with its neighbour alone. Any other one may dominate it.",
        ),
        Mistake(
            "by the quotient", "You order all models by what a point costs. Which of them are not dominated?"
        ),
        Mistake(
            "the costs, not the models",
            "Those are the right models' figures. Their numbers are asked for: which ones are they?",
            also=("the scores, not the models",),
        ),
        Mistake(
            "places in the sorted list",
            "You give places in the list that you have sorted. Which numbers did these models have before that?",
        ),
        Mistake(
            "all models",
            "You drop none: a model is dominated as soon as *any* other one dominates it, not if all do.",
        ),
        Mistake(
            "yes and no for the numbers",
            "You say yes or no for each model. The numbers of those with a yes are asked for.",
        ),
        Mistake("the dominated ones", "Those are the models that are *not* worth a look."),
    ),
    probes=_front_probes,
    observe=_observe_front,
)


EXERCISES = [DISTIL_EPOCH, PARETO_FRONT]
