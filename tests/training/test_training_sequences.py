"""Causal language models and encoder–decoders in the loop: what is predicted, from what, and at what average."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers import make_run, make_task, model, processes, refusal, same, sharp_teacher, weights
from torch import nn

from kdtutor.data.tokens import IGNORED
from kdtutor.models.forward import forward, inputs_of
from kdtutor.models.students import small_bert, small_gpt2, small_seq2seq
from kdtutor.objectives.hidden import CosineHidden
from kdtutor.objectives.logits import HardLabels, SoftTargets
from kdtutor.objectives.sequences import GeneralisedJSD, ReverseKL, SkewedKL, SkewedReverseKL
from kdtutor.training import checkpoints
from kdtutor.training.batches import Batches
from kdtutor.training.control import control_of
from kdtutor.training.plan import plan
from kdtutor.widgets.live import LiveDistillation

KINDS = ("causal-lm", "seq2seq")
GOAL = 0.5 * HardLabels() + 0.5 * SoftTargets(2)


@pytest.fixture(params=KINDS)
def task(request):
    return make_task(request.param)


def a_batch(task, of: int = 8) -> dict:
    encoded = task.encode("train")
    return task.rules.with_labels(encoded.batch(torch.arange(of)), task.tokenizer, 0.0, None)


def test_a_causal_lm_learns_at_each_place_the_token_that_stands_next():
    task = make_task("causal-lm")
    encoded, batch = task.encode("train"), a_batch(task)
    for row in range(8):
        ids = encoded.ids[encoded.offsets[row] : encoded.offsets[row + 1]].tolist()
        expected = [*ids[1:], *[IGNORED] * (batch["labels"].shape[1] - len(ids) + 1)]
        assert batch["labels"][row].tolist() == expected


def test_the_end_of_a_text_is_learned_though_the_same_token_pads():
    task = make_task("causal-lm")
    task.tokenizer.pad_token, given = task.tokenizer.sep_token, task.tokenizer.pad_token
    try:
        batch = a_batch(make_task("causal-lm"))
    finally:
        task.tokenizer.pad_token = given
    end = task.tokenizer.sep_token_id
    assert ((batch["labels"] == end).sum(1) == 1).all()


def test_a_decoder_reads_what_it_is_to_write_one_place_later():
    task = make_task("seq2seq")
    student, batch = model(task), a_batch(task)
    read = inputs_of(student, batch)["decoder_input_ids"]
    assert (read[:, 0] == task.tokenizer.cls_token_id).all()
    assert torch.equal(read[:, 1:], batch["target_ids"][:, :-1])
    written = batch["target_mask"].bool()
    assert torch.equal(batch["labels"][written], batch["target_ids"][written])
    assert (batch["labels"][~written] == IGNORED).all()


def reference_loss(student, teacher, batch, temperature: float = 2.0) -> float:
    """Compute the mean over tokens of ½ cross-entropy + ½ T² KL in float64, from transformers' own forward pass."""

    def logits(net: nn.Module) -> torch.Tensor:
        given = {name: batch[name] for name in ("input_ids", "attention_mask")}
        if "target_ids" in batch:
            given["labels"] = batch["labels"].clone()  # transformers shifts them itself
            return net.double().eval()(**given).logits
        return net.double().eval()(**given).logits[:, :-1]

    labels = batch["labels"] if "target_ids" in batch else batch["input_ids"][:, 1:]
    real = batch["target_mask"] if "target_ids" in batch else batch["attention_mask"][:, 1:]
    total, count = 0.0, 0
    with torch.no_grad():
        z_s, z_t = logits(student), logits(teacher)
        for row, column in real.nonzero().tolist():
            s, t = z_s[row, column], z_t[row, column]
            hard = -s.log_softmax(-1)[labels[row, column]]
            p = (t / temperature).softmax(-1)
            soft = temperature**2 * (p * (p.log() - (s / temperature).log_softmax(-1))).sum()
            total, count = total + float(0.5 * hard + 0.5 * soft), count + 1
    return total / count


@pytest.mark.parametrize("chunked", [True, False])
def test_the_loss_is_the_mean_over_the_tokens_that_are_predicted(task, chunked):
    student, teacher = model(task), sharp_teacher(task)
    expected = [copy_of(student, task), copy_of(teacher, task)]
    run = make_run(task, GOAL, student=student, teacher=teacher, steps=1, batch_size=8, chunked=chunked)
    index = run.batches.index(0)
    batch = task.rules.with_labels(task.encode("train").batch(index), task.tokenizer, 0.0, None)
    run.run()
    assert run.chunked == chunked
    assert run.history[0]["loss"] == pytest.approx(reference_loss(*expected, batch), rel=1e-5)


