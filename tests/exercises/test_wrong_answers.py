"""Wrong answers as learners write them are named, none is accepted; right ones in other styles get no remark."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from notebook_exercises import EXERCISES, judged
from torch import nn

WRONG, RIGHT = [], []


def wrong(exercise: str, *mistakes: str):
    """Registers an answer with the names that its check has to give, or with none: then it only must not pass."""
    return lambda answer: WRONG.append(pytest.param(exercise, answer, mistakes, id=answer.__name__)) or answer


def right(exercise: str):
    return lambda answer: RIGHT.append(pytest.param(exercise, answer, id=answer.__name__)) or answer


# ------------------------------------------------------------------------------------------ once accepted


@wrong("training_step", "the returned loss keeps its graph")
def returns_the_loss_with_its_graph(model, optimizer, source, target):
    logits = model(source, target[:, :-1])
    loss = F.cross_entropy(logits.flatten(0, 1), target[:, 1:].flatten(), ignore_index=0)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


@wrong("rate_grid", "the wrong operation")
def rounds_the_quotient_down(low, high, points):
    return low * (high // low) ** (torch.arange(points) / (points - 1))


@wrong("train_epoch", "the returned loss keeps its graph")
def returns_a_sum_of_losses_with_their_graphs(student, batches, accumulate, learning_rate):
    groups = [batches[i : i + accumulate] for i in range(0, len(batches), accumulate)]
    optimizer, total = torch.optim.SGD(student.parameters(), lr=learning_rate), 0
    for k, group in enumerate(groups):
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - k / len(groups))
        texts = sum(len(x) for x, _ in group)
        for x, z in group:
            loss = F.mse_loss(student(x), z)
            (loss * len(x) / texts).backward()
            total = total + loss * len(x)
        optimizer.step()
        optimizer.zero_grad()
    return total / sum(len(x) for x, _ in batches)


@wrong("step_gradient", "the returned loss keeps its graph")
def returns_the_mean_with_its_graph(model, shares):
    batches = [batch for share in shares for batch in share]
    masked = sum((batch["labels"] != -100).sum() for batch in batches)
    model.zero_grad()
    total = 0
    for batch in batches:
        loss = F.cross_entropy(
            model(batch["features"]).flatten(0, 1), batch["labels"].flatten(), reduction="sum"
        )
        (loss / masked).backward()
        total = total + loss / masked
    return total


def fine_tuning(model, train, validation, optimizer, batch_size, train_mode=True, late=True):
    def accuracy():
        model.eval()
        with torch.no_grad():
            return (model(**validation).logits.argmax(-1) == validation["labels"]).float().mean().item()

    result, starts = accuracy(), range(0, len(train["labels"]), batch_size)
    peak = optimizer.param_groups[0]["lr"]
    model.train(train_mode)
    for k, start in enumerate(starts):
        optimizer.param_groups[0]["lr"] = peak * (1 - k / len(starts))
        optimizer.zero_grad()
        model(**{name: value[start : start + batch_size] for name, value in train.items()}).loss.backward()
        optimizer.step()
    return accuracy() if late else result


@wrong("fine_tune", "trained in eval mode")
def leaves_train_out(model, train, validation, optimizer, batch_size):
    peak, starts = optimizer.param_groups[0]["lr"], range(0, len(train["labels"]), batch_size)
    for k, start in enumerate(starts):
        optimizer.param_groups[0]["lr"] = peak * (1 - k / len(starts))
        optimizer.zero_grad()
        model(**{name: value[start : start + batch_size] for name, value in train.items()}).loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        return (model(**validation).logits.argmax(-1) == validation["labels"]).float().mean().item()


@wrong("fine_tune", "measured before the training")
def measures_before_the_training(*args):
    return fine_tuning(*args, late=False)


@wrong("compute_loss", "student in eval mode")
def puts_the_student_into_eval_mode(self, model, inputs, return_outputs=False, num_items_in_batch=None):
    model.eval()
    return EXERCISES["compute_loss"].reference(self, model, inputs, return_outputs, num_items_in_batch)


@wrong("distillation_step", "dropout taken out of the teacher")
def takes_the_dropout_out_of_the_teacher(student, teacher, inputs, labels, alpha, temperature):
    teacher.dropout.p = 0.0
    return EXERCISES["distillation_step"].reference(student, teacher, inputs, labels, alpha, temperature)


@wrong("copy_layers", "the teacher frozen")
def freezes_a_free_teacher(student, teacher, layers):
    teacher.requires_grad_(False)
    return EXERCISES["copy_layers"].reference(student, teacher, layers)


@wrong("copy_layers", "in the teacher's order")
def copies_in_the_teachers_order(student, teacher, layers):
    kept = [layer for number, layer in enumerate(teacher.layers) if number in layers]
    for mine, theirs in zip(student.layers, kept, strict=True):
        mine.load_state_dict(theirs.state_dict())
    student.embeddings.load_state_dict(teacher.embeddings.state_dict())
    student.head.load_state_dict(teacher.head.state_dict())
    return student


@wrong("retention", "tasks matched by position")
def takes_the_first_tasks_of_the_teacher(student, teacher):
    tasks = list(zip(student.values(), teacher.values(), strict=False))
    seeds = range(len(tasks[0][0]))
    ratios = [sum(s[k] for s, _ in tasks) / sum(t[k] for _, t in tasks) for k in seeds]
    return sum(ratios) / len(ratios)


@wrong("mask_tokens", "special tokens hard-coded")
def knows_the_special_tokens_by_heart(input_ids, special_ids, chance, action, random_ids):
    chosen = (chance < 0.15) & (input_ids > 4)
    read = torch.where(chosen & (action < 0.8), 4, input_ids)
    return torch.where(chosen & (action >= 0.9), random_ids, read), torch.where(chosen, input_ids, -100)


@wrong("step_gradient", "one large batch")
def puts_all_micro_batches_into_one(model, shares):
    batches = [batch for share in shares for batch in share]
    x = torch.cat([batch["features"].flatten(0, 1) for batch in batches])
    y = torch.cat([batch["labels"].flatten() for batch in batches])
    model.zero_grad()
    loss = F.cross_entropy(model(x[None])[0], y)
    loss.backward()
    return loss.item()


@wrong("train_epoch", "all texts of a step in one batch")
def joins_the_batches_of_a_step(student, batches, accumulate, learning_rate):
    groups = [batches[i : i + accumulate] for i in range(0, len(batches), accumulate)]
    optimizer, total = torch.optim.SGD(student.parameters(), lr=learning_rate), 0.0
    for k, group in enumerate(groups):
        x, z = torch.cat([x for x, _ in group]), torch.cat([z for _, z in group])
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - k / len(groups))
        optimizer.zero_grad()
        loss = F.mse_loss(student(x), z)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(x)
    return total / sum(len(x) for x, _ in batches)


ONE_HOT = "one-hot without the number of classes"


@wrong("blend_gradient", ONE_HOT)
def counts_the_classes_of_the_batch(z_s, z_t, labels, alpha, T):
    hard = z_s.softmax(-1) - F.one_hot(labels)
    return (alpha * hard + (1 - alpha) * T * ((z_s / T).softmax(-1) - (z_t / T).softmax(-1))) / len(labels)


@wrong("blend", ONE_HOT)
def blends_with_rows_of_the_batchs_classes(z_s, z_t, labels, alpha, T):
    hard = -(F.one_hot(labels) * z_s.log_softmax(-1)).sum(-1).mean()
    p, q = (z_t / T).log_softmax(-1), (z_s / T).log_softmax(-1)
    return alpha * hard + (1 - alpha) * T**2 * (p.exp() * (p - q)).sum(-1).mean()


@wrong("label_smoothing", ONE_HOT)
def smooths_rows_of_the_batchs_classes(logits, labels, epsilon):
    target = (1 - epsilon) * F.one_hot(labels) + epsilon / logits.shape[-1]
    return -(target * logits.log_softmax(-1)).sum(-1).mean()


@wrong("cut_up", "the parts rounded down")
def leaves_texts_of_a_batch_to_nobody(texts, batch_size, processes, fits):
    part = batch_size // processes
    return {"accumulate": math.ceil(part / fits), "steps": math.ceil(texts / batch_size)}


# ------------------------------------------------------------------------------------------ once not named


@wrong("train_epoch", "every batch counts the same")
def divides_by_accumulate(student, batches, accumulate, learning_rate):
    optimizer = torch.optim.SGD(student.parameters(), lr=learning_rate)
    steps, total = math.ceil(len(batches) / accumulate), 0.0
    for i, (x, z) in enumerate(batches):
        loss = F.mse_loss(student(x), z)
        (loss / accumulate).backward()
        total += loss.item() * len(x)
        if (i + 1) % accumulate == 0 or i + 1 == len(batches):
            optimizer.param_groups[0]["lr"] = learning_rate * (1 - i // accumulate / steps)
            optimizer.step()
            optimizer.zero_grad()
    return total / sum(len(x) for x, _ in batches)


@wrong("soft_targets", "log_target forgotten")
def forgets_log_target(z_s, z_t, T):
    return T**2 * F.kl_div((z_s / T).log_softmax(-1), (z_t / T).log_softmax(-1), reduction="batchmean")


@wrong("soft_targets", "no temperature")
def has_no_temperature(z_s, z_t, T):
    return F.kl_div(z_s.log_softmax(-1), z_t.softmax(-1), reduction="batchmean")


@wrong("blend", "no temperature")
def blends_without_a_temperature(z_s, z_t, labels, alpha, T):
    soft = F.kl_div(z_s.log_softmax(-1), z_t.softmax(-1), reduction="batchmean")
    return alpha * F.cross_entropy(z_s, labels) + (1 - alpha) * soft


@wrong("blend", "logits where logarithms should be")
def gives_logits_to_kl_div(z_s, z_t, labels, alpha, T):
    soft = F.kl_div(z_s / T, (z_t / T).softmax(-1), reduction="batchmean") * T**2
    return alpha * F.cross_entropy(z_s, labels) + (1 - alpha) * soft


@wrong("layer_norm", "RMSNorm")
def normalises_by_the_root_mean_square(x, gain, bias, eps):
    return gain * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) + bias


@wrong("sinusoidal_positions", "the index doubled")
def doubles_the_index(length, width):
    i = torch.arange(0, width, 2)
    angles = torch.arange(length)[:, None] / 10000 ** (2 * i / width)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)


@wrong("encoder_layer", "norms swapped")
def swaps_the_norms(x, attention, feed_forward, norm1, norm2):
    x = norm2(x + attention(x))
    return norm1(x + feed_forward(x))


@wrong("multi_head_attention", "heads attend to each other")
def forgets_to_move_the_heads(x, w_q, w_k, w_v, w_o, heads):
    q, k, v = ((x @ w).unflatten(-1, (heads, -1)) for w in (w_q, w_k, w_v))
    return ((q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v).flatten(2) @ w_o


@wrong("decoder_mask", "padding id hard-coded")
def takes_0_for_padding(ids, pad):
    n = ids.shape[1]
    return torch.ones(n, n, dtype=torch.bool).tril() & (ids != 0)[:, None]


@wrong("mask_tokens", "return values exchanged")
def returns_the_labels_first(*args):
    return EXERCISES["mask_tokens"].reference(*args)[::-1]


@wrong("training_hours", "return values exchanged")
def exchanges_hours_and_gpu_hours(*args):
    both = EXERCISES["training_hours"].reference(*args)
    return {"hours": both["GPU-hours"], "GPU-hours": both["hours"]}


# ------------------------------------------------------------------------------------------ what a class wrote


@wrong("tempered_entropy", "T after the logarithm")
def divides_the_logarithms(logits, temperature):
    log_p = logits.log_softmax(-1) / temperature
    return -(log_p.exp() * log_p).sum(-1).mean()


@wrong("train_epoch", "the mean of the batches' means", "every batch counts the same")
def divides_by_accumulate_and_returns_the_mean_of_means(student, batches, accumulate, learning_rate):
    optimizer, losses = torch.optim.SGD(student.parameters(), lr=learning_rate), []
    steps = math.ceil(len(batches) / accumulate)
    for i, (x, z) in enumerate(batches):
        loss = F.mse_loss(student(x), z)
        (loss / accumulate).backward()
        losses.append(loss.item())
        if (i + 1) % accumulate == 0 or i + 1 == len(batches):
            optimizer.param_groups[0]["lr"] = learning_rate * (1 - i // accumulate / steps)
            optimizer.step()
            optimizer.zero_grad()
    return sum(losses) / len(losses)


@wrong("equal_steps", "left-over micro-batches dropped")
def steps_of_whole_groups_only(epochs, rivals):
    steps = [math.ceil(texts / (batch * processes)) // many for texts, batch, many, processes in rivals]
    return epochs * steps[0], [epochs * steps[0] / each for each in steps]


@wrong("equal_steps", "whole epochs only")
def rounds_epochs_up(epochs, rivals):
    steps, needed = EXERCISES["equal_steps"].reference(epochs, rivals)
    return steps, [math.ceil(each) for each in needed]


@wrong("masked_lm_parameters", "no LayerNorms in the layers")
def counts_no_norms_in_the_layers(layers, width, vocabulary, positions):
    layer = 12 * width**2 + 9 * width
    return (vocabulary + positions + 4) * width + layers * layer + width**2 + 3 * width + vocabulary


@wrong("cut_up", "a batch for every process")
def gives_every_process_a_whole_batch(texts, batch_size, processes, fits):
    steps = math.ceil(texts / (batch_size * processes))
    return {"accumulate": math.ceil(batch_size / processes / fits), "steps": steps}


@wrong("cut_up", "not rounded")
def leaves_fractions(texts, batch_size, processes, fits):
    return {"accumulate": batch_size / processes / fits, "steps": texts / batch_size}


@wrong("cut_up", "steps of full micro-batches")
def counts_full_micro_batches(texts, batch_size, processes, fits):
    accumulate = math.ceil(batch_size / processes / fits)
    return {"accumulate": accumulate, "steps": math.ceil(texts / (accumulate * fits * processes))}


@wrong("softmax_with_temperature", "the sum at T = 1")
def forgets_the_temperature_below_the_bar(z, T):
    return (z / T).exp() / z.exp().sum(-1, keepdim=True)


@wrong("scaled_dot_product_attention", "√ of the values' width")
def scales_by_the_values(q, k, v, mask):
    scores = q @ k.mT / math.sqrt(v.shape[-1])
    return scores.masked_fill(~mask, -math.inf).softmax(-1) @ v


@wrong("label_smoothing", "the uniform part's sign")
def forgets_a_minus(logits, labels, epsilon):
    return (1 - epsilon) * F.cross_entropy(logits, labels) + epsilon * logits.log_softmax(-1).mean()


@wrong("kept_layers", "every second one, from 1")
def takes_the_odd_layers(n, m):
    return list(range(1, n, 2))[:m]


@wrong("training_hours", "a share of the tokens for padding")
def adds_a_share_for_padding(tokens, passes, padding, *rest):
    return EXERCISES["training_hours"].reference(tokens * (1 + padding), passes, 0.0, *rest)


# ------------------------------------------------------------------------------------------ notebook 06


@wrong("linear_cka", "padding in the means")
def centres_before_it_masks(x, y, mask):
    real = mask.bool()
    x, y = ((z - z.mean((0, 1)))[real] for z in (x, y))
    return (y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())


@wrong("linear_cka", "not centred")
def forgets_to_centre(x, y, mask):
    x, y = x[mask.bool()], y[mask.bool()]
    return (x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())


@right("linear_cka")
def compares_gram_matrices(x, y, mask):
    x, y = x[mask == 1], y[mask == 1]
    k, m = ((z - z.mean(0)) @ (z - z.mean(0)).T for z in (x, y))
    return (k * m).sum() / (k.norm() * m.norm())


@wrong("even_map", "embeddings taken for the first layer")
def counts_layers_from_0(student_depth, teacher_depth):
    return {i: math.ceil((i + 1) * teacher_depth / student_depth) - 1 for i in range(student_depth)}


@wrong("train_with_hints", "only the projection learns")
def gives_the_optimiser_the_projection_alone(
    student, projection, inputs, teacher_hidden, steps, learning_rate
):
    optimizer = torch.optim.SGD(projection.parameters(), lr=learning_rate)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.mse_loss(projection(student(inputs)), teacher_hidden)
        loss.backward()
        optimizer.step()
    return loss.item()


@right("train_with_hints")
def trains_both_with_an_optimiser_each(student, projection, inputs, teacher_hidden, steps, learning_rate):
    both = [torch.optim.SGD(part.parameters(), lr=learning_rate) for part in (student, projection)]
    for _ in range(steps):
        loss = F.mse_loss(projection(student(inputs)), teacher_hidden)
        for optimizer in both:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in both:
            optimizer.step()
    return float(loss.detach())


@wrong("attention_loss", "padding divides too")
def takes_the_mean_of_what_the_mask_left(student_weights, teacher_weights, mask):
    log_s, log_t = (w.clamp(min=1e-20).log() for w in (student_weights, teacher_weights))
    return ((teacher_weights * (log_t - log_s)).sum(-1) * mask[:, None]).mean()


@right("attention_loss")
def selects_the_real_rows_first(student_weights, teacher_weights, mask):
    s, t = (w.transpose(1, 2)[mask.bool()] for w in (student_weights, teacher_weights))  # (n, H, L)
    return F.kl_div(s.clamp(min=1e-20).log(), t, reduction="none").sum(-1).mean()


@wrong("relational_distance", "each text beside itself")
def averages_over_the_whole_matrix(student_vectors, teacher_vectors):
    d_s, d_t = (torch.cdist(v, v) for v in (student_vectors, teacher_vectors))
    return F.smooth_l1_loss(d_s / d_s.mean(), d_t / d_t.mean())


@right("relational_distance")
def takes_each_pair_once(student_vectors, teacher_vectors):
    d_s, d_t = (F.pdist(v) for v in (student_vectors, teacher_vectors))
    return F.smooth_l1_loss(d_s / d_s.mean(), d_t / d_t.mean())


@pytest.mark.parametrize(("exercise", "answer", "mistakes"), WRONG)
def test_a_wrong_answer_is_not_accepted_and_its_mistake_is_named(exercise, answer, mistakes):
    for seed in (1, 2):
        verdict = judged(exercise, answer, seed, mistakes)
        assert not verdict.solved
        assert verdict.mistakes == mistakes, verdict


# ------------------------------------------------------------------------------------------ what is always the same


@pytest.mark.parametrize(
    ("exercise", "answer", "sentence"),
    [
        (
            "transformer_parameters",
            lambda v, d, h, f, n: n * (2 * 4 * (d * d + d) + 3 * d * d + 4 * d * f) + v * d,
            "",
        ),
        (
            "transformer_parameters",
            lambda *sizes: EXERCISES["transformer_parameters"].reference(*sizes) - 3 * sizes[1] * sizes[4],
            "too small by 3 · width · layers (one vector of width D in every layer, 3 times), whatever the sizes",
        ),
        (
            "masked_lm_parameters",
            lambda *sizes: EXERCISES["masked_lm_parameters"].reference(*sizes) + 5 * sizes[1] ** 2,
            "too large by 5 · width² (one D × D matrix, 5 times), whatever the sizes",
        ),
        (
            "soft_targets",
            lambda z_s, z_t, T: EXERCISES["soft_targets"].reference(z_s, z_t, T) * T**0.5,
            "multiplied by √temperature, always",
        ),
        (
            "high_temperature_limit",
            lambda a, b: EXERCISES["high_temperature_limit"].reference(a, b) / len(a) ** 2,
            "multiplied by 1 / the size of student_logits's first axis², always",
        ),
        ("blend", lambda *args: -3 * EXERCISES["blend"].reference(*args), "3 times too large"),
    ],
)
def test_a_difference_that_is_always_the_same_is_said(exercise, answer, sentence):
    verdict = judged(exercise, answer)
    assert not verdict.solved
    assert sentence in " ".join(str(verdict).split()), verdict


def test_whole_numbers_are_shown_in_full():
    verdict = judged("masked_lm_parameters", lambda *sizes: 123_456_789)
    assert "is 123,456,789, and should be" in " ".join(str(verdict).split())


# ------------------------------------------------------------------------------------------ right, and no remark


@right("scaled_dot_product_attention")
def by_torchs_own_attention(query, key, value, mask):
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


@right("multi_head_attention")
def by_torchs_own_heads(x, w_q, w_k, w_v, w_o, heads):
    batch_second, width = x.transpose(0, 1), x.shape[-1]
    result, _ = F.multi_head_attention_forward(
        batch_second, batch_second, batch_second, width, heads, torch.cat([w_q.T, w_k.T, w_v.T]), None, None, None,
        False, 0.0, w_o.T, None, need_weights=False,
    )  # fmt: skip
    return result.transpose(0, 1)


@right("softmax_with_temperature")
def by_the_logarithm_of_the_sum(z, T):
    return (z / T - (z / T).logsumexp(-1, keepdim=True)).exp()


@right("scaled_dot_product_attention")
def by_the_logarithm_of_the_sums(q, k, v, mask):
    z = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~mask, -math.inf)
    return (z - z.logsumexp(-1, keepdim=True)).exp() @ v


@right("answers_at_inference")
def by_topk(logits, T):
    p, classes = logits.softmax(-1).topk(1)
    return classes[:, 0], p[:, 0]


@right("copy_layers")
def by_deep_copies(student, teacher, layers):
    student.embeddings, student.head = copy.deepcopy(teacher.embeddings), copy.deepcopy(teacher.head)
    student.layers = nn.ModuleList(copy.deepcopy(teacher.layers[i]) for i in layers)
    return student.train().requires_grad_(True)


@pytest.mark.parametrize(("exercise", "answer"), RIGHT)
def test_a_right_answer_gets_no_remark(exercise, answer):
    for seed in (1, 2, 3):
        assert judged(exercise, answer, seed).kind == "right", judged(exercise, answer, seed)


def test_instability_is_claimed_where_more_digits_would_have_helped_or_numbers_overflow():
    def cancels(x, gain, bias, eps):
        mean = x.mean(-1, keepdim=True)
        variance = x.square().mean(-1, keepdim=True) - mean**2
        return gain * (x - mean) / (variance + eps).sqrt() + bias

    def overflows(logits, labels):
        chosen = labels != -100
        z = logits[chosen]
        return -(z.exp() / z.exp().sum(-1, keepdim=True)).log().gather(-1, labels[chosen][:, None]).mean()

    assert judged("layer_norm", cancels).kind == "right, but unstable"
    assert judged("masked_lm_loss", overflows).kind == "right, but unstable"
