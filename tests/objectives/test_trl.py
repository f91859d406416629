"""The ecosystem's idiom: trl's distillation on fixed samples (λ = 0) is ours, token for token and step by step.

Two differences are left out on purpose. trl's loss has no T² in front; and its trainer hands the loss no temperature at
all (1.16), so that the two loops are compared at T = 1. The extra `trl` brings it: where it is missing this file is
skipped, and says so.
"""

from __future__ import annotations

import copy

import pytest
import torch

import kdtutor as kd
from kdtutor.objectives import generalised_jsd

gkd = pytest.importorskip(
    "trl.experimental.gkd.gkd_trainer",
    reason="NOT COMPARED WITH TRL: pip install 'kdtutor[trl]'",
    exc_type=ImportError,
)


@pytest.mark.parametrize("beta", [0, 0.1, 0.5, 0.9, 1])
@pytest.mark.parametrize("T", [0.7, 1, 2])
def test_trls_generalised_jsd_is_ours_divided_by_t_squared(beta, T):
    draw = torch.Generator().manual_seed(0)
    z_s, z_t = torch.randn(2, 3, 6, 50, generator=draw, dtype=torch.float64)
    z_s.requires_grad_()
    labels = torch.randint(50, (3, 6), generator=draw)
    labels[0, :3] = labels[2, 4:] = -100  # a prompt and padding

    theirs = gkd.GKDTrainer.generalized_jsd_loss(z_s, z_t, labels, beta=beta, temperature=T)
    ours = generalised_jsd(z_s, z_t, float(beta), T, mask=labels != -100) / T**2
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
    gradients = [torch.autograd.grad(loss, z_s)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-14)


STEPS, RATE, NORM = 6, 1e-2, 0.02


def make_run():
    """A GPT-2 of one layer that learns from one of two, on fixed samples: four texts a step, of several lengths."""
    task = kd.load_task("glosses", kind="causal-lm", max_length=12).subset(4 * STEPS)
    student, teacher = (
        kd.small_gpt2(task, layers=layers, width=32, dropout=0.0, seed=layers) for layers in (1, 2)
    )
    with torch.no_grad():  # random models are all but uniform: make them believe something
        for model in (student, teacher):
            model.get_output_embeddings().weight *= 8
    how = {"steps": STEPS, "batch_size": 4, "learning_rate": RATE, "max_norm": NORM, "precision": "fp32"}
    return kd.Distillation(
        student, teacher, task, kd.GeneralisedJSD(0.5), progress=False, check_teacher=False, **how
    )


def samples_of(run, step: int) -> dict[str, torch.Tensor]:
    """The same texts as trl wants them: labels not yet moved, and none for the first token, which nothing predicts."""
    [batch] = run.batches[step]
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    labels[:, 0] = -100
    return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}


def trained_by_trl(run, folder):
    """Train a copy of the student by trl's own loop, with λ = 0: no text is written. The student, and its losses."""
    datasets = pytest.importorskip("datasets")
    student = copy.deepcopy(run.student)
    twin = dict(zip(run.student.parameters(), student.parameters(), strict=True))
    groups = [group | {"params": [twin[p] for p in group["params"]]} for group in run.optimizer.param_groups]
    optimizer = type(run.optimizer)(groups, lr=RATE)
    for group in optimizer.param_groups:
        group["lr"] = RATE
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: run.settings.schedule(step, STEPS))

    class InOrder(gkd.GKDTrainer):
        def _get_train_sampler(self, *_):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    args = gkd.GKDConfig(
        str(folder), lmbda=0.0, beta=0.5, temperature=1.0, max_steps=STEPS, per_device_train_batch_size=1,
        max_grad_norm=NORM, bf16=False, gradient_checkpointing=False, use_cpu=True, logging_steps=1,
        save_strategy="no", report_to="none", disable_tqdm=True,
    )  # fmt: skip
    trainer = InOrder(
        student, run.teacher, args, data_collator=lambda rows: samples_of(run, rows[0]["step"]),
        train_dataset=datasets.Dataset.from_dict({"step": [*range(STEPS)]}),
        processing_class=run.task.tokenizer, optimizers=(optimizer, schedule),
    )  # fmt: skip
    trainer.train()
    return student, [row["loss"] for row in trainer.state.log_history if "loss" in row]


@pytest.mark.filterwarnings("ignore::kdtutor.training.diagnosis.ClippingWarning")
def test_trls_own_trainer_takes_our_steps_on_fixed_samples(tmp_path):
    run = make_run()
    student, losses = trained_by_trl(run, tmp_path)
    ours = [row["loss"] for row in run.run()]
    assert ours == pytest.approx(losses, rel=1e-5, abs=2e-6)
    assert ours[-1] < ours[0] - 0.01
    assert run.clipped == 1
    for mine, theirs in zip(run.student.parameters(), student.parameters(), strict=True):
        # Where a gradient is all but 0, Adam makes a step of its last digits: a tenth of a step, of single weights.
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0.1 * RATE)
        assert float((mine - theirs).abs().mean()) < 1e-6
