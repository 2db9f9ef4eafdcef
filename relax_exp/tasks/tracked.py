"""``track=[...]``: one estimator trains, the gradient variances of several are measured along its trajectory."""

from __future__ import annotations

import math

from relax_exp.tasks.base import Gradients, Model, Task


class Tracked(Task):
    """A task whose trajectory other estimators ride along; ``probes`` are the same task built with those, by name.

    At every step each probe takes an update of its own tuning parameters, at the parameters, on the minibatch and at
    the learning rate of the run, times its own ``lr_scale``; in a warm-up of the run's estimator it does so too. It
    never moves the parameters, and the run's own numbers are those of the run without probes. At every evaluation the
    variances of all are measured at the same parameters and on the same minibatch: ``track/NAME/log_variance``, and
    ``track/NAME/log_variance_x_evaluations``, which adds the log of the number of evaluations of f (an average of M
    draws has 1/M of the variance and M times the evaluations).
    """

    def __init__(self, task: Task, name: str, probes: dict[str, Task]):
        self.task, self.own_name, self.probes = task, name, probes
        self.everything = {name: task, **probes}
        self.lr_scale = 1.0
        copied = "name", "optimizer", "betas", "data", "first_epoch", "batch_size", "warmup", "dtype"
        copied += "compile_after", "evaluations", "selection", "measured_on"
        for attribute in copied:
            setattr(self, attribute, getattr(task, attribute))

    def compile(self):
        self.task.compile()

    def init(self, generator):
        """Draw the initial parameters of the run, which come first, and of all probes."""
        models = {name: task.init(generator) for name, task in self.everything.items()}
        return Model(
            models[self.own_name].params,
            {name: model.tuning for name, model in models.items()},
            {name: model.buffers for name, model in models.items()},
        )

    def noise_shapes(self):
        """Return the shapes of the run's own noise under its names, first, and of a probe's under ``track/NAME/``."""
        shapes = dict(self.task.noise_shapes())
        for name, probe in self.probes.items():
            own = {k: v for k, v in probe.noise_shapes().items() if k not in self.task.data_noise}
            shapes |= {f"track/{name}/{k}": v for k, v in own.items()}
        return shapes

    def of(self, model: Model, name: str) -> Model:
        """Return the model as one of the estimators sees it."""
        return Model(model.params, model.tuning[name], model.buffers[name])

    def gradients(self, model, batch, noise):
        shared = {k: v for k, v in noise.items() if k in self.task.data_noise}
        own = {k: v for k, v in noise.items() if not k.startswith("track/")}
        main = self.task.gradients(self.of(model, self.own_name), batch, own)
        tuning, buffers = {self.own_name: main.tuning}, {self.own_name: main.buffers}
        for name, probe in self.probes.items():
            prefix = f"track/{name}/"
            theirs = {k.removeprefix(prefix): v for k, v in noise.items() if k.startswith(prefix)}
            ride = probe.gradients(self.of(model, name), batch, theirs | shared)
            tuning[name], buffers[name] = ride.tuning, ride.buffers
        return Gradients(main.params, tuning, buffers, main.loss, main.tuning_loss, main.metrics)

    def rate(self, lr, t, batch):
        return self.task.rate(lr, t, batch)

    def tune(self, model, grads, moments, t, lr, batch, noise):
        """Take each one's own step, at its own ``lr_scale``."""
        made = {
            name: task.tune(
                self.of(model, name),
                grads._replace(tuning=grads.tuning[name]),
                {k: v[name] for k, v in moments.items()},
                t,
                lr * task.lr_scale,
                batch,
                noise,
            )
            for name, task in self.everything.items()
        }
        kept = {k: {name: of[k] for name, (_, of) in made.items()} for k in moments}
        return {name: tuning for name, (tuning, _) in made.items()}, kept

    def evaluate(self, models, seeds, step, final):
        """Return the run's own metrics and all variances."""
        rows = self.task.evaluate(self.of(models, self.own_name), seeds, step, final)
        for name, task in self.everything.items():
            own = name == self.own_name
            measured = rows if own else task.variance(self.of(models, name), seeds, step)
            for row, values in zip(rows, measured, strict=True):
                if (log_variance := values.get("grad/log_variance")) is None:
                    continue
                row[f"track/{name}/log_variance"] = log_variance
                row[f"track/{name}/log_variance_x_evaluations"] = log_variance + math.log(task.evaluations)
        return rows

    def test(self, params, best, seeds):
        return self.task.test(params, best, seeds)

    def finish(self, models, labels):
        return self.task.finish(self.of(models, self.own_name), labels)

    def images(self, models, replica, seed):
        return self.task.images(self.of(models, self.own_name), replica, seed)
