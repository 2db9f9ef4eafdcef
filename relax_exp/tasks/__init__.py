"""The tasks: one module each; `relax_exp.tasks.registry` knows them by name."""
