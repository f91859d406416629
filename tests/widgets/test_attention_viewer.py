"""The attention viewer: its numbers are the models', the models stay as they were, and bad input gets a sentence."""

import base64
import json
import shutil
import subprocess

import numpy as np
import pytest
import torch
from helpers import synced
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertConfig, BertForSequenceClassification

import kdtutor as kd
from kdtutor import transformer
from kdtutor.data.task import Task
from kdtutor.errors import KDTutorError
from kdtutor.widgets.attention import AttentionViewer, as_parts, attention_weights, copied_layers

TEXT = "a bird that is roasted and eaten on feast days"
TOKENS = len(TEXT.split()) + 2  # each word is one piece; [CLS], [SEP]
HEADS = 12  # of the course's teacher


@pytest.fixture(scope="module")
def task():
    return kd.load_task("supersense")


@pytest.fixture(scope="module")
def teacher(task):
    return kd.load_teacher(task)


@pytest.fixture(scope="module")
def student(teacher):
    return kd.half_depth(teacher, seed=0)


@pytest.fixture
def viewer(task, teacher, student):
    return AttentionViewer(teacher, student, task=task, text=TEXT)


def eager(model, task, text):
    """What the library itself says: (layers, heads, L, L)."""
    before, training = model.config._attn_implementation, model.training
    model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = model.eval()(
            torch.tensor([task.tokenizer(text)["input_ids"]]), output_attentions=True
        ).attentions
    model.set_attn_implementation(before)
    model.train(training)
    return torch.cat(attentions)


# ------------------------------------------------------------------------------------------------ the numbers


def test_its_weights_are_those_of_the_models(viewer, task, teacher, student):
    for side, model in (("teacher", teacher), ("student", student)):
        torch.testing.assert_close(viewer.weights(side), eager(model, task, TEXT))
        assert torch.allclose(viewer.weights(side).sum(-1), torch.tensor(1.0), atol=1e-5)


@given(st.integers(1, 40), st.integers(0, 10_000), st.sampled_from([0.1, 1.0, 30.0]))
def test_rounded_rows_sum_to_exactly_one_and_each_weight_is_off_by_less_than_a_part(length, seed, spread):
    logits = spread * torch.randn(2, length, length, generator=torch.Generator().manual_seed(seed))
    weights = logits.softmax(-1)
    parts = as_parts(weights)
    assert (parts.sum(-1, dtype=np.int64) == 65535).all()
    assert np.abs(parts / 65535 - weights.double().numpy()).max() < 1 / 65535 + 1e-6


def test_masked_weights_stay_exactly_zero():
    parts = as_parts(torch.tensor([[0.5, 0.5, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3, 0.0]]))
    assert (parts[:, 3] == 0).all() and parts[0, 2] == 0


@pytest.mark.skipif(not shutil.which("node"), reason="node is not installed")
def test_the_browser_unpacks_the_same_numbers(viewer, tmp_path):
    data = synced(viewer)["data"]
    script = tmp_path / "viewer.mjs"
    script.write_text(
        f"{viewer._esm}\n"
        f"const data = {json.dumps(data)};\n"
        "const L = data.tokens.length, maps = {};\n"
        "for (const m of data.models) { const entry = { ...m, parts: unpack(m.weights) };\n"
        "  maps[m.name] = [[0, 0], [m.layers - 1, m.heads - 1], [1, -1]]\n"
        "    .map(([l, h]) => mapOf(entry, l, h, L).map((r) => [...r])); }\n"
        "console.log(JSON.stringify(maps));\n"
    )
    maps = json.loads(subprocess.run(["node", script], capture_output=True, text=True, check=True).stdout)
    for side in ("teacher", "student"):
        w = viewer.weights(side).double()
        for got, right in zip(maps[side], (w[0, 0], w[-1, -1], w[1].mean(0)), strict=True):
            torch.testing.assert_close(torch.tensor(got, dtype=torch.float64), right, atol=2e-5, rtol=0)
            assert np.allclose(np.sum(got, axis=1), 1, atol=1e-12)


def test_head_minus_one_is_the_mean(viewer):
    viewer.layer, viewer.head = 2, -1
    torch.testing.assert_close(viewer.shown("teacher"), viewer.weights("teacher")[2].mean(0))
    assert f"mean of {HEADS} heads" in viewer.summary


# ------------------------------------------------------------------------------------------------ the models


