"""How long distillation takes: kdtutor's loop beside `transformers.Trainer` with an online teacher, plain and tuned.

    python benchmarks/training.py                       the table of benchmarks/README.md
    python benchmarks/training.py --texts 1000 --rounds 1 --students small   a quick look

All arms train the same student from the same weights on the same texts, with equal steps, schedule, dropout and loss.
Each arm is a process of its own; the arms take turns, so that a machine that slows down slows all of them. A figure is
the median over the rounds, a ratio is made of arms of the same round. Our loop's time includes asking the teacher once.
A round is also a seed, of student and order: the accuracy is the mean over the rounds, with its 95 % interval.

    ours            kdtutor.Distillation; the teacher is asked once, into a folder of its own
    ours, online    the same, but the teacher is asked at every step: what the cache alone is worth
    ours, shipped   the same, but the teacher's answers are those that ship: what a learner of the course waits for
    plain           Trainer with a compute_loss that asks the teacher; padding to the longest text of a batch
    tuned           the same with texts grouped by length, fused AdamW, and bf16 where the hardware has it
    compiled        tuned, with torch.compile

`of the matmul rate`: products that are computed, as a share of what this machine does with large square matrices.
`as defined`: the same time, counting the whole models' products, as utilisation is often given; ours leaves some out.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

STUDENTS = {
    "half depth": "3 layers × 384, copied from the teacher",
    "small": "2 layers × 128, from random weights",
}
ARMS = ("ours", "ours, online", "ours, shipped", "plain", "tuned", "compiled")
ALPHA, TEMPERATURE, BATCH, RATE, WARMUP, DECAY = 0.1, 2.0, 32, 5e-4, 0.05, 0.01
TESTED = 2000  # texts of the test split


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--students", nargs="+", choices=STUDENTS, default=[*STUDENTS])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=[*ARMS])
    parser.add_argument("--output", type=Path, help="write all measurements to this JSON file")
    parser.add_argument("--one", nargs=2, metavar=("ARM", "STUDENT"), help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.one:
        print(json.dumps(measure(*a.one, a.texts, a.epochs, a.seed)))
        return
    machine = {"machine": describe(), "texts": a.texts, "epochs": a.epochs}
    print("\n".join(f"{name}: {value}" for name, value in machine.items()))
    results = []
    for student in a.students:
        for number in range(a.rounds):
            for arm in a.arms:
                if arm == "compiled" and number:
                    continue  # once is enough to see whether it helps
                command = [sys.executable, __file__, "--one", arm, student]
                command += ["--texts", str(a.texts), "--epochs", str(a.epochs), "--seed", str(number)]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    print(f"{arm} failed:\n{done.stderr[-2000:]}")
                    continue
                results.append({"round": number} | json.loads(done.stdout.splitlines()[-1]))
                print(f"{student}, {arm}, round {number}: {results[-1]['seconds']:.1f} s", flush=True)
        print(table(results, student), flush=True)
    if a.output:
        a.output.write_text(json.dumps(machine | {"results": results}, indent=1) + "\n", encoding="utf-8")


# ------------------------------------------------------------------------------------------------ one arm


def measure(arm: str, name: str, texts: int, epochs: int, seed: int = 0) -> dict:
    """Train once; everything that is measured."""
    import torch

    import kdtutor as kd
    from kdtutor.hardware import peak_memory

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    task = kd.load_task("supersense").subset(texts)
    teacher = kd.load_teacher(task)
    if name == "half depth":
        student = kd.half_depth(teacher, seed=seed)
    else:
        student = kd.small_bert(task, layers=2, width=128, seed=seed)
    student.to(device), teacher.to(device)
    encoded = task.encode("train")  # tokenized before the clock starts, for all arms
    rate = matmul_rate(device)
    train = ours if arm.startswith("ours") else trainer
    started = time.perf_counter()
    steps = train(arm, student, teacher, task, epochs, seed)
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started

    tested = task.subset(TESTED, split="test")
    logits = kd.predict(student.to(device), tested, "test")
    tokens = int(encoded.lengths.sum()) * epochs
    asked = {"ours": tokens / epochs, "ours, shipped": 0}.get(arm, tokens)  # once, never, or at every step
    shares = {}
    for what, counted in (("done", arm), ("as_defined", "plain")):  # plain: whole models
        work = operations(counted, student, task, learning=True) * tokens
        work += operations(counted, teacher, task, learning=False) * asked
        shares[f"share_{what}"] = work / seconds / rate
    return shares | {
        "student": name,
        "arm": arm,
        "seconds": seconds,
        "steps": steps,
        "tokens_per_second": tokens / seconds,
        "accuracy": kd.evaluation.accuracy(logits, tested.targets("test")),
        "matmul_rate": rate,
        "peak_memory": peak_memory(device),
    }


def operations(arm: str, model, task, learning: bool) -> float:
    """Count floating-point operations per token in matrix products, as torch counts them while they run."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from kdtutor.models.forward import forward

    batch = task.encode("train").batch(torch.arange(BATCH))
    batch = {name: value.to(model.device) for name, value in batch.items()}
    with (
        FlopCounterMode(display=False) as counter,
        sdpa_kernel(SDPBackend.MATH),
        torch.set_grad_enabled(learning),
    ):
        if arm.startswith("ours"):
            logits = forward(model, batch).logits
        else:
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        if learning:
            logits.sum().backward()
    return counter.get_total_flops() / batch["input_ids"].numel()  # padding included, as in the products


