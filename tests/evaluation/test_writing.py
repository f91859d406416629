"""What language models write, and how it is measured: errors per token, exact answers, and the true tokens' chances."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import make_task, model, refusal

from kdtutor.data.tokens import end_of_text
from kdtutor.evaluation import edit_distance, error_rates, evaluate, token_scores, written_scores
from kdtutor.models.students import small_gpt2
from kdtutor.models.writing import generate, generated_ids, prompts


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("kitten", "sitting", 3),
        ("", "abc", 3),
        ("abc", "", 3),
        ("abc", "abc", 0),
        ("ab", "ba", 2),
        ("flaw", "lawn", 2),
    ],
)
def test_the_edit_distance_is_the_fewest_edits(a, b, expected):
    assert edit_distance(a, b) == expected == edit_distance(b, a)


def test_errors_are_counted_per_token_of_all_references_together():
    found = error_rates(["K AE T", "D AO", ""], ["K AE T", "D AO G", "B IY"])
    assert found["error_rate"] == (0 + 1 + 2) / 8
    assert found["exact"] == 1 / 3
    # The linearised variance of Σe / Σl, in plain numbers.
    rate, pairs = 3 / 8, [(0, 3), (1, 3), (2, 2)]
    spread = sum((e - rate * length) ** 2 for e, length in pairs) * 3 / 2
    assert found["error_rate_half_width"] == pytest.approx(1.96 * math.sqrt(spread) / 8)


def test_the_interval_holds_the_true_rate_as_often_as_it_says():
    draw, inside = torch.Generator().manual_seed(0), 0
    for _ in range(200):
        right = (torch.rand(200, 5, generator=draw) > 0.2).tolist()
        found = error_rates(
            [" ".join("a" if ok else "b" for ok in row) for row in right], ["a a a a a"] * 200
        )
        inside += abs(found["error_rate"] - 0.2) <= found["error_rate_half_width"]
    assert 180 <= inside <= 198


def test_what_can_not_be_measured_is_named():
    assert "reference 1 is empty" in refusal(error_rates, ["a", "b"], ["a", " "])
    assert "2 texts for 1 references" in refusal(error_rates, ["a", "b"], ["a"])


@pytest.mark.parametrize("kind", ["causal-lm", "seq2seq"])
def test_scores_are_means_over_all_tokens_of_the_split(kind):
    task = make_task(kind)
    student = model(task)
    found = token_scores(student, task, "test", batch_size=5)
    total, right, count = 0.0, 0, 0
    for row in range(len(task.split("test"))):
        batch = task.encode("test").batch(torch.tensor([row]))
        if kind == "causal-lm":
            labels = batch["input_ids"][0, 1:]
            with torch.no_grad():
                z = student.double().eval()(batch["input_ids"]).logits[0, :-1]
        else:
            labels = batch["target_ids"][0]
            with torch.no_grad():
                z = student.double().eval()(batch["input_ids"], labels=labels[None]).logits[0]
        total -= float(z.log_softmax(-1).gather(1, labels[:, None]).sum())
        right += int((z.argmax(-1) == labels).sum())
        count += len(labels)
    assert found["tokens"] == count
    assert found["loss"] == pytest.approx(total / count, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-4)
    assert found["accuracy"] == right / count


def test_an_evaluation_of_what_is_written_says_its_error_rate_with_an_interval():
    task = make_task("seq2seq")
    result = evaluate(model(task), task, latency=False)
    assert result.scores.keys() == {*task.rules.scores}
    assert {n: result.scores[n] for n in ("error_rate", "exact")}.items() <= written_scores(
        model(task), task
    ).items()
    assert "±" in str(result)
    assert "half width" not in str(result)


@pytest.mark.parametrize("kind", ["causal-lm", "seq2seq"])
def test_a_text_is_written_alike_alone_and_among_others(kind):
    task = make_task(kind)
    writer, asked = model(task), ["a small furry", "fish", "the sweet red fruit of tree"]
    if kind == "seq2seq":
        # A new one has no bias, and goes on with its own last token: its start.
        writer.final_logits_bias.copy_(torch.linspace(0, 1, writer.config.vocab_size))
    together = generate(writer, task, asked, max_new_tokens=6)
    assert together == [generate(writer, task, text, max_new_tokens=6)[0] for text in asked]
    assert all(together)


def test_what_is_likeliest_at_each_step_is_written():
    task = make_task("causal-lm")
    writer = model(task).eval()
    ids = prompts(writer, task, ["a small furry"]).batch(torch.tensor([0]))["input_ids"]
    assert end_of_text(task.tokenizer) not in ids
    found, _ = generated_ids(
        writer, task, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, max_new_tokens=5
    )
    for _ in range(found.shape[1]):
        with torch.no_grad():
            ids = torch.cat([ids, writer(ids).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(ids[:, -found.shape[1] :], found)


def test_draws_follow_the_models_probabilities_at_a_temperature():
    task = make_task("seq2seq")
    writer = model(task).eval()
    with torch.no_grad():
        writer.final_logits_bias[0, 100:104] = torch.tensor([16.0, 15.0, 14.0, 15.0])
    batch = task.encode_texts(["fish"] * 4000).batch(torch.arange(4000))
    ids, _ = generated_ids(writer, task, batch, temperature=2.0, max_new_tokens=1, seed=1)
    start = torch.full((1, 1), writer.config.decoder_start_token_id)
    with torch.no_grad():
        z = writer(
            task.encode_texts("fish").batch(torch.tensor([0]))["input_ids"], decoder_input_ids=start
        ).logits
    expected = (z[0, 0] / 2).softmax(-1)[100:104]
    share = torch.stack([(ids[:, 0] == token).double().mean() for token in range(100, 104)])
    assert torch.allclose(share.float(), expected, atol=4 * 0.5 / math.sqrt(4000))
    few = task.encode_texts(["fish"] * 100).batch(torch.arange(100))
    once, again = (
        generated_ids(writer, task, few, temperature=2.0, max_new_tokens=1, seed=1)[0] for _ in range(2)
    )
    assert torch.equal(once, again)


def test_after_its_end_a_text_is_padding():
    task = make_task("seq2seq")
    writer = model(task).eval()
    end = end_of_text(task.tokenizer)
    with torch.no_grad():
        writer.final_logits_bias[0, end] = 20.0
    ids, mask = generated_ids(writer, task, task.encode_texts(["fish", "fruit"]).batch(torch.arange(2)))
    assert (ids[:, 0] == end).all()
    assert mask.sum(1).tolist() == [1, 1]
    assert generate(writer, task, ["fish"]) == [""]
    assert generate(writer, task, []) == []


def test_what_can_not_be_written_is_said_in_a_sentence():
    task = make_task("causal-lm")
    writer = small_gpt2(task, 1, 32)
    assert "text 1 has 41 tokens, but the model reads 23 at most" in refusal(
        generate, writer, task, ["fish", "fish " * 40]
    )
    assert "models of causal-lm and seq2seq tasks write" in refusal(generate, writer, make_task(), ["fish"])
    assert "temperature must be" in refusal(generate, writer, task, ["fish"], temperature=0.0)
    assert "beams must be" in refusal(generate, writer, task, ["fish"], beams=0)
    assert "max_new_tokens must be" in refusal(generate, writer, task, ["fish"], max_new_tokens=-3)
