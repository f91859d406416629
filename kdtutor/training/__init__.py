"""The training loop, and what makes it fast, resumable and safe. Begin with distillation.py."""