def ours(arm: str, student, teacher, task, epochs: int, seed: int) -> int:
    import tempfile

    import kdtutor as kd

    goal = kd.blend(alpha=ALPHA, temperature=TEMPERATURE)
    settings = {
        "batch_size": BATCH,
        "learning_rate": RATE,
        "warmup": WARMUP,
        "weight_decay": DECAY,
        "seed": seed,
    }
    with tempfile.TemporaryDirectory() as folder:
        cache = {"ours": folder, "ours, shipped": True}.get(arm, False)
        run = kd.Distillation(
            student, teacher, task, goal, epochs=epochs, cache=cache, progress=False, **settings
        )
        run.run()
    return run.total_steps


def trainer(arm: str, student, teacher, task, epochs: int, seed: int) -> int:
    """Make what the ecosystem's idiom is: a Trainer whose compute_loss asks the teacher at every step."""
    import tempfile

    import torch
    import torch.nn.functional as F
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

    from kdtutor.hardware import has_bf16

    class DistillationTrainer(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            labels = inputs.pop("labels")
            outputs = model(**inputs)
            with torch.no_grad():
                teacher_logits = teacher(**inputs).logits
            soft = F.kl_div(
                F.log_softmax(outputs.logits / TEMPERATURE, -1),
                F.softmax(teacher_logits / TEMPERATURE, -1),
                reduction="batchmean",
            )
            loss = ALPHA * F.cross_entropy(outputs.logits, labels) + (1 - ALPHA) * TEMPERATURE**2 * soft
            return (loss, outputs) if return_outputs else loss

    encoded = task.encode("train")
    rows = []
    for i in range(len(encoded)):
        one = encoded.batch(torch.tensor([i]))
        rows.append({"input_ids": one["input_ids"][0].tolist(), "labels": int(one["labels"][0])})
    tuned = arm != "plain"
    settings = {}
    if tuned:
        settings = {
            "train_sampling_strategy": "group_by_length",
            "optim": "adamw_torch_fused",
            "bf16": has_bf16(next(student.parameters()).device),
            "torch_compile": arm == "compiled",
        }
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, num_train_epochs=epochs, per_device_train_batch_size=BATCH, learning_rate=RATE,
            weight_decay=DECAY, warmup_steps=WARMUP, lr_scheduler_type="linear", max_grad_norm=1.0, seed=seed,
            save_strategy="no", logging_strategy="no", report_to="none", disable_tqdm=True,
            dataloader_pin_memory=torch.cuda.is_available(), use_cpu=not torch.cuda.is_available(), **settings,
        )  # fmt: skip
        collator = DataCollatorWithPadding(task.tokenizer)
        done = DistillationTrainer(student, arguments, train_dataset=rows, data_collator=collator).train()
    return done.global_step


# ------------------------------------------------------------------------------------------------ the machine


def matmul_rate(device, size: int = 1024, seconds: float = 1.0) -> float:
    """Measure floating-point operations per second of a large matrix product, in the precision that training uses."""
    import torch

    from kdtutor.hardware import has_bf16

    size = size * 8 if device.type == "cuda" else size
    kind = torch.bfloat16 if has_bf16(device) else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    best, until = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        started = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


def describe() -> str:
    import torch
    import transformers

    what = f"{platform.machine()}, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        what = torch.cuda.get_device_name()
    return f"{what}; torch {torch.__version__}, transformers {transformers.__version__}"


def table(results: list[dict], student: str) -> str:
    """Write a Markdown table of one student's arms."""
    mine = [row for row in results if row["student"] == student]
    ours = {row["round"]: row["seconds"] for row in mine if row["arm"] == "ours"}
    lines = [
        f"\n**{student}** ({STUDENTS[student]})\n",
        "| arm | seconds | ours is faster by | tokens a second | of the matmul rate | as defined | accuracy | "
        "peak memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for arm in ARMS:
        rows = [row for row in mine if row["arm"] == arm]
        if not rows:
            continue

        def middle(key: str, rows=rows) -> float:
            return statistics.median(row[key] for row in rows)

        ratios = sorted(row["seconds"] / ours[row["round"]] for row in rows if row["round"] in ours)
        faster = f"{statistics.median(ratios):.2f}× ({ratios[0]:.2f} to {ratios[-1]:.2f})" if ratios else "?"
        cells = [arm, f"{middle('seconds'):.1f}", faster, f"{middle('tokens_per_second'):,.0f}"]
        cells += [f"{middle(share):.0%}" for share in ("share_done", "share_as_defined")]
        cells.append(accuracy([row["accuracy"] for row in rows]))
        lines.append(f"| {' | '.join(cells)} | {middle('peak_memory') / 1e6:,.0f} MB |")
    return "\n".join(lines)


def accuracy(scores: list[float]) -> str:
    from kdtutor.evaluation.statistics import mean_and_interval

    found = mean_and_interval(scores)
    return f"{100 * found.mean:.1f}" + (f" ± {100 * found.half_width:.1f}" if len(scores) > 1 else "") + " %"


if __name__ == "__main__":
    main()
