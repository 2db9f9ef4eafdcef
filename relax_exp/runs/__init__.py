"""One run: its task and trainer, its folder, its checkpoints and what it logs."""
