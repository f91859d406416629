"""Models' folders as people have them: incomplete, quantised, wrapped, for another task. Each is one sentence."""

from __future__ import annotations

import json

import pytest
import torch
from helpers import make_task, refusal
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ModernBertConfig,
    ModernBertForTokenClassification,
)

from kdtutor.models import load_model, load_teacher


@pytest.fixture(scope="module")
def task():
    return make_task()


def config_of(task, **changes) -> BertConfig:
    names = {"id2label": dict(enumerate(task.labels)), "label2id": {n: i for i, n in enumerate(task.labels)}}
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return BertConfig(vocab_size=len(task.tokenizer), max_position_embeddings=64, **sizes, **names | changes)


@pytest.fixture
def folder(task, tmp_path):
    BertForSequenceClassification(config_of(task)).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def edit(folder, **changes) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def rewrite(folder, change) -> None:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def in_parts(folder, task) -> None:
    (folder / "model.safetensors").unlink()
    BertForSequenceClassification(config_of(task)).save_pretrained(folder, max_shard_size="200KB")


def test_a_sound_folder_whole_or_in_parts_or_half_precision_is_loaded(folder, task):
    load_teacher(task, folder)
    BertForSequenceClassification(config_of(task)).half().save_pretrained(folder)
    assert load_teacher(task, folder).dtype == torch.float32
    in_parts(folder, task)
    load_teacher(task, folder)


def adapter(folder, task):
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")


def pickled(folder, task):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def below(folder, task):
    (folder / "checkpoint-9").mkdir()
    (folder / "model.safetensors").rename(folder / "checkpoint-9" / "model.safetensors")


def without_index(folder, task):
    in_parts(folder, task)
    (folder / "model.safetensors.index.json").unlink()


def without_a_part(folder, task):
    in_parts(folder, task)
    max(folder.glob("model-*.safetensors")).unlink()


def pointer(folder, task):
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:a\n")


def cut(folder, task):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def whole_numbers(folder, task):
    rewrite(folder, lambda found: {name: (value * 100).to(torch.int8) for name, value in found.items()})


def in_a_wrapper(folder, task):
    rewrite(folder, lambda found: {f"module.{name}": value for name, value in found.items()})


def for_other_sizes(folder, task):
    edit(folder, hidden_size=64)


#: what is done to a sound folder → what must be said
REFUSED = {
    adapter: "holds an adapter (PEFT), not a model: merge it",
    pickled: "but pytorch_model.bin: from_pretrained",
    below: "its folder checkpoint-9 does",
    without_index: "lacks model.safetensors.index.json",
    without_a_part: "which model.safetensors.index.json names",
    pointer: "git lfs pull",
    cut: "model.safetensors is no whole safetensors file",
    whole_numbers: "holds quantised weights: take the model that it was made from",
    lambda folder, task: edit(
        folder, quantization_config={"quant_method": "gptq", "bits": 4}
    ): "weights (gptq)",
    lambda folder, task: edit(
        folder, num_hidden_layers=1
    ): "says num_hidden_layers = 1: do they belong together",
    lambda folder, task: edit(
        folder, num_hidden_layers=3
    ): "parameters are missing, such as bert.encoder.layer.2.",
    for_other_sizes: "weights have other shapes than its config.json says",
    in_a_wrapper: 'its names begin with "module."',
}


@pytest.mark.parametrize("change", REFUSED)
def test_a_folder_that_is_no_whole_model_is_refused_with_what_would_help(change, folder, task):
    change(folder, task)
    said = refusal(load_teacher, task, folder)
    assert REFUSED[change] in said and "\n" not in said and len(said) < 500


def test_a_file_is_no_model_and_its_folder_is_named(folder, task):
    assert f"is a file: name its folder, {folder}" in refusal(load_model, folder / "model.safetensors", task)


def test_a_head_for_other_answers_teaches_no_classes(folder, task):
    edit(folder, problem_type="multi_label_classification")
    assert "answers each label by itself" in refusal(load_teacher, task, folder)
    load_model(folder, task)  # whoever goes on training it may

    # Whose parameters have the very names of a classifier's.
    config = config_of(task)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    names = {"id2label": config.id2label, "label2id": config.label2id, "pad_token_id": 0}
    tokens = ModernBertConfig(vocab_size=len(task.tokenizer), max_position_embeddings=64, **sizes, **names)
    ModernBertForTokenClassification(tokens).save_pretrained(folder)
    assert "is a ModernBertForTokenClassification, whose head answers something else" in refusal(
        load_teacher, task, folder
    )
