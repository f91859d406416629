"""Kinds of mistakes that were once told as numbers only: each answer gets the name that it deserves, at every seed."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from notebook_exercises import EXERCISES, judged

import kdtutor as kd

NAMED = []


def named(exercise: str, *names: str):
    """Registers an answer with the names that its check has to give."""
    return lambda answer: NAMED.append(pytest.param(exercise, answer, names, id=answer.__name__)) or answer


@named("softmax_with_temperature", "the wrong function")
def divides_by_the_largest(logits, temperature):
    e = torch.exp(logits / temperature)
    return e / e.max(dim=1, keepdim=True).values


@named("train_student", "the returned loss keeps its graph")
def keeps_the_losses_graphs(student, teacher, texts, steps):
    optimizer = torch.optim.SGD(student.parameters(), lr=0.5)
    losses = []
    for _ in range(steps):
        with torch.no_grad():
            answers = teacher(texts).softmax(-1)
        loss = F.cross_entropy(student(texts), answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss)
    return losses


@named("training_memory", "weights in bf16", "gradients in bf16")
def keeps_teacher_and_gradients_in_two_bytes(student, teacher, accumulate, processes):
    return {
        "student": 4 * student,
        "teacher": 2 * teacher,
        "gradients": 2 * student,
        "optimiser": 8 * student,
    }


def step_of_means(model, shares, skips_empty):
    batches = [batch for share in shares for batch in share]
    model.zero_grad()
    total, texts = 0.0, sum(len(batch["labels"]) for batch in batches)
    for batch in batches:
        if skips_empty and (batch["labels"] == -100).all():
            continue
        loss = F.cross_entropy(model(batch["features"]).flatten(0, 1), batch["labels"].flatten())
        loss = loss * len(batch["labels"]) / texts
        loss.backward()
        total += loss.item()
    return total


@named("step_gradient", "the mean times its texts")
def weighs_by_texts(model, shares):
    return step_of_means(model, shares, skips_empty=False)


@named("step_gradient", "the mean times its texts")
def weighs_by_texts_and_skips_what_is_empty(model, shares):
    return step_of_means(model, shares, skips_empty=True)


@named("mask_rare_words", "common words more often")
def takes_the_counts_for_weights(*args):
    return EXERCISES["mask_rare_words"].reference(*args, wrong={"as often as they occur"})


@named("linear_cka", "each text by itself")
def compares_within_each_text(x, y, mask):
    found = []
    for p, q, real in zip(x, y, mask.bool(), strict=True):
        p, q = p[real] - p[real].mean(0), q[real] - q[real].mean(0)
        found.append((p.T @ q).norm() ** 2 / ((p.T @ p).norm() * (q.T @ q).norm()))
    return torch.stack(found).mean()


@named("relational_distance", "cosines in place of distances")
def compares_angles(student_vectors, teacher_vectors):
    s, t = (F.normalize(z, dim=-1) for z in (student_vectors, teacher_vectors))
    return F.smooth_l1_loss(s @ s.T, t @ t.T)


@named("last_state", "zeros read after the text")
def empties_the_padding_and_reads_on(lstm, embedded, attention_mask):
    return lstm(embedded * attention_mask[..., None])[0][:, -1]


@named("scaled_loss", "its place in the list")
def returns_where_the_temperature_stands(
    validation_logits, validation_labels, test_logits, test_labels, temperatures
):
    losses = [F.cross_entropy(validation_logits / t, validation_labels).item() for t in temperatures]
    place = losses.index(min(losses))
    return place, F.cross_entropy(test_logits / temperatures[place], test_labels).item()


@named("next_token_loss", "shifted twice")
def asks_for_the_token_after_the_next(logits, input_ids, attention_mask):
    losses = F.cross_entropy(logits[:, :-2].transpose(1, 2), input_ids[:, 2:], reduction="none")
    return (losses * attention_mask[:, 2:]).sum() / attention_mask[:, 2:].sum()


@named("word_level", "the prompt alone")
def looks_at_the_prompt_alone(student_logits, teacher_logits, attention_mask, prompt):
    s, t = (z[:, :prompt].log_softmax(-1) for z in (student_logits, teacher_logits))
    kl = F.kl_div(s, t, reduction="none", log_target=True).sum(-1)
    return (kl * attention_mask[:, :prompt]).sum() / attention_mask[:, :prompt].sum()


@named("pareto_front", "dear is good", "in the order given")
def takes_the_dear_in_the_order_given(cost, score):
    front = []
    for i in range(len(cost)):
        as_good = (cost >= cost[i]) & (score >= score[i])
        better = (cost > cost[i]) | (score > score[i])
        if not (as_good & better).any():
            front.append(i)
    return front


@named("linear_cka", "padding as zeros")
def empties_the_padding_and_centres(x, y, mask):
    x, y = ((z * mask[..., None]).flatten(0, 1) for z in (x, y))
    x, y = x - x.mean(0), y - y.mean(0)
    return (y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())


@named("attention_loss", "the logarithm of 0")
def takes_the_logarithm_of_0(student_weights, teacher_weights, mask):
    rows = (teacher_weights * (teacher_weights.log() - student_weights.log())).sum(-1)
    return (rows * mask[:, None]).sum() / (mask.sum() * rows.shape[1])


@named("train_with_hints", "only the projection's matrix learns")
def forgets_the_bias(student, projection, inputs, teacher_hidden, steps, learning_rate):
    optimizer = torch.optim.SGD([*student.parameters(), projection.weight], lr=learning_rate)
    for _ in range(steps):
        loss = F.mse_loss(projection(student(inputs)), teacher_hidden)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


@named("max_pool", "a low number for an empty text")
def leaves_a_billion(states, attention_mask):
    return states.masked_fill(~attention_mask[..., None].bool(), -1e9).amax(1)


@named("pareto_front", "better than all before")
def sweeps_from_the_cheapest(cost, score):
    best, front = -float("inf"), []
    for i in cost.argsort(stable=True).tolist():
        if score[i] > best:
            best = score[i]
            front.append(i)
    return front


@named("risk_at", "one more than the share")
def always_one_more(logits, labels, coverage):
    answered = logits.softmax(-1).amax(-1).argsort(descending=True)[: int(coverage * len(labels)) + 1]
    return (logits[answered].argmax(-1) != labels[answered]).float().mean().item()


@named("attack_success", "of those that it had right")
def divides_by_all_that_it_had_right(before, after, labels, human):
    fooled = (before == labels) & (human == labels) & (after != labels)
    return fooled.sum().item() / (before == labels).sum().item()


def fine_tuned(model, train, validation, optimizer, batch_size, steps, share):
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: max(0.0, share(done, steps)))
    model.train()
    for start in range(0, len(train["labels"]), batch_size):
        optimizer.zero_grad()
        model(**{name: value[start : start + batch_size] for name, value in train.items()}).loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        return (model(**validation).logits.argmax(-1) == validation["labels"]).float().mean().item()


@named("fine_tune", "the shorter batch not in the schedule")
def rounds_the_steps_down(model, train, validation, optimizer, batch_size):
    steps = len(train["labels"]) // batch_size
    return fine_tuned(model, train, validation, optimizer, batch_size, steps, lambda k, n: (n - k) / n)


@named("fine_tune", "the rate rises")
def goes_faster_and_faster(model, train, validation, optimizer, batch_size):
    steps = -(-len(train["labels"]) // batch_size)
    return fine_tuned(model, train, validation, optimizer, batch_size, steps, lambda k, n: (k + 1) / n)


@named("tuned_difference", "the control chosen on test")
def lets_the_control_be_lucky(student_validation, student_test, control_validation, control_test):
    rate = student_validation.mean(1).argmax()
    return student_test[rate].mean() - control_test.mean(1).max()


@named("tuned_difference", "the wrong function")
def chooses_by_the_worst_seed(student_validation, student_test, control_validation, control_test):
    def best(scores):
        return scores.amin(1).argmax()

    return student_test[best(student_validation)].mean() - control_test[best(control_validation)].mean()


@named("tuned_difference", "the wrong function")
def chooses_by_the_product(student_validation, student_test, control_validation, control_test):
    rates = [scores.prod(1).argmax() for scores in (student_validation, control_validation)]
    return student_test[rates[0]].mean() - control_test[rates[1]].mean()


@named("honest_report", "the control chosen on the test set")
def lets_the_rival_be_lucky(validation, test, control_validation, control_test):
    best, other = int(validation.mean(-1).argmax()), int(control_test.mean(-1).argmax())
    gain = kd.mean_and_interval((test[best] - control_test[other]).tolist())
    return best, other, gain.mean, gain.half_width


@named("quantize_rows", "half of the bits")
def takes_half_of_the_bits(weights, bits):
    scale = weights.abs().amax(1, keepdim=True) / (2 ** (bits // 2) - 1)
    return (weights / scale).round(), scale


@named("pareto_front", "only if better in both")
def wants_better_in_both(cost, score):
    order = sorted(range(len(cost)), key=lambda i: (cost[i].item(), -i))
    return [i for i in order if not ((cost < cost[i]) & (score > score[i])).any()]


@named("lstm_step", "a ReLU on the candidate")
def never_forgets_below_zero(x, h, c, W, U, b):
    i, f, g, o = (x @ W.T + h @ U.T + b).chunk(4, dim=-1)
    c = f.sigmoid() * c + i.sigmoid() * g.relu()
    return o.sigmoid() * c.tanh(), c


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("exercise", "answer", "names"), NAMED)
def test_it_is_named(exercise, answer, names, seed):
    verdict = judged(exercise, answer, seed, names)
    assert not verdict.solved
    assert verdict.mistakes == names, verdict


def by_the_definition(logits, temperature):
    p = (logits / temperature).softmax(-1)
    return -(p * p.log()).sum(-1).mean()


def by_torchs_entropy(logits, temperature):
    return torch.special.entr((logits / temperature).softmax(-1)).sum(-1).mean()


def test_where_large_logits_are_asked_for_nan_is_not_accepted():
    verdicts = [judged("tempered_entropy", f, 1) for f in (by_the_definition, by_torchs_entropy)]
    assert [(v.solved, v.kind) for v in verdicts] == [(False, "unstable"), (True, "right")]
    assert "as large as 300" in " ".join(verdicts[0].text.split())


def test_models_of_the_same_cost_may_come_in_any_order():
    def front(cost, score):
        reference = EXERCISES["pareto_front"].reference(cost, score)
        return sorted(reference, key=lambda i: (cost[i].item(), -i))

    assert judged("pareto_front", front, seed=1).solved


def test_a_module_that_was_not_imported_is_said():
    scope = {}
    exec("def masked_lm_loss(logits, labels):\n    return F.cross_entropy(logits.mT, labels)", scope)
    text = " ".join(str(judged("masked_lm_loss", scope["masked_lm_loss"], seed=1)).split())
    assert "name 'F' is not defined" in text
    assert "Is an import missing above? F is torch.nn.functional" in text