def test_the_models_are_left_as_they_were(task, teacher, student):
    student.train()
    student.distilbert.transformer.layer[1].eval()  # one module in another mode than the rest
    modes = [m.training for m in student.modules()]
    attention_weights(student, task.encode_texts([TEXT]).batch(torch.arange(1)))
    assert [m.training for m in student.modules()] == modes
    assert student.config._attn_implementation == "sdpa"
    assert not teacher.training and teacher.config._attn_implementation == "sdpa"


def test_the_models_are_left_as_they_were_also_after_an_error(task, student):
    student.train()
    with pytest.raises(IndexError):
        attention_weights(
            student, {"input_ids": torch.tensor([[10**6]]), "attention_mask": torch.tensor([[1]])}
        )
    assert student.training and student.config._attn_implementation == "sdpa"


def test_dropout_makes_no_noise_in_it(task, student):
    student.train()
    batch = task.encode_texts([TEXT]).batch(torch.arange(1))
    assert torch.equal(attention_weights(student, batch), attention_weights(student, batch))


def test_kdtutors_own_bert_can_be_viewed(task, teacher):
    own = AttentionViewer(transformer.Bert.from_pretrained(teacher), task=task, text=TEXT)
    torch.testing.assert_close(own.weights(), eager(teacher, task, TEXT), atol=1e-5, rtol=1e-5)


def test_copied_layers_are_told_from_the_weights(teacher, student, task):
    assert copied_layers(teacher, student) == kd.layer_choice(6, 3) == [0, 2, 5]
    trained = kd.half_depth(teacher, depth=2, seed=0)
    with torch.no_grad():
        for parameter in trained.parameters():  # as far off as a training would take it
            parameter += 0.5 * parameter.std(correction=0) * torch.randn_like(parameter)
    assert copied_layers(teacher, trained) == [0, 5]
    for width in (teacher.config.hidden_size, 64):
        assert copied_layers(teacher, kd.small_bert(task, layers=2, width=width, seed=0)) == [None, None]


def test_it_starts_at_the_students_last_layer_and_the_one_it_was_copied_from(viewer):
    assert (viewer.layer, viewer.student_layer, viewer.together) == (5, 2, True)
    assert viewer.data["models"][1]["sources"] == [0, 2, 5]


def test_a_student_of_its_own_kind_moves_by_itself(task, teacher):
    viewer = AttentionViewer(teacher, kd.small_bert(task, layers=2, width=64, seed=0), task=task)
    assert not viewer.together and viewer.sources == [None, None]
    assert viewer.weights("student").shape[:2] == (2, 2)


# ------------------------------------------------------------------------------------------------ settings


def test_settings_move_the_sentence_and_can_be_observed(viewer):
    seen = []
    viewer.observe(lambda change: seen.append(change["new"]), "head")
    viewer.layer, viewer.head, viewer.token = 0, 2, 3
    assert seen == [2]
    assert viewer.summary.startswith("Teacher, layer 0, head 2: that draws")
    w = viewer.shown("teacher")[3]
    assert f"{100 * w.max():.0f}" in viewer.summary and viewer.tokens[w.argmax()] in viewer.summary
    viewer.side = "student"
    assert viewer.summary.startswith("Student") and "Teacher" not in viewer.summary


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("layer", 6, "the teacher has the layers 0 to 5"),
        ("layer", -1, "the teacher has the layers 0 to 5"),
        ("layer", True, "layer = True: it is a number"),
        ("student_layer", 3, "the student has the layers 0 to 2"),
        ("head", HEADS, f"the teacher has the heads 0 to {HEADS - 1}"),
        ("student_head", -2, f"the student has the heads 0 to {HEADS - 1}"),
        ("token", TOKENS, f"the text has the tokens 0 to {TOKENS - 1}"),
        ("side", "left", 'unknown side "left"'),
        ("text", "", "the text is empty"),
        ("text", " \n", "the text is empty"),
    ],
)
def test_a_bad_setting_is_refused_in_one_sentence_and_the_last_good_one_stays(viewer, name, value, message):
    before = synced(viewer)
    with pytest.raises(KDTutorError, match=message):
        setattr(viewer, name, value)
    assert synced(viewer) == before


def test_the_constructor_names_what_it_does_not_know(task, teacher):
    with pytest.raises(KDTutorError, match="no setting hed"):
        AttentionViewer(teacher, task=task, hed=1)
    with pytest.raises(KDTutorError, match="teacher must be a model"):
        AttentionViewer("bert", task=task)
    with pytest.raises(KDTutorError, match="there is no student"):
        AttentionViewer(teacher, task=task, side="student")
    with pytest.raises(KDTutorError, match="max_tokens = 1"):
        AttentionViewer(teacher, task=task, max_tokens=1)


