"""Students of another shape: what they compute, against the definitions; that no padding is read; saved and loaded."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from helpers import make_run, make_task, model, refusal, same, sharp_teacher, take, weights, without_time
from torch import nn
from transformers import BertTokenizerFast

import kdtutor as kd
from kdtutor.data.task import Split
from kdtutor.evaluation.scores import predict
from kdtutor.models.forward import forward
from kdtutor.models.load import load_model
from kdtutor.models.save import save
from kdtutor.models.sizes import sizes
from kdtutor.models.students import make_student, student_names
from kdtutor.objectives.hidden import CosineHidden, HiddenStates
from kdtutor.objectives.logits import HardLabels, SoftTargets, blend
from kdtutor.training.distillation import Distillation
from kdtutor.training.plan import plan

NAMES = ("lstm", "gru", "cnn", "static")
#: every body, every pooling, several layers
MAKERS = {
    "lstm": lambda task: kd.lstm_student(task, width=8, seed=0),
    "lstm-last": lambda task: kd.lstm_student(task, width=8, layers=2, pooling="last", seed=0),
    "lstm-mean": lambda task: kd.lstm_student(task, width=8, layers=3, pooling="mean", seed=0),
    "gru": lambda task: kd.gru_student(task, width=8, layers=2, seed=0),
    "gru-last": lambda task: kd.gru_student(task, width=8, pooling="last", seed=0),
    "cnn": lambda task: kd.cnn_student(task, width=8, filters=6, seed=0),
    "cnn-even": lambda task: kd.cnn_student(task, width=8, filters=6, kernels=(1, 2, 4), seed=0),
    "static": lambda task: kd.static_student(task, width=8, seed=0),
}


WORDS = sorted({word for text in make_task().texts("train") for word in text.split()})


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """The tiny task, read by a tokenizer of its words alone: every student is small, and made at once."""
    return make_task(tokenizer_name=tokenizer_in(tmp_path_factory.mktemp("words")))


def tokenizer_in(folder) -> str:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    BertTokenizerFast(vocab={word: i for i, word in enumerate([*special, *WORDS])}).save_pretrained(folder)
    return str(folder)


def small(name: str, task, teacher=None, seed: int = 0):
    """A student of the register, so narrow that it is made and trained at once."""
    return make_student(name, teacher, task, seed=seed, width=16, vectors="teacher" if teacher else "random")


def padded(ids: list[int], left: int = 0, right: int = 0) -> dict[str, torch.Tensor]:
    """A text as a batch of one, with words where the mask says padding: whoever reads them, answers otherwise."""
    mask = [0] * left + [1] * len(ids) + [0] * right
    junk = [6 + i for i in range(left + right)]
    return {
        "input_ids": torch.tensor([junk[:left] + ids + junk[left:]], dtype=torch.long),
        "attention_mask": torch.tensor([mask], dtype=torch.long),
    }


# ------------------------------------------------------------------------------------------- what they compute


@pytest.mark.parametrize("kind", MAKERS)
def test_no_padding_is_read_wherever_it_stands(task, kind):
    student = MAKERS[kind](task).eval()
    ids = task.encode_texts(["a red fruit of the tree"]).ids.tolist()
    for text in (ids, ids[:1], ids * 3):
        alone = student(**padded(text)).logits
        for left, right in ((0, 1), (0, 9), (3, 0), (2, 5)):
            torch.testing.assert_close(student(**padded(text, left, right)).logits, alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", [kind for kind in MAKERS if "lstm" in kind or "gru" in kind])
def test_hidden_states_are_as_wide_as_the_configuration_says_and_zero_at_padding(task, kind):
    student = MAKERS[kind](task).eval()
    ids = task.encode_texts(["a red fruit of the tree"]).ids.tolist()
    alone = student(**padded(ids), output_hidden_states=True).hidden_states
    states = student(**padded(ids, 2, 3), output_hidden_states=True).hidden_states
    assert len(states) == student.config.num_hidden_layers + 1
    for one, other in zip(states, alone, strict=True):
        assert one.shape == (1, len(ids) + 5, student.config.hidden_size)
        torch.testing.assert_close(one[:, 2:-3], other, rtol=0, atol=1e-6)
        assert not one[:, :2].any() and not one[:, -3:].any()


def read(cell: nn.Module, xs: list[torch.Tensor]) -> list[torch.Tensor]:
    """What a recurrent cell has after each token, gate by gate, in float64, from the definition."""
    w_x, w_h, b_x, b_h = (getattr(cell, f"{name}_l0").double() for name in
                          ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))  # fmt: skip
    h = c = torch.zeros(cell.hidden_size, dtype=torch.float64)
    found = []
    for x in xs:
        if isinstance(cell, nn.LSTM):
            i, f, g, o = (w_x @ x + b_x + w_h @ h + b_h).chunk(4)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        else:
            (r, z, n), (rh, zh, nh) = (w_x @ x + b_x).chunk(3), (w_h @ h + b_h).chunk(3)
            r, z = (r + rh).sigmoid(), (z + zh).sigmoid()
            h = (1 - z) * (n + r * nh).tanh() + z * h
        found.append(h)
    return found


@pytest.mark.parametrize("pooling", ["max", "mean", "last"])
@pytest.mark.parametrize("make", [kd.lstm_student, kd.gru_student])
def test_a_recurrent_student_reads_forwards_and_backwards_as_defined(task, make, pooling):
    student = make(task, width=8, layers=2, pooling=pooling, seed=3).eval()
    encoded = task.encode("train")
    found = student(**forward_inputs(encoded, torch.arange(5)))
    for row in range(5):
        ids = encoded.ids[encoded.offsets[row] : encoded.offsets[row + 1]].long()
        xs = list(student.encoder.embeddings.weight[ids].double())
        for there, back in zip(student.encoder.forwards, student.encoder.backwards, strict=True):
            ahead, behind = read(there, xs), read(back, xs[::-1])[::-1]
            xs = [torch.cat(both) for both in zip(ahead, behind, strict=True)]
        states = torch.stack(xs)
        pooled = {
            "max": states.amax(0),
            "mean": states.mean(0),
            "last": torch.cat([ahead[-1], behind[0]]),
        }[pooling]
        expected = student.classifier.weight.double() @ pooled + student.classifier.bias.double()
        torch.testing.assert_close(found.logits[row].double(), expected, rtol=0, atol=1e-5)


def forward_inputs(encoded, index) -> dict[str, torch.Tensor]:
    batch = encoded.batch(index)
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def test_a_convolutional_student_takes_each_filters_best_place(task):
    student = kd.cnn_student(task, width=8, filters=6, kernels=(2, 3), seed=3).eval()
    encoded = task.encode("train")
    found = student(**forward_inputs(encoded, torch.arange(5))).logits
    for row in range(5):
        ids = encoded.ids[encoded.offsets[row] : encoded.offsets[row + 1]].long()
        x = student.encoder.embeddings.weight[ids].double()
        features = []
        for conv in student.encoder.filters:
            (k,) = conv.kernel_size
            around = torch.cat([x.new_zeros((k - 1) // 2, 8), x, x.new_zeros(k // 2, 8)])
            for filter, bias in zip(conv.weight.double(), conv.bias.double(), strict=True):
                values = [(filter.T * around[i : i + k]).sum() + bias for i in range(len(x))]
                features.append(max(0, *(float(value.detach()) for value in values)))
        expected = student.classifier.weight.double() @ torch.tensor(features, dtype=torch.float64)
        torch.testing.assert_close(
            found[row].double(), expected + student.classifier.bias.double(), rtol=0, atol=1e-5
        )


def test_a_static_student_is_the_mean_of_its_tokens_in_any_order(task):
    student = kd.static_student(task, width=8, seed=3).eval()
    ids = task.encode_texts(["a red fruit of the tree"]).ids.tolist()
    found = student(**padded(ids)).logits
    mean = student.encoder.embeddings.weight[ids].double().mean(0)
    expected = student.classifier.weight.double() @ mean + student.classifier.bias.double()
    torch.testing.assert_close(found[0].double(), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(student(**padded(ids[::-1])).logits, found, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", MAKERS)
def test_a_text_without_a_token_gets_the_heads_bias(task, kind):
    student = MAKERS[kind](task).eval()
    with torch.no_grad():
        student.classifier.bias.copy_(torch.tensor([1.0, -2.0, 3.0]))
    bias = student.classifier.bias
    ids = task.encode_texts(["a red fruit"]).ids.tolist()
    batch = padded(ids)
    beside = {name: torch.cat([value, torch.zeros_like(value)]) for name, value in batch.items()}
    logits = student(**beside).logits
    assert torch.equal(logits[1], bias)
    torch.testing.assert_close(logits[:1], student(**batch).logits, rtol=0, atol=1e-6)
    assert torch.equal(student(**padded([])).logits, bias[None])  # a batch without a place for any token
    student.train()
    student(**padded([])).logits.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in student.parameters())


def test_the_table_of_tokens_is_found_where_transformers_looks_for_it(task):
    for make in MAKERS.values():
        student = make(task)
        table = student.get_input_embeddings()
        assert table is student.encoder.embeddings and table.num_embeddings == len(task.tokenizer)
        other = nn.Embedding(*table.weight.shape)
        student.set_input_embeddings(other)
        assert student.encoder.embeddings is other


def test_without_a_mask_the_padding_token_is_the_padding(task):
    student = MAKERS["lstm"](task).eval()
    ids = torch.tensor([task.encode_texts(["a red fruit"]).ids.tolist()])
    longer = nn.functional.pad(ids, (0, 4), value=task.tokenizer.pad_token_id)
    torch.testing.assert_close(student(longer).logits, student(ids).logits, rtol=0, atol=1e-6)


def test_labels_give_the_loss_that_transformers_models_have(task):
    student = MAKERS["cnn"](task).eval()
    out = student(**padded([5, 6, 7]), labels=torch.tensor([2]))
    torch.testing.assert_close(out.loss, nn.functional.cross_entropy(out.logits, torch.tensor([2])))


def test_the_seed_decides_the_weights_and_no_other_randomness_is_touched(task):
    for name in NAMES:
        before = torch.get_rng_state()
        one, two, other = (small(name, task, seed=seed) for seed in (1, 1, 2))
        assert torch.equal(before, torch.get_rng_state())
        assert same(weights(one), weights(two)) and not same(weights(one), weights(other))


# ------------------------------------------------------------------------------------------- what they cost


@pytest.mark.parametrize(("name", "gates"), [("lstm", 4), ("gru", 3)])
def test_sizes_of_recurrent_students_count_every_gate(task, name, gates):
    student = make_student(name, None, task, width=16, layers=2, vectors="random")
    found, half = sizes(student, 10), 8
    assert found.multiply_adds == 2 * 2 * 10 * gates * half * (16 + half) + 16 * 3
    cell = gates * half * (16 + half + 2)
    assert found.parameters == len(task.tokenizer) * 16 + 2 * 2 * cell + 16 * 3 + 3


def test_sizes_of_the_others(task):
    cnn = kd.cnn_student(task, width=16, filters=5, kernels=(3, 4))
    assert sizes(cnn, 10).multiply_adds == 10 * 16 * 5 * 7 + 10 * 3
    static = kd.static_student(task, width=16)
    assert sizes(static, 10).multiply_adds == 16 * 3
    assert sizes(static).bytes == 4 * (len(task.tokenizer) * 16 + 16 * 3 + 3)


# ------------------------------------------------------------------------------------------- the teacher's vectors


def test_token_vectors_are_the_teachers_averaged_over_where_a_token_stands(task):
    teacher = model(task, width=32)
    found = kd.models.token_vectors(teacher, task, 32, texts=3)
    assert found.shape == (len(task.tokenizer), 32) and found.dtype == torch.float32
    seen: dict[int, list] = {}
    [cls, sep] = task.encode_texts([""]).ids.tolist()
    chosen = sorted({*task.encode_texts(task.texts("train")[:3]).ids.tolist()} - {cls, sep} | {7, 8})
    texts = [[cls, i, sep] for i in chosen]
    for text in task.texts("train")[:3]:
        texts.append(task.encode_texts([text]).ids.tolist())
    for ids in texts:
        states = teacher(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]
        for i, state in zip(ids, states.detach().double(), strict=True):
            seen.setdefault(i, []).append(state)
    expected = torch.stack([torch.stack(seen[i]).mean(0) for i in chosen])
    # A principal axis more or less: all distances stay, but for one scale.
    ratio = torch.pdist(found[chosen].double()) / torch.pdist(expected)
    assert ratio.std() / ratio.mean() < 1e-4
    assert found.mean(0).abs().max() < 1e-5 and found.square().mean().sqrt() == pytest.approx(0.1)


def test_token_vectors_keep_the_axes_that_vary_most_and_fill_up_with_zeros(task):
    teacher = model(task, width=32)
    whole, half, wide = (kd.models.token_vectors(teacher, task, width, texts=3) for width in (32, 16, 40))
    scale = half[:, 0].norm() / whole[:, 0].norm()
    torch.testing.assert_close(half, scale * whole[:, :16], rtol=1e-3, atol=1e-4)
    assert whole.var(0).diff().max() < 1e-6  # the largest first
    assert wide.shape[1] == 40 and not wide[:, 32:].any()


@pytest.mark.parametrize("name", NAMES)
def test_a_student_starts_from_them_or_at_random(task, name):
    teacher = model(task, width=32)
    vectors = kd.models.token_vectors(teacher, task, 16)
    assert torch.equal(small(name, task, teacher).encoder.embeddings.weight, vectors)
    random = make_student(name, teacher, task, seed=0, width=16, vectors="random")
    assert not torch.equal(random.encoder.embeddings.weight, vectors)
    assert "vectors must be teacher or random" in refusal(
        make_student, name, teacher, task, vectors="word2vec"
    )


# ------------------------------------------------------------------------------------------- in the loop


@pytest.mark.parametrize("name", NAMES)
def test_each_is_in_the_register_and_learns_from_a_teacher_whose_answers_are_cached(task, name):
    assert name in student_names()
    teacher, student = sharp_teacher(task), small(name, task)
    run = make_run(task, SoftTargets(2), student=student, teacher=teacher, epochs=20, learning_rate=2e-2)
    assert "cached in memory" in run.teacher_mode
    losses = [row["loss"] for row in run.run()]
    assert sum(losses[-6:]) < 0.5 * sum(losses[:6])
    assert predict(student, task).isfinite().all()
    assert kd.evaluate(student, task, teacher=teacher).latency_ms > 0


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_in_bf16_and_with_variants_of_the_texts(task, name):
    wider, teacher, student = kd.augment(task, copies=2), sharp_teacher(task), small(name, task)
    how = {"student": student, "teacher": teacher, "epochs": 8, "learning_rate": 2e-2, "precision": "bf16"}
    losses = [row["loss"] for row in make_run(wider, SoftTargets(2), **how).run()]
    assert sum(losses[-6:]) < 0.5 * sum(losses[:6])
    assert predict(student, task).isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_is_bit_identical(task, name, tmp_path):
    def run(folder: str, seed: int = 0):
        student = small(name, task, seed=seed)
        return make_run(task, student=student, epochs=2, save_every=4, folder=tmp_path / folder)

    straight = run("straight")
    straight.run()
    take(run("stopped"), 5)
    resumed = run("stopped", seed=7).resume()
    assert resumed.done == 4
    resumed.run()
    assert same(weights(resumed.student), weights(straight.student))
    assert without_time(resumed.history) == without_time(straight.history)


@pytest.mark.parametrize("name", NAMES)
def test_cut_into_micro_batches_a_step_is_the_same(task, name):
    def last(**settings) -> dict[str, torch.Tensor]:
        student = small(name, task)
        kd.models.set_dropout(student, 0)
        run = make_run(task, blend(alpha=0.3, temperature=2), student=student, steps=3, **settings)
        run.run()
        return weights(student)

    whole, cut = last(), last(accumulate=3)
    for key, value in whole.items():
        torch.testing.assert_close(cut[key], value, rtol=0, atol=1e-5)


def test_other_kinds_of_tasks(task):
    values = make_task("regression", tokenizer_name=task.tokenizer_name)
    student = small("gru", values)
    make_run(values, HardLabels(), student=student, steps=2).run()
    assert predict(student, values).shape == (12, 1)
    said = refusal(kd.lstm_student, make_task("masked-lm"))
    assert said == (
        'a RecurrentForSequenceClassification answers a text as a whole, but "tiny" is a masked-lm task'
    )


def test_empty_texts_in_a_task_are_learned_from_without_nan(task):
    """Of a tokenizer without special tokens an empty text has no token at all."""
    bare = task.encode_texts(["", "a red fruit"])
    cut = replace(bare, offsets=torch.tensor([0, 0, 3]), ids=bare.ids[3:6], labels=torch.tensor([0, 1]))
    for name in NAMES:
        student = small(name, task)
        for index in (torch.tensor([0]), torch.tensor([0, 1])):
            batch = cut.batch(index)
            loss = nn.functional.cross_entropy(forward(student.train(), batch).logits, batch["labels"])
            loss.backward()
        assert loss.isfinite() and all(p.grad.isfinite().all() for p in student.parameters())


def test_a_plan_is_made_of_them(task):
    assert plan(small("lstm", task), None, task, HardLabels(), steps=2, batch_size=8).seconds > 0


# ------------------------------------------------------------------------------------------- what they don't have


@pytest.mark.parametrize("name", NAMES)
def test_what_a_student_does_not_have_is_refused_before_the_first_step(task, name):
    student, teacher = small(name, task), sharp_teacher(task)

    class Maps(SoftTargets):
        needs = frozenset({"logits", "attentions"})

    said = refusal(make_run, task, Maps(2), student=student, teacher=teacher)
    assert said == f"Maps reads attentions, and the student, a {type(student).__name__}, has none"
    said = refusal(make_run, task, kd.AttentionMaps(), student=student, teacher=teacher)
    assert said == f"AttentionMaps reads keys, and the student, a {type(student).__name__}, has none"
    if name in ("cnn", "static"):
        said = refusal(make_run, task, HiddenStates(), student=student, teacher=teacher)
        assert said == (
            f"HiddenStates reads hidden states, and the student, a {type(student).__name__}, has none"
        )
        assert "has no hidden states" in refusal(student, **padded([5]), output_hidden_states=True)
    assert "has no attentions" in refusal(student, **padded([5]), output_attentions=True)


def test_an_lstm_learns_hidden_states_through_a_projection_or_of_its_own_width(task):
    teacher = sharp_teacher(task)  # of width 32
    run = make_run(task, HiddenStates({-1: -1, 0: 0}), student=small("lstm", task), teacher=teacher)
    assert [tuple(p.weight.shape) for p in run.objective.terms[0].projections] == [(32, 16)] * 2
    assert all(torch.isfinite(torch.tensor(row["loss"])) for row in run.run())
    wide = make_student("lstm", teacher, task, width=32, vectors="random")
    make_run(task, CosineHidden(), student=wide, teacher=teacher, steps=2).run()


def test_sizes_that_can_not_be_are_named(task):
    assert refusal(kd.lstm_student, task, width=7) == "width 7 is odd: each of two directions has half of it"
    assert "pooling must be max, mean or last" in refusal(kd.gru_student, task, pooling="first")
    assert "kernels are the widths" in refusal(kd.cnn_student, task, kernels=())
    assert "filters must be a whole number, 1 or more" in refusal(kd.cnn_student, task, filters=0)
    assert "dropout must be a fraction" in refusal(kd.static_student, task, dropout=1)
    assert kd.static_student(task, dropout=0).dropout.p == 0  # a whole number, but none of a size
    assert "has no option layers" in refusal(make_student, "static", None, task, layers=2)
    said = refusal(kd.half_depth, small("lstm", task))
    assert said.startswith("half_depth can't cut a RecurrentForSequenceClassification")


# ------------------------------------------------------------------------------------------- saved and loaded


@pytest.fixture(scope="module")
def saved(task, tmp_path_factory):
    """Every student, saved, and its logits."""
    folder, found = tmp_path_factory.mktemp("shapes"), {}
    for kind, make in MAKERS.items():
        student = make(task).eval()
        save(student, task, folder / kind)
        found[kind] = student(**forward_inputs(task.encode("test"), torch.arange(12))).logits.detach()
    return folder, found


@pytest.mark.parametrize("kind", MAKERS)
def test_saved_and_loaded_it_answers_the_same(task, saved, kind):
    folder, found = saved
    again = load_model(folder / kind, task).eval()
    assert torch.equal(
        again(**forward_inputs(task.encode("test"), torch.arange(12))).logits.detach(), found[kind]
    )
    said = refusal(load_model, folder / kind, make_task("masked-lm"))
    assert "has no masked LM" in said or "answers with classes" in said


@pytest.mark.slow
def test_a_new_process_needs_one_import_for_auto_classes_and_pipelines(task, saved):
    folder, found = saved
    code = f"""
