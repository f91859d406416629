"""On-policy distillation: the student writes, the teacher judges what was written and nothing else, and runs resume."""

from __future__ import annotations

import pytest
import torch
from helpers import make_run, make_task, refusal, same, take, weights, without_time

import kdtutor as kd
from kdtutor.data.tokens import IGNORED, end_of_text
from kdtutor.training import on_policy
from kdtutor.training.on_policy import Writing, prompts_of, with_written

ENDS = {"max_norm": 1e9, "precision": "fp32", "progress": False, "batch_size": 8, "check_teacher": False}


@pytest.fixture(scope="module", params=["causal-lm", "seq2seq"])
def task(request):
    if request.param == "seq2seq":
        return kd.load_task("pronunciation").subset(40)
    return kd.load_task("glosses", kind="causal-lm", max_length=16).subset(40)


def model(task, seed, dropout=0.0):
    make = kd.small_seq2seq if task.rules.writes else kd.small_gpt2
    drawn = make(task, layers=1, width=32, dropout=dropout, seed=seed)
    with torch.no_grad():  # random models are all but uniform: make them believe something
        drawn.get_output_embeddings().weight *= 8
    return drawn


def make(task, objective=None, how=None, dropout=0.0, **settings):
    how = kd.OnPolicy(max_new_tokens=6) if how is None else how
    objective = kd.GeneralisedJSD(0.3) if objective is None else objective
    settings = ENDS | {"steps": 6} | settings
    return kd.Distillation(
        model(task, 1, dropout), model(task, 2), task, objective, on_policy=how, **settings
    )


def by_hand(run, batch):
    """The mean divergence over the written tokens, text by text without padding, with transformers alone."""
    losses, reads = [], run.task.rules.writes
    rows = torch.zeros(batch["input_ids"].shape if not reads else batch["target_ids"].shape, dtype=torch.bool)
    rows.view(-1)[batch["rows"]] = True
    for i in range(len(batch["input_ids"])):
        text = batch["input_ids"][i][batch["attention_mask"][i].bool()][None]
        inputs = {"input_ids": text}
        if reads:
            written = batch["target_ids"][i][batch["target_mask"][i].bool()]
            start = torch.tensor([run.student.config.decoder_start_token_id])
            inputs["decoder_input_ids"] = torch.cat([start, written[:-1]])[None]
            expected = len(written)
        else:
            expected = text.shape[1] - int(rows[i].nonzero()[0]) - 1
        z_s, z_t = (m.eval()(**inputs).logits[0] for m in (run.student, run.teacher))
        where = rows[i].nonzero()[:, 0]
        assert len(where) == expected, "every written token has its row, and nothing else has"
        p, q = (z.double().softmax(-1)[where] for z in (z_t, z_s))
        m = 0.3 * p + 0.7 * q
        losses.append(0.3 * (p * (p / m).log()).sum(-1) + 0.7 * (q * (q / m).log()).sum(-1))
    return torch.cat(losses).mean()


def test_a_step_learns_what_the_teacher_says_of_each_written_token_and_of_no_other(task):
    run = make(task)
    [batch] = run.writing.instead_of(run.batches[0], 0)
    loss = by_hand(run, batch)
    # The tokens are given: the gradient goes through the divergence at each, not through their choice.
    gradients = torch.autograd.grad(loss, [*run.student.parameters()], allow_unused=True)
    [step] = take(run, 1)
    assert step.loss == pytest.approx(loss.item(), rel=1e-4)
    for parameter, gradient in zip(run.student.parameters(), gradients, strict=True):
        if gradient is not None:
            torch.testing.assert_close(parameter.grad, gradient.float(), rtol=2e-3, atol=2e-6)


def test_what_is_written_begins_with_the_prompt_and_is_the_students(task):
    run = make(task)
    [data] = run.batches[0]
    [batch] = run.writing.instead_of([data], 0)
    if task.rules.writes:
        assert torch.equal(batch["input_ids"], data["input_ids"])
        assert batch["target_ids"].shape[1] <= 6
        assert not torch.equal(batch["target_ids"], data["target_ids"][:, :6])
    else:
        # The first four tokens of each text, or all but the end of a shorter one.
        lengths = (data["attention_mask"].sum(1) - 1).clamp(max=4)
        for mine, theirs, n in zip(batch["input_ids"], data["input_ids"], lengths, strict=True):
            assert torch.equal(mine[:n], theirs[:n])
        assert (batch["attention_mask"].sum(1) - lengths <= 6).all()
        assert (batch["attention_mask"].sum(1) > lengths).all()


