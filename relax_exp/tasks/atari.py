"""``task=atari``: synchronous advantage actor-critic on Atari games, with the score function or RELAX."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, grad
from torch.utils._pytree import tree_map

from relax_exp import estimators
from relax_exp.distributions import Categorical
from relax_exp.envs.atari import Games
from relax_exp.envs.atari_scores import human_normalised
from relax_exp.estimators.base import FromSample
from relax_exp.models.nature_cnn import FEATURES, FRAMES, SIDE, init_nature, nature, packed, pull_back
from relax_exp.numerics.moments import Moments
from relax_exp.numerics.random_streams import seed_of, stream
from relax_exp.tasks.base import Gradients, Model, SegmentTask, draw, summarize_variance
from relax_exp.tasks.registry import AtariOptions


class Atari(SegmentTask):
    """A2C (Mnih et al. 2016) with the score function or RELAX.

    It minimises, as means over the ``batch_size`` rows of a segment,

        -A log p(b | s) - ``entropy`` H(p(. | s)) + ``value_coef`` (R - V(s))^2,    A = R - V(s),

    with R the discounted rewards of the rest of the segment and the value of the state after it, and V a head of the
    policy's own network. The gradient is scaled down to the norm ``clip``. ``estimator=a2c`` weighs the score with A.
    ``relax`` takes c = V(s) + c^(z, s) in the place of V(s): RELAX of the loss -A with a surrogate c^ that sees z and
    the network's (detached) features of s, trained to make the gradient at the logits small.

    The protocol is a mixture: sticky actions, and episodes that only the end of the game ends, are those of Machado et
    al. (2018); the minimal set of actions, no-ops and the fire button after a reset the older ones. ``sticky=0`` and
    ``life_loss_ends``, with which nothing follows a life that is lost in the returns that are learned from (scores stay
    those of whole games), make it the older one. ``optimizer="rmsprop_tf"`` is RMSProp as the A2C code of 2017 has it.

    A batch has ``observation`` (N, 4, 84, 84), one-hot ``action`` (N, 1, A), ``return`` (N,), and ``seen``: the
    network's `Activations` at the observations, from the rollout.
    """

    name = "atari"
    meta = {  # noqa: RUF012
        "environment_state": "ALE's vector environment cannot save its own: the games are played again from when they "
        "were last seeded, with the actions that were recorded"
    }

    options: AtariOptions

    def __init__(self, estimator: dict[str, Any], options: AtariOptions, **given: Any):
        super().__init__(estimator, options, **given)
        beside = estimators.lookup(self.estimator_name).beside_a_value
        self.drawn_by, self.drawn_options = (beside, {}) if beside else (self.estimator_name, self.estimator_options)
        self.envs, self.gamma, self.frame_skip = options.envs, options.gamma, options.frame_skip
        self.length, self.optimizer = self.batch_size // options.envs, options.optimizer
        with contextlib.closing(self.games(1, lambda slot, k: 0)) as one:
            self.actions = one.n_actions
        self.drawn = self._build(stream(0, "template"))

    def games(self, slots: int, seed, groups: int | None = None) -> Games:
        """Make copies of the game, in as many threads for each group as torch has.

        A GPU takes as long for the actions of few games as for those of many: fewer groups then.
        """
        groups = groups or (4 if self.device.type == "cpu" else 2)
        threads = torch.get_num_threads()
        of_games = ("frame_skip", "sticky", "noop_max", "fire_reset", "life_loss_ends", "max_frames")
        chosen = {key: getattr(self.options, key) for key in of_games}
        return Games(self.options.env, slots, seed, threads=threads, groups=groups, **chosen)

    def _build(self, generator) -> FromSample:
        built = estimators.build(
            self.drawn_by, "categorical", (1, self.actions), (FEATURES,), generator, **self.drawn_options
        )
        return FromSample(built).to(self.device, self.dtype)

    def init(self, generator):
        drawn = self._build(generator)
        params = {k: v.to(self.device, self.dtype) for k, v in init_nature(self.actions, generator).items()}
        tuning = {k: v.detach().clone() for k, v in drawn.named_parameters()}
        for name, leaf in tuning.items():
            if name.startswith("of.network.out."):
                leaf.zero_()  # c^ = 0: as a2c, until it is known what is better
        return Model(params, tuning, {k: v.clone() for k, v in drawn.named_buffers()})

    def _own_noise(self) -> dict[str, tuple[int, ...]]:
        return self.drawn.of.noise_shapes(self.batch_size) if self.drawn.of.tuned else {}

    def noise_shapes(self):
        """Return the shapes of the estimator's noise, and ``act``, which makes the actions of a segment."""
        return {"act": (self.length, self.envs, 1, self.actions), **self._own_noise()}

    def example(self):
        rows, device = self.batch_size, self.device
        observations = torch.zeros((rows, FRAMES, SIDE, SIDE), dtype=torch.uint8, device=device)
        return {
            "observation": observations,
            "seen": nature(self.init(stream(0, "template")).params, observations),
            "action": torch.zeros((rows, 1, self.actions), dtype=self.dtype, device=device),
            "return": torch.zeros(rows, dtype=self.dtype, device=device),
        }

    def clip(self, rewards: Tensor) -> Tensor:
        """Return rewards as they are learned from."""
        return rewards.sign() if self.options.clip_rewards else rewards

    def _estimate(self, model: Model, tuning, logits, action, loss, noise, features):
        noise = {k: v for k, v in noise.items() if k in ("u", "v")}
        return functional_call(self.drawn, (tuning, model.buffers), (logits, action, loss, noise, features))

    def gradients(self, model, batch, noise):
        seen, action, rows, options = batch["seen"], batch["action"], len(batch["return"]), self.options
        logits, values = seen.logits.unsqueeze(-2), seen.values
        advantage = batch["return"] - values

        def tuned(tuning):
            out = self._estimate(model, tuning, logits, action, -advantage, noise, seen.features)
            # Rows count in full, as that of one row does: divided by N^2 they would be lost beside Adam's eps.
            loss = rows**2 * self.drawn.of.tuning_loss(out)
            return loss, (loss, out)

        tuning, (tuning_loss, out) = grad(tuned, has_aux=True)(model.tuning)
        p, log_p = logits.softmax(-1), logits.log_softmax(-1)
        entropy = -(p * log_p).sum(-1, keepdim=True)
        # d (-entropy) / d logits = p (log p + entropy)
        at_logits = (out.grad + options.entropy * p * (log_p + entropy)) / rows
        at_values = -2 * options.value_coef * advantage / rows
        grads = pull_back(model.params, seen, at_logits.squeeze(-2), at_values)
        size = sum((leaf.square().sum() for leaf in grads.values()), values.new_zeros(())).sqrt()
        shrink = (options.clip / (size + 1e-6)).clamp(max=1.0)
        policy_loss = -(advantage * Categorical.log_prob(logits, action)).mean()
        value_loss, entropy = advantage.square().mean(), entropy.mean()
        metrics = {
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "entropy": entropy,
            "grad/norm": size,
            "variance of errors": advantage.var(),
            "variance of returns": batch["return"].var(),
            **{f"estimator/{k}": v.detach() for k, v in out.aux.items() if v.dim() == 0},
        }
        loss = policy_loss + options.value_coef * value_loss - options.entropy * entropy
        grads = {k: leaf * shrink for k, leaf in grads.items()}
        return Gradients(grads, tuning, {**model.buffers, **out.buffers}, loss, tuning_loss, metrics)

    def segment_variance(self, model: Model, batch: dict[str, Tensor], seed: int, step: int) -> dict[str, float]:
        """Measure ``grad/log_variance`` of the policy gradient (no entropy, no value) on a segment at fixed parameters.

        It comes from ``variance_draws`` bootstrap samples: N of the N rows (state, action, return) drawn with
        replacement, with fresh noise for relax. So it is what varies from one minibatch of such rows to another, but
        for their dependence. It is taken before clipping, over the policy's parameters; most have no gradient at all on
        so few states (dead features), so that the mean of their logarithms would say nothing.
        """
        seen = nature(model.params, batch["observation"])
        logits, loss, rows = seen.logits.unsqueeze(-2), seen.values - batch["return"], len(seen.values)
        generator = stream(seed, "variance", step)
        moments = Moments()
        for _ in range(self.options.variance_draws):
            index = torch.randint(rows, (rows,), generator=generator).to(self.device)
            noise = draw(self._own_noise(), 1, generator, self.dtype)
            noise = {key: u[0].to(self.device) for key, u in noise.items()}
            at, action, lost = (x[index] for x in (logits, batch["action"], loss))
            out = self._estimate(model, model.tuning, at, action, lost, noise, seen.features[index])
            at_logits = torch.zeros_like(logits).index_add(0, index, out.grad) / rows
            grads = pull_back(model.params, seen, at_logits.squeeze(-2), torch.zeros_like(seen.values))
            flat = torch.cat([leaf.flatten() for name, leaf in grads.items() if not name.startswith("value.")])
            moments.add(flat.unsqueeze(0))
        log_variance = summarize_variance(moments.variance)["grad/log_variance"]
        return {"grad/log_variance": float(log_variance)}

    def play(self, params: dict[str, Tensor], seed: int, purpose: str, episodes: int):
        """Play episodes side by side by the policy as it is.

        A game that is over rests in the sense that what its slot does afterwards is not looked at.

        Returns:
            The scores, and the frames of the first game, uint8 (T, 84, 84).
        """
        generator = stream(seed, purpose)

        def reset_seed(slot: int, k: int) -> int:
            return seed_of(seed, f"{purpose}/env/{slot}", k)

        with contextlib.closing(self.games(episodes, reset_seed, groups=1)) as games:
            games.start()
            applied = packed(params, episodes)
            scores, frames = np.full(episodes, np.nan), []
            while np.isnan(scores).any():
                if np.isnan(scores[0]):
                    frames.append(games.observations[0, -1].copy())
                logits = nature(params, torch.from_numpy(games.observations).to(self.device), applied).logits
                u = torch.rand((episodes, 1, self.actions), generator=generator, dtype=self.dtype)
                chosen = Categorical.path(logits.unsqueeze(-2), u.to(self.device)).argmax(-1).squeeze(-1)
                games.send(0, chosen.cpu().numpy())
                for slot, (score, _) in games.receive(0)[-1].items():
                    scores[slot] = score if math.isnan(scores[slot]) else scores[slot]
        return scores, np.stack(frames)

    def evaluate(self, models, seeds, step, final):
        """Return the scores of ``evaluate_episodes`` games, with actions drawn from the policy."""
        rows = []
        for i, seed in enumerate(seeds):
            params = tree_map(lambda x, i=i: x[i], models.params)
            score = float(self.play(params, seed, f"evaluation/{step}", self.options.evaluate_episodes)[0].mean())
            normalised = human_normalised(self.options.env, score)
            rows.append({"eval/return": score, "eval/human_normalised": normalised})
        return rows

    def videos(self, models, replica, seed):
        """Return the film of one episode."""
        params = tree_map(lambda x: x[replica], models.params)
        return {"episode": torch.from_numpy(self.play(params, seed, "video", 1)[1])}