def copy_of(net, task):
    other = type(net)(net.config)
    other.load_state_dict(net.state_dict())
    return other


def test_cutting_a_batch_and_the_vocabulary_changes_nothing(task):
    plain, *others = (
        [row["loss"] for row in make_run(task, GOAL, steps=4, **how).run()]
        for how in ({"chunked": False}, {"chunked": True}, {"accumulate": 3})
    )
    for other in others:
        assert other == pytest.approx(plain, rel=1e-5)


def test_padding_is_no_token_of_a_term_and_of_no_count(task):
    run = make_run(task, GOAL, steps=1, batch_size=8)
    [batch] = run.batches[0]
    predicted = run.batches.data.written or run.batches.data
    lengths = predicted.lengths[batch["index"]] - (0 if predicted is run.batches.data.written else 1)
    assert run._counts([batch]).tolist() == [int(lengths.sum())] * 2


def test_a_teacher_cached_with_all_its_logits_is_the_teacher(task):
    asked, kept = (
        make_run(task, GOAL, steps=4, cache=cache) for cache in (True, f"topk:{len(task.tokenizer)}")
    )
    losses = [[row["loss"] for row in run.run()] for run in (asked, kept)]
    assert "asked at every step" in asked.teacher_mode
    assert "cached in memory" in kept.teacher_mode
    assert "masks" not in kept.teacher_mode
    # It is kept in float16.
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)


@pytest.mark.parametrize("term", [ReverseKL(), GeneralisedJSD(0.5), SkewedKL(), SkewedReverseKL()])
def test_what_asks_about_every_token_can_not_learn_from_the_largest_logits(term):
    name = type(term).__name__
    assert refusal(make_run, make_task("causal-lm"), HardLabels() + term, cache="topk:4") == (
        f"the teacher's answers can't be cached as topk:4: {name} asks about every token that the student might write, "
        "also those that are left out: learn by SoftTargets(…), or leave cache alone"
    )


def test_a_checkpoint_is_resumed_bit_by_bit(task, tmp_path):
    whole = make_run(task, GOAL, steps=6, dropout=0.1)
    whole.run()
    run = make_run(task, GOAL, steps=6, dropout=0.1, folder=tmp_path, save_every=3)
    for step in run:
        if step.number == 3:
            break
    again = make_run(task, GOAL, steps=6, dropout=0.1, folder=tmp_path, save_every=3).resume()
    again.run()
    assert same(weights(again.student), weights(whole.student))


def test_the_control_learns_from_the_labels_alone(task):
    twin = control_of(make_run(task, GOAL, steps=2))
    assert repr(twin.objective) == "HardLabels()"
    assert twin.teacher is None


def test_it_is_planned(task):
    planned = plan(model(task), sharp_teacher(task), task, GOAL, steps=2, batch_size=8)
    encoded = task.encode("train")
    assert planned.memory["logits"] > 0
    assert planned.length == max(int(part.lengths.max()) for part in (encoded, encoded.written or encoded))
    assert planned.seconds > 0


def test_texts_are_batched_by_all_that_is_read_and_written():
    task = make_task("seq2seq")
    data = task.encode("train")
    batches = Batches(task, data, 8)
    assert torch.equal(data.token_counts, data.lengths + data.written.lengths)
    assert batches.tokens(0) == int(data.token_counts[batches.index(0)].sum())
    assert batches.tokens_of_a_pass() == int(data.token_counts.sum())


def test_an_encoder_is_no_causal_lm():
    task = make_task("causal-lm")
    assert "small-gpt2" in refusal(small_bert, task)
    from transformers import BertLMHeadModel

    ahead = BertLMHeadModel(small_bert(make_task("masked-lm"), 1, 32).config)
    said = refusal(make_run, task, HardLabels(), student=ahead)
    assert "the student, a BertLMHeadModel, reads the tokens that it is to predict" in said


def test_models_of_one_kind_are_refused_by_the_tasks_of_another():
    causal, writes, masked = (make_task(kind) for kind in (*KINDS, "masked-lm"))
    assert 'the student is a GPT2LMHeadModel, but "tiny" is a masked-lm task' in refusal(
        make_run, masked, HardLabels(), student=small_gpt2(causal, 1, 32)
    )
    assert "the teacher is a BartForConditionalGeneration" in refusal(
        make_run, causal, GOAL, teacher=small_seq2seq(writes, 1, 32)
    )
    assert "A GPT-2 predicts next tokens" in refusal(small_gpt2, writes)
    assert "An encoder–decoder writes" in refusal(small_seq2seq, causal)


