"""Latent-variable models of own tensors, small enough to enumerate, with one layer of latents and with two."""

import itertools
import math

import torch
from torch import Tensor
from torch.func import grad

from relax_exp import Chain, Latent
from relax_exp.enumeration.checks import perturbed

EVENTS = {"bernoulli": (2,), "categorical": (3,)}
ROWS = 2
WEIGHTS = torch.tensor([0.3, 1.2], dtype=torch.float64)  # of the rows' losses


def layer(name, family, context, generator, options):
    """A `Latent` in double precision whose parameters and buffers are not where they start."""
    z = Latent(name, family, EVENTS[family], context_shape=context, generator=generator, **options).double()
    z.load_state_dict(perturbed(z, generator))
    return z


class Small:
    """What both models share. ``params``: of encoder, decoder and prior; ``x``: (ROWS, 2)."""

    layers: list
    params: dict
    x: Tensor

    @property
    def bound(self) -> bool:
        return self.layers[0].estimator.target == "bound"

    def logits(self, params, i, *below_and_x):
        raise NotImplementedError

    def log_joint(self, params, b, x):
        """log p(x, b), smooth in b."""
        raise NotImplementedError

    def log_q(self, i, logits, b):
        z = self.layers[i]
        flat = logits.reshape(len(b), *z.flat_event), b.reshape(len(b), *z.flat_event)
        return z.family.log_prob(*flat)

    def exact(self) -> Tensor:
        """Gradient of the weighted expectations (or K-sample bounds) in all params, over all states of all layers."""
        states = [z.family.enumerate(z.flat_event, dtype=torch.float64) for z in self.layers]
        joint = list(itertools.product(*(range(len(s)) for s in states)))
        b = [
            s[[index[k] for index in joint]].repeat_interleave(ROWS, 0).reshape(-1, *z.event_shape)
            for k, (s, z) in enumerate(zip(states, self.layers, strict=True))
        ]
        x, samples = self.x.repeat(len(joint), 1), self.layers[0].estimator.bound_samples

        def expectation(params):
            logits = [self.logits(params, i, *b[:i], x) for i in range(len(b))]
            log_q = sum(self.log_q(i, logits[i], b[i]) for i in range(len(b))).reshape(-1, ROWS)
            f = log_q - self.log_joint(params, b, x).reshape(-1, ROWS)
            if not self.bound:
                return ((log_q.exp() * f).sum(0) * WEIGHTS).sum()
            index = torch.tensor(list(itertools.product(range(len(joint)), repeat=samples)))
            bounds = math.log(samples) - (-f[index]).logsumexp(1)
            return ((log_q[index].sum(1).exp() * bounds).sum(0) * WEIGHTS).sum()

        return flat(grad(expectation)(self.params))

    def drawn(self, noise) -> Tensor:
        """The same gradient, one draw of it through the layer."""
        return flat(grad(lambda params: (self.losses(params, noise) * WEIGHTS).sum())(self.params))


class OneLayer(Small):
    """q(b | x) linear; p(x | b) a network, p(b) learned. ``detach``: whether log q gets the logits without gradient."""

    def __init__(self, name, family, options, detach=None):
        g = torch.Generator().manual_seed(1)
        z = layer(name, family, (2,), g, options)
        d = math.prod(z.event_shape)

        def draw(*shape):
            return torch.randn(*shape, generator=g, dtype=torch.float64)

        self.params = {"A": draw(2, d), "a": draw(d), "W": draw(d, 3), "w": draw(3), "prior": draw(d)}
        self.x, self.z, self.layers = draw(ROWS, 2), z, [z]
        self.detach = not self.bound if detach is None else detach

    def logits(self, params, i, x):
        return x @ params["A"] + params["a"]

    def log_joint(self, params, b, x):
        hidden = torch.tanh(b[0] @ params["W"] + x.sum(-1, keepdim=True))
        return self.log_q(0, params["prior"].expand(len(b[0]), -1), b[0]) - (hidden @ params["w"]).square()

    def losses(self, params, noise):
        logits = self.logits(params, 0, self.x)

        def f(b, x, logits):
            return self.log_q(0, logits, b) - self.log_joint(params, [b], x)

        inside = logits.detach() if self.detach else logits
        return self.z(logits, f, self.x, inside, context=self.x, noise=noise).loss

    def noise_shapes(self):
        return self.z.estimator.noise_shapes(ROWS)


class TwoLayers(Small):
    """q(b2 | b1, x) q(b1 | x) and p(x | b1) p(b1 | b2) p(b2)."""

    def __init__(self, specifications, score_term):
        g = torch.Generator().manual_seed(1)
        first, second = specifications
        size = math.prod(EVENTS[first[1]])
        self.layers = [layer(*first[:2], (2,), g, first[2]), layer(*second[:2], (2 + size,), g, second[2])]
        d1, d2 = (math.prod(z.event_shape) for z in self.layers)

        def draw(*shape):
            return torch.randn(*shape, generator=g, dtype=torch.float64)

        shapes = {"A": (2, d1), "a": (d1,), "B": (d1, d2), "b": (d2,), "C": (d2, d1), "c": (d1,), "W": (d1, 3)}
        self.params = {k: draw(*shape) for k, shape in shapes.items()} | {"w": draw(3), "prior": draw(d2)}
        self.x, self.chain = draw(ROWS, 2), Chain(*self.layers, score_term=score_term)

    def logits(self, params, i, *given):
        if i == 0:
            return given[0] @ params["A"] + params["a"]
        b1, x = given
        return torch.tanh(b1 @ params["B"]) + params["b"] + x.sum(1, keepdim=True)

    def log_joint(self, params, b, x):
        b1, b2 = b
        hidden = torch.tanh(b1 @ params["W"] + x.sum(-1, keepdim=True))
        p1 = torch.tanh(b2 @ params["C"]) + params["c"]
        prior = self.log_q(1, params["prior"].expand(len(b2), -1), b2)
        return self.log_q(0, p1, b1) + prior - (hidden @ params["w"]).square()

    def losses(self, params, noise):
        def f(b, logits, x):
            return sum(self.log_q(i, logits[i], b[i]) for i in range(2)) - self.log_joint(params, b, x)

        encoders = [lambda *given, i=i: self.logits(params, i, *given) for i in range(2)]
        contexts = [lambda x: x, lambda b1, x: torch.cat([b1, x], 1)]
        by_layer = [{k[1:]: v for k, v in noise.items() if k[0] == str(i)} for i in range(2)]
        return self.chain(encoders, f, self.x, contexts=contexts, noise=by_layer).loss

    def noise_shapes(self):
        return {f"{i}{k}": v.shape for i, part in enumerate(self.chain.noise(ROWS)) for k, v in part.items()}


def flat(gradients) -> Tensor:
    return torch.cat([g.detach().flatten() for g in gradients.values()])
