"""Cells that make each instrument small enough to learn, or to read, in a few seconds."""

SETUP = """import kdtutor as kd, torch
torch.manual_seed(0)
task = kd.load_task("supersense").subset(320)
teacher, student = (kd.small_bert(task, layers=layers, width=32) for layers in (2, 1))"""
RUN = """run = kd.Distillation(student, teacher, task, kd.blend(alpha=0.5, temperature=2), epochs=20, batch_size=16)
live = kd.widgets.LiveDistillation(run, validation=40)"""
TEXT = "a small red fruit with a stone that grows in warm countries"
VIEWER = f"viewer = kd.widgets.AttentionViewer(teacher, student, task=task, text={TEXT!r})"
GAME = 'game = kd.widgets.BeTheTeacher(task, teacher, text="a red fruit with a stone", candidates=20, taught=100)'