def test_an_encoder_decoder_has_to_say_what_its_decoder_begins_with():
    task = make_task("seq2seq")
    student = model(task)
    student.config.decoder_start_token_id = None
    assert "which token its decoder begins with" in refusal(make_run, task, HardLabels(), student=student)


def test_a_live_run_shows_them(task):
    run = make_run(task, GOAL, steps=2)
    live = LiveDistillation(run)
    assert live.plan["twin"] == "hard labels alone"


def test_a_batch_of_a_causal_lm_needs_no_second_forward_pass_for_the_features(task):
    student, batch = model(task).eval(), a_batch(task)
    rows = task.rules.counted(batch, "valid").flatten().nonzero()[:, 0]
    with torch.no_grad():
        whole = forward(student, batch).logits.flatten(0, 1)[rows]
        chosen = forward(student, batch, rows=rows)
        features = forward(student, batch, frozenset({"features"}), rows)
    assert torch.allclose(chosen.logits, whole, atol=1e-5)
    assert torch.allclose(features.unembedding(features.features)[: len(rows)], whole, atol=1e-5)


def test_raw_text_is_read_as_the_other_kind_by_name():
    from kdtutor.data.load import load_task

    masked, causal = load_task("glosses"), load_task("glosses", kind="causal-lm")
    assert (masked.kind, causal.kind) == ("masked-lm", "causal-lm")
    assert masked.fingerprint != causal.fingerprint
    assert replace(causal, kind="masked-lm").fingerprint == masked.fingerprint
    assert "can't be read as a causal-lm task" in refusal(load_task, "sentiment", kind="causal-lm")


@pytest.mark.parametrize("how", [{"chunked": True}, {"chunked": False}, {"cache": "topk:500"}])
def test_a_teacher_whose_table_is_rounded_up_teaches_as_if_it_were_not(task, how):
    teacher = sharp_teacher(task)
    rounded = copy_of(teacher, task)
    rounded.resize_token_embeddings(len(task.tokenizer) + 64, mean_resizing=False)
    with torch.no_grad():
        rounded.get_input_embeddings().weight[-64:] = 50.0  # were they not left out, they would be likeliest
    assert rounded.config.vocab_size == len(task.tokenizer) + 64
    losses = [
        [row["loss"] for row in make_run(task, GOAL, teacher=each, steps=3, **how).run()]
        for each in (teacher, rounded)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_a_student_with_more_tokens_than_its_teacher_is_refused(task):
    student = model(task)
    student.resize_token_embeddings(len(task.tokenizer) + 64)
    said = refusal(make_run, task, GOAL, student=student)
    assert "student.resize_token_embeddings(12000) makes them alike" in said


def test_a_teacher_with_another_vocabulary_is_refused(task):
    teacher = sharp_teacher(task)
    teacher.resize_token_embeddings(len(task.tokenizer) + 1000)
    assert "they must share one vocabulary" in refusal(make_run, task, GOAL, teacher=teacher)


def run_of(kind: str, folder=None):
    """Sentences of 17, so that the last batch has one, and one of two processes nothing."""
    return make_run(make_task(kind, rows=17), GOAL, epochs=1, accumulate=2, learning_rate=1e-4, folder=folder)


SCRIPT = """
from test_training_sequences import run_of
for kind in ("causal-lm", "seq2seq"):
    run_of(kind, {folder!r} + "/" + kind).run()
"""


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tmp_path):
    results = processes(2, SCRIPT.format(folder=str(tmp_path)))
    assert [result.returncode for result in results] == [0, 0], results[0].stderr + results[1].stderr
    for kind in KINDS:
        alone = run_of(kind)
        alone.run()
        history = checkpoints.read(checkpoints.found(tmp_path / kind)[-1], "cpu").history
        assert [row["loss"] for row in history] == pytest.approx(
            [row["loss"] for row in alone.history], abs=1e-5
        )
        assert [row["tokens"] for row in history] == [row["tokens"] for row in alone.history]


def test_what_lies_inside_encoder_and_decoder_is_not_compared():
    said = refusal(make_run, make_task("seq2seq"), HardLabels() + CosineHidden())
    assert "compares hidden states" in said
    assert "of an encoder–decoder only logits are compared" in said


def test_hidden_states_of_causal_lms_are_compared():
    history = make_run(make_task("causal-lm"), GOAL + CosineHidden(), steps=3).run()
    assert all(0 < row["CosineHidden"] < 2 for row in history)