import kdtutor.models
from transformers import AutoConfig, AutoModelForSequenceClassification, pipeline
for kind in {[*MAKERS]}:
    folder = {str(folder)!r} + "/" + kind
    assert AutoConfig.from_pretrained(folder).model_type.startswith("kdtutor-")
    AutoModelForSequenceClassification.from_pretrained(folder)
    classify = pipeline("text-classification", folder, top_k=None, device="cpu")
    for text in ("a red fruit", "a red fruit of the tree that lives near water " * 9):
        one, = classify([text], truncation=True)
        two, _ = classify([text, "a longer text that eats all " * 4], truncation=True, batch_size=2)
        assert all(abs(a["score"] - b["score"]) < 1e-6 for a, b in zip(one, two))
    scores = {{entry["label"]: entry["score"] for entry in classify({task.texts("test")[:1]})[0]}}
    print(*(scores[name] for name in {task.labels}))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert "not supported" not in ran.stderr
    for line, logits in zip(ran.stdout.splitlines(), found.values(), strict=True):
        assert [*map(float, line.split())] == pytest.approx(logits[0].softmax(-1).tolist(), abs=1e-5)


def test_a_student_can_teach(task, saved):
    folder, _ = saved
    teacher = kd.load_teacher(task, folder / "lstm")
    run = Distillation(small("static", task), teacher, task, SoftTargets(2), steps=2, batch_size=8,
                       check_teacher=False)  # fmt: skip
    assert len(run.run()) == 2


def test_two_texts_of_a_pair_are_read_one_behind_the_other(task):
    pairs = {
        name: Split((part.texts[0], part.texts[0][::-1]), part.targets) for name, part in task.splits.items()
    }
    task = replace(task, splits=pairs)
    student = small("lstm", task)
    make_run(task, HardLabels(), student=student, steps=2).run()
    assert predict(student, task).isfinite().all()


# ------------------------------------------------------------------------------------------- on a GPU


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.gpu
def test_on_a_gpu_it_learns_and_answers_as_on_the_cpu(task, name, precision):
    student = small(name, task)
    run = make_run(task, SoftTargets(2), student=student, epochs=20, learning_rate=2e-2, precision=precision)
    losses = [row["loss"] for row in run.run()]
    assert sum(losses[-6:]) < 0.5 * sum(losses[:6])
    there = predict(student, task)
    torch.testing.assert_close(predict(student.cpu(), task), there, rtol=1e-3, atol=1e-3)
