"""How fast distillation at pre-training is: kdtutor's loop beside a tuned `transformers.Trainer`, teacher online.

    python benchmarks/pretraining.py              BERT-base into 6 layers on a GPU, bf16; a small model on a CPU
    python benchmarks/pretraining.py --scale embedded   the course's own BERT into 3 layers: on a GPU, bound by launches
    python benchmarks/pretraining.py --rounds 1 --steps 10 --arms ours tuned         a quick look

DistilBERT's objective, 5 · soft targets (T = 2) + 2 · masked LM + 1 · cosine, on random texts of equal length; weights
are random, since speed does not depend on them. All arms train the same student from the same weights with equal
batches, dropout and optimiser. Each is a process of its own; they take turns, so that a machine that slows down slows
all of them. The first steps, which warm up and compile, are not timed. On a shared machine look at the processor's own
seconds, which other people's work does not lengthen so much.

    ours            kdtutor.Distillation: logits chunk by chunk
    ours, plain     the same with chunked=False: full tables of logits
    ours, compiled  ours with compile=True
    ours, graphs    ours; both bodies compiled for the one shape there is, and replayed as CUDA graphs
    tuned           Trainer with a compute_loss that asks the teacher; fused AdamW, bf16 where the hardware has it
    tuned, compiled the same with torch.compile
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from training import describe, matmul_rate

ARMS = ("ours", "ours, plain", "ours, compiled", "ours, graphs", "tuned", "tuned, compiled")
TEMPERATURE = 2.0


@dataclass(frozen=True)
class Scale:
    """layers, width: of the teacher. length: tokens of a text. batch: texts per step."""

    layers: int
    width: int
    batch: int
    length: int = 128
    vocabulary: int = 30_522


SCALES = {"full": Scale(12, 768, 256), "embedded": Scale(6, 384, 32, length=20, vocabulary=12_000)}
SCALES["reduced"] = Scale(4, 256, 16)


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    there = "full" if torch.cuda.is_available() else "reduced"
    parser.add_argument("--scale", choices=SCALES, default=there)
    parser.add_argument("--batch", type=int, help="texts per step")
    parser.add_argument("--steps", type=int, default=30 if there == "full" else 6)
    parser.add_argument("--warm-up", type=int, default=5 if there == "full" else 2, help="steps, not timed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=[*ARMS])
    parser.add_argument("--output", type=Path, help="write all measurements to this JSON file")
    parser.add_argument("--one", metavar="ARM", help=argparse.SUPPRESS)
    a = parser.parse_args()
    scale = SCALES[a.scale]
    batch = a.batch or scale.batch
    if a.one:
        print(json.dumps(measure(a.one, scale, batch, a.steps, a.warm_up)))
        return
    if a.scale == "reduced":
        print("REDUCED: a teacher of 4 × 256 instead of 12 × 768. It says nothing about a GPU.")
    machine = {"machine": describe(), "scale": a.scale} | asdict(scale)
    machine |= {"batch": batch, "steps": a.steps, "warm_up": a.warm_up}
    print("\n".join(f"{name}: {value}" for name, value in machine.items()), flush=True)
    results = []
    for number in range(a.rounds):
        for arm in a.arms:
            command = [sys.executable, __file__, "--one", arm, "--scale", a.scale, "--batch", str(batch)]
            command += ["--steps", str(a.steps), "--warm-up", str(a.warm_up)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                print(f"{arm} failed:\n{done.stderr[-2000:]}", flush=True)
                continue
            results.append({"round": number, "arm": arm} | json.loads(done.stdout.splitlines()[-1]))
            print(f"{arm}, round {number}: {results[-1]['tokens_per_second']:,.0f} tokens/s", flush=True)
    print(table(results))
    if a.output:
        a.output.write_text(json.dumps(machine | {"results": results}, indent=1) + "\n", encoding="utf-8")


# ------------------------------------------------------------------------------------------------ one arm


def measure(arm: str, scale: Scale, batch: int, steps: int, warm_up: int) -> dict:
    """Train `steps` steps and time those after `warm_up`; everything that is measured."""
    import torch

    import kdtutor as kd
    from kdtutor.hardware import peak_memory

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        task = random_task(batch * min(steps, 8), scale, folder)
        teacher = kd.small_bert(task, scale.layers, scale.width, seed=1)
        student = kd.half_depth(teacher, seed=2)
        read = {model: kd.sizes(model, scale.length).multiply_adds for model in (teacher, student)}
        work = 6 * read[student] + 2 * read[teacher]
        student.to(device), teacher.to(device)
        rate = matmul_rate(device)
        train = ours if arm.startswith("ours") else trainer
        (seconds, processor), loss = train(arm, student, teacher, task, batch, steps, warm_up)
    texts = batch * (steps - warm_up)
    return {
        "seconds": seconds,
        "processor_seconds": processor,
        "tokens_per_second": texts * scale.length / seconds,
        "share_of_matmul_rate": work * texts / seconds / rate,
        "matmul_rate": rate,
        "peak_memory": peak_memory(device),
        "last_loss": loss,
    }


def random_task(texts: int, scale: Scale, folder: str):
    """Make texts of exactly `scale.length` tokens, [CLS] and [SEP] among them, over a made-up vocabulary."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    from kdtutor.data.task import Split, Task

    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]",
             "mask_token": "[MASK]"}  # fmt: skip
    words = [f"w{i}" for i in range(scale.vocabulary - len(names))]
    numbers = {word: i for i, word in enumerate([*names.values(), *words])}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [(name, numbers[name]) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    drawn = torch.randint(len(words), (texts, scale.length - 2), generator=torch.Generator().manual_seed(0))
    split = Split(([" ".join(words[i] for i in row) for row in drawn.tolist()],), None)
    return Task("random", "masked-lm", (), {"train": split}, tokenizer_name=folder, max_length=scale.length)


class Clock:
    """Seconds since the `warm_up`-th step, once all work that was begun is done."""

    def __init__(self, warm_up: int):
        self.warm_up, self.began = warm_up, None

    def tick(self, step: int) -> None:
        if step == self.warm_up:
            self.began = self.now()

    def seconds(self) -> tuple[float, float]:
        """Read both clocks: (the wall's, this process's processors')"""
        wall, processor = self.now()
        return wall - self.began[0], processor - self.began[1]

    @staticmethod
    def now() -> tuple[float, float]:
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()


def ours(arm: str, student, teacher, task, batch: int, steps: int, warm_up: int) -> tuple:
    import torch

    import kdtutor as kd

    goal = 5 * kd.SoftTargets(TEMPERATURE) + 2 * kd.MaskedLM() + 1 * kd.CosineHidden()
    graphs = arm == "ours, graphs"
    if graphs:
        for model in (teacher, student):
            model.base_model.compile(mode="reduce-overhead", dynamic=False)
        torch.compiler.cudagraph_mark_step_begin()  # or the student's replay overwrites what the teacher's left
    run = kd.Distillation(
        student, teacher, task, goal, steps=steps, batch_size=batch, progress=False,
        chunked=arm != "ours, plain", compile=arm == "ours, compiled",
    )  # fmt: skip
    clock = Clock(warm_up)
    for step in run:
        clock.tick(step.number)
        if graphs:
            torch.compiler.cudagraph_mark_step_begin()
    return clock.seconds(), run.history[-1]["loss"]


def trainer(arm: str, student, teacher, task, batch: int, steps: int, warm_up: int) -> tuple:
    """Make what the ecosystem's idiom is: a Trainer whose compute_loss asks the teacher at every step."""
    import torch
    import torch.nn.functional as F
    from transformers import DataCollatorForLanguageModeling, Trainer, TrainerCallback, TrainingArguments

    from kdtutor.hardware import has_bf16

    clock, losses, teacher = Clock(warm_up), [], teacher.eval().requires_grad_(False)

    class Ticks(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            clock.tick(state.global_step)

    class DistillationTrainer(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            labels = inputs.pop("labels")
            inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
            outputs = model(**inputs, output_hidden_states=True)
            with torch.no_grad():
                theirs = teacher(**inputs, output_hidden_states=True)
            real = inputs["attention_mask"].bool()
            z_s, z_t = outputs.logits[real], theirs.logits[real]
            soft = TEMPERATURE**2 * F.kl_div(
                F.log_softmax(z_s / TEMPERATURE, -1), F.softmax(z_t / TEMPERATURE, -1), reduction="batchmean"
            )
            hard = F.cross_entropy(outputs.logits.flatten(0, 1), labels.flatten())
            h_s, h_t = outputs.hidden_states[-1][real], theirs.hidden_states[-1][real]
            cosine = F.cosine_embedding_loss(h_s, h_t, torch.ones(len(h_s), device=h_s.device))
            loss = 5 * soft + 2 * hard + cosine
            losses.append(loss.detach())
            return (loss, outputs) if return_outputs else loss

    encoded = task.encode("train")
    rows = [
        {"input_ids": encoded.batch(torch.tensor([i]))["input_ids"][0].tolist()} for i in range(len(encoded))
    ]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, max_steps=steps, per_device_train_batch_size=batch, learning_rate=5e-4,
            weight_decay=0.01, warmup_steps=0.05, lr_scheduler_type="linear", max_grad_norm=1.0, seed=0,
            save_strategy="no", logging_strategy="no", report_to="none", disable_tqdm=True,
            optim="adamw_torch_fused", bf16=has_bf16(next(student.parameters()).device),
            torch_compile=arm == "tuned, compiled", remove_unused_columns=False,
            dataloader_pin_memory=torch.cuda.is_available(), use_cpu=not torch.cuda.is_available(),
        )  # fmt: skip
        collator = DataCollatorForLanguageModeling(task.tokenizer, mlm_probability=0.15)
        DistillationTrainer(
            student, arguments, train_dataset=rows, data_collator=collator, callbacks=[Ticks()]
        ).train()
        seconds = clock.seconds()
    return seconds, float(losses[-1])


def table(results: list[dict]) -> str:
    """Write a Markdown table: medians over the rounds; ratios of arms of the same round."""
    tuned = {row["round"]: row for row in results if row["arm"] == "tuned"}
    lines = [
        "| arm | tokens a second | faster than tuned by | by processor time | of the matmul rate | peak memory | "
        "last loss |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm in ARMS:
        rows = [row for row in results if row["arm"] == arm]
        if not rows:
            continue

        def middle(key: str, rows=rows) -> float:
            return statistics.median(row[key] for row in rows)

        def faster(key: str, rows=rows) -> str:
            ratios = sorted(tuned[row["round"]][key] / row[key] for row in rows if row["round"] in tuned)
            return (
                f"{statistics.median(ratios):.2f}× ({ratios[0]:.2f} to {ratios[-1]:.2f})" if ratios else "?"
            )

        lines.append(
            f"| {arm} | {middle('tokens_per_second'):,.0f} | {faster('seconds')} | {faster('processor_seconds')} | "
            f"{middle('share_of_matmul_rate'):.0%} | {middle('peak_memory') / 1e6:,.0f} MB | "
            f"{middle('last_loss'):.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
