"""The sweeper of relax-exp, in the namespace in which Hydra looks for plugins."""

from __future__ import annotations

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class RelaxExpSweeper(Sweeper):
    """Hands many runs of one command to `relax_exp.cli.sweep.sweep`; the options are those of Hydra's own sweeper."""

    def __init__(self, max_batch_size: int | None = None, params: dict[str, str] | None = None):
        self.max_batch_size, self.params = max_batch_size, params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Make the launcher that the configuration names."""
        self.config, self.loader = config, hydra_context.config_loader
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run all combinations of the arguments."""
        from relax_exp.cli.sweep import sweep  # not before: every program that uses Hydra imports this module

        assert self.config is not None and self.launcher is not None  # Hydra has called `setup`
        typed = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        return sweep(typed, self.config, self.loader, self.launcher, self.max_batch_size)