def test_who_writes_nothing_is_taught_where_it_stopped(task, monkeypatch):
    """Each text is its end alone: one token for each, and no division by none."""
    end = end_of_text(task.tokenizer)

    def nothing(student, task, prompts, **how):
        ids = torch.full((len(prompts["index"]), 1), end)
        return ids, torch.ones_like(ids, dtype=torch.bool)

    monkeypatch.setattr(on_policy, "generated_ids", nothing)
    run = make(task)
    [batch] = run.writing.instead_of(run.batches[0], 0)
    assert len(batch["rows"]) == len(batch["index"]) == 8
    expected = by_hand(run, batch).item()
    assert expected > 0 and take(run, 1)[0].loss == pytest.approx(expected, rel=1e-4)


def test_what_the_student_wrote_is_no_truth(task):
    run = make(task, kd.HardLabels() + kd.GeneralisedJSD(0.5))
    [batch] = run.writing.instead_of(run.batches[0], 0)
    assert (batch["labels"] == IGNORED).all() and len(batch["labels"]) == len(batch["rows"])
    [step] = take(run, 1)
    assert step.terms["HardLabels"] == 0
    assert step.terms["GeneralisedJSD"] > 0


def test_lambda_mixes_in_the_datas_texts_and_seed_and_step_decide_which():
    task = kd.load_task("pronunciation").subset(40)
    run = make(task, how=kd.OnPolicy(share=0.4, max_new_tokens=3))
    micro = run.batches[0]
    own = [run.writing.instead_of(micro, step) is not micro for step in range(60)]
    assert 12 <= sum(own) <= 36
    # Every process decides alike, and writes something else.
    other = Writing(run.student, task, run.writing.how, run.seed, rank=1)
    assert own == [other.instead_of(micro, step) is not micro for step in range(60)]
    step = own.index(True)
    mine, theirs = (w.instead_of(micro, step)[0]["target_ids"] for w in (run.writing, other))
    assert mine.shape != theirs.shape or not torch.equal(mine, theirs)


def test_a_resumed_run_writes_what_it_would_have_written(task, tmp_path):
    settings = {"how": kd.OnPolicy(share=0.7, max_new_tokens=5), "dropout": 0.1}
    whole = make(task, **settings)
    whole.run()
    broken = make(task, **settings, folder=tmp_path, save_every=1)
    take(broken, 3)
    torch.manual_seed(123)  # nothing depends on what was drawn in between
    resumed = make(task, **settings, folder=tmp_path, save_every=1).resume()
    assert resumed.done == 3
    resumed.run()
    assert same(weights(whole.student), weights(resumed.student))
    assert without_time(whole.history) == without_time(resumed.history)
    assert "on_policy" in refusal(make(task, how=kd.OnPolicy(share=0.6), dropout=0.1, folder=tmp_path).resume)


def test_writing_changes_no_random_state_and_the_likeliest_needs_none(task):
    run = make(task, how=kd.OnPolicy(temperature=None, max_new_tokens=4))
    run.student.train()
    before = torch.get_rng_state()
    [a], [b] = (run.writing.instead_of(run.batches[0], step) for step in (0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert run.student.training
    name = "target_ids" if task.rules.writes else "input_ids"
    assert torch.equal(a[name], b[name])


# ------------------------------------------------------------------------------------------------ batches


def test_a_prompt_is_followed_by_what_was_written_without_a_gap():
    task = kd.load_task("glosses", kind="causal-lm")
    pad = task.tokenizer.pad_token_id
    batch = {
        "input_ids": torch.tensor([[7, 8, 9, 10, 11], [7, 5, pad, pad, pad]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]),
        "index": torch.tensor([0, 1]),
    }
    prompts = prompts_of(task, batch, 3)
    assert prompts["input_ids"].tolist() == [[7, 8, 9], [7, pad, pad]]
    assert prompts["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    ids, mask = torch.tensor([[20, 21, pad], [30, 31, 32]]), torch.tensor([[True, True, False], [True] * 3])
    found = with_written(task, prompts, ids, mask)
    assert found["input_ids"].tolist() == [[7, 8, 9, 20, 21], [7, 30, 31, 32, pad]]
    assert found["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
    none = IGNORED
    assert found["labels"].tolist() == [[none, none, 20, 21, none], [30, 31, 32, none, none]]


# ------------------------------------------------------------------------------------------------ refusals


def test_what_can_not_be_is_refused_before_the_first_step():
    task = kd.load_task("pronunciation").subset(8)
    assert "share must be a fraction above 0, at most 1, not 0" in refusal(kd.OnPolicy, share=0)
    assert "temperature" in refusal(kd.OnPolicy, temperature=0)
    assert "prompt" in refusal(kd.OnPolicy, prompt=0)
    assert "on_policy must be OnPolicy" in refusal(make, task, how=0.5)
    assert "as if they were right" in refusal(make, task, kd.HardLabels())
    assert "leave cache alone" in refusal(make, task, kd.SoftTargets(2), cache=kd.TopK(4))
    tiny = make_task()
    assert "nothing is written in tiny" in refusal(make_run, tiny, on_policy=kd.OnPolicy())