# ------------------------------------------------------------------------------------------------ texts


@pytest.mark.parametrize(
    "text", ["<img src=x onerror=alert(1)>", "🦜🦜", "שלום עולם", "a", "\\(x\\) $y$ & <b>"]
)
def test_any_text_that_is_typed_is_shown(viewer, text):
    viewer._hear(viewer, {"kind": "text", "text": text}, [])
    assert viewer.text == text and viewer.problem == ""
    assert len(viewer.tokens) == len(viewer.data["kinds"]) == viewer.weights().shape[-1]
    synced(viewer)


def test_an_empty_text_that_is_typed_gets_a_sentence_and_the_last_good_one_stays(viewer):
    viewer._hear(viewer, {"kind": "text", "text": "  "}, [])
    assert viewer.problem == "the text is empty: give at least one word" and viewer.text == TEXT
    viewer._hear(viewer, {"kind": "text", "text": "a bird"}, [])
    assert viewer.problem == "" and viewer.text == "a bird"


def test_a_long_text_is_cut_and_that_is_said(viewer, caplog):
    viewer.token = TOKENS - 1
    viewer.text = "word " * 10_000
    assert len(viewer.tokens) == 32 and viewer.data["read"] == 32 and viewer.data["total"] == 10_002
    assert viewer.tokens[-1] == "[SEP]"
    viewer.text = "a bird"
    assert viewer.token == 3  # the last there is


def test_special_unknown_and_padded_tokens_are_marked_and_padding_gets_nothing(task, teacher):
    viewer = AttentionViewer(teacher, task=task, text="a bird 🦜", padding=2)
    assert viewer.tokens == ["[CLS]", "a", "bird", "[UNK]", "[SEP]", "[PAD]", "[PAD]"]
    assert viewer.data["kinds"] == ["special", "word", "word", "unknown", "special", "padding", "padding"]
    assert (viewer.weights()[..., 5:] == 0).all()
    alone = AttentionViewer(teacher, task=task, text="a bird 🦜").weights()
    torch.testing.assert_close(viewer.weights()[..., :5, :5], alone, atol=1e-6, rtol=1e-4)


def test_the_state_of_an_exported_page_stays_small(task, teacher, student):
    twelve = AttentionViewer(teacher, student, task=task, text="a large bird of prey that eats other birds")
    assert len(twelve.tokens) <= 12
    state = synced(twelve)
    assert len(json.dumps(state)) < 100_000
    bytes_ = base64.b64decode(state["data"]["models"][0]["weights"])
    assert len(bytes_) == 2 * teacher.config.num_hidden_layers * HEADS * len(twelve.tokens) ** 2
    longest = AttentionViewer(teacher, student, task=task, text="word " * 100)
    assert len(json.dumps(synced(longest))) < 300_000


@pytest.mark.parametrize("classes", [1, 200])
def test_the_number_of_classes_does_not_matter(classes):
    task = Task("made up", "classification", tuple(f"<b>{i}</b>" for i in range(classes)), {})
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 32}
    model = BertForSequenceClassification(
        BertConfig(vocab_size=len(task.tokenizer), num_labels=classes, **size)
    )
    assert AttentionViewer(model, task=task, text="a bird").weights().shape == (1, 1, 4, 4)


def test_a_model_with_nan_in_it_gets_a_sentence(task, teacher):
    broken = kd.small_bert(task, layers=1, width=32, seed=0)
    with torch.no_grad():
        broken.bert.encoder.layer[0].attention.self.query.weight.fill_(float("nan"))
    with pytest.raises(KDTutorError, match="student's attention weights are not finite"):
        AttentionViewer(teacher, broken, task=task)


# ------------------------------------------------------------------------------------------------ where nothing runs


def test_its_plain_picture_says_what_is_seen(viewer):
    viewer.layer, viewer.head, viewer.student_layer, viewer.student_head = 0, 0, 0, 0
    data, metadata = viewer._repr_mimebundle_()
    assert {"image/png", "text/plain", "application/vnd.jupyter.widget-view+json"} <= set(data)
    alt = metadata["image/png"]["alt"]
    assert alt == data["text/plain"] == viewer.picture().alt
    assert "teacher, layer 0, head 0: " in alt and "student, layer 0, head 0: " in alt
    assert repr(viewer) == viewer.summary and "0x" not in repr(viewer)
