"""`relax_exp.Latent` beside other ways to train the same model, beside the same step by hand, and how long it imports.

``make bench-library`` writes results/bench/library.{json,md}; with ``STORCH=python PYRO=python``, interpreters with
relax-exp and the other library, these are trained too (`library_models.py` says what exactly). Times are processor
time of one thread, in turns, so that a busy machine hits all alike.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from library_models import FOREIGN, OWN, bce, train
from tabulate import tabulate
from torch import Tensor, nn

from relax_exp import Latent, data, estimators
from relax_exp.numerics.machine import hardware

ROOT = Path(__file__).parents[1]
PIXELS, LATENTS, BATCH = 784, 200, 24  # as in bench.py
COST = {
    "reinforce": {},
    "nvil": {},
    "rloo": {},
    "disarm": {},
    "rebar": {"noise": "tied"},
    "relax": {"noise": "tied"},
    "double_cv": {},
    "st_gumbel": {},
}
COMPILED = ("rloo", "disarm", "rebar", "relax")
IMPORT = """
import time
begun = time.process_time()
import torch
middle = time.process_time()
import relax_exp
relax_exp.Latent
print(middle - begun, time.process_time() - middle)
"""


def model() -> tuple[nn.Module, nn.Module, nn.Parameter]:
    """Encoder, decoder, prior."""
    torch.manual_seed(0)
    return nn.Linear(PIXELS, LATENTS), nn.Linear(LATENTS, PIXELS), nn.Parameter(torch.zeros(LATENTS))


def by_layer(name: str, options: dict, compiled: bool) -> Callable[[Tensor], None]:
    """A training step through `Latent`."""
    encoder, decoder, prior = model()
    z = Latent(name, "bernoulli", LATENTS, context_shape=PIXELS, **options)
    adam = torch.optim.Adam([*encoder.parameters(), *decoder.parameters(), prior, *z.parameters()])

    def f(b, x, q):
        return bce(decoder(b), x) + bce(prior, b) - bce(q, b)

    def loss(x):
        logits = encoder(x)
        return z(logits, f, x, logits.detach(), context=x).loss.mean()

    made = torch.compile(loss) if compiled else loss

    def step(x: Tensor) -> None:
        adam.zero_grad()
        made(x).backward()
        adam.step()

    return step


def by_hand(name: str, options: dict, compiled: bool) -> Callable[[Tensor], None]:
    """The same step with the estimator itself: what `Latent` saves its users from."""
    encoder, decoder, prior = model()
    estimator = estimators.build(name, "bernoulli", (LATENTS,), (PIXELS,), **options)
    tuned = dict(estimator.named_parameters())
    adam = torch.optim.Adam([*encoder.parameters(), *decoder.parameters(), prior, *tuned.values()])

    def call(tuning, x, logits):
        inside = logits.detach()

        def f(b):
            rows = x.expand(*b.shape[:-1], PIXELS)
            return bce(decoder(b), rows) + bce(prior, b) - bce(inside, b)

        out = torch.func.functional_call(estimator, tuning, (logits, f), {"context": x})
        return estimator.tuning_loss(out), out

    def gradients(x):
        logits = encoder(x)
        if not compiled or not tuned:
            out = call(tuned, x, logits)[1]
            return logits, out, ()
        tuning, out = torch.func.grad(call, has_aux=True)({k: p.detach() for k, p in tuned.items()}, x, logits)
        return logits, out, tuning

    made = torch.compile(gradients) if compiled else gradients

    def step(x: Tensor) -> None:
        adam.zero_grad()
        logits, out, tuning = made(x)
        if tuned and not compiled:
            found = torch.autograd.grad(estimator.tuning_loss(out), list(tuned.values()), retain_graph=True)
            tuning = dict(zip(tuned, found, strict=True))
        for k in tuning:
            tuned[k].grad = tuning[k].detach()
        with torch.no_grad():
            for k, value in out.buffers.items():
                estimator.get_buffer(k).copy_(value)
        torch.autograd.backward([out.loss.mean(), logits], [None, out.grad.detach() / BATCH])
        adam.step()

    return step


def cost(repeats: int, seconds: float = 0.3) -> list[dict]:
    """Milliseconds a step through the layer and by hand, and the median of their ratio in turns."""
    x, rows = (torch.rand(BATCH, PIXELS) < 0.13).float(), []
    for compiled in (False, True):
        for name in COMPILED if compiled else COST:
            steps = [make(name, COST[name], compiled) for make in (by_layer, by_hand)]
            for step in steps:
                for _ in range(5):
                    step(x)
            begun = time.process_time()
            steps[1](x)
            count = max(3, int(seconds / (time.process_time() - begun)))
            taken: list[list[float]] = [[], []]
            for _ in range(repeats):
                for step, times in zip(steps, taken, strict=True):
                    begun = time.process_time()
                    for _ in range(count):
                        step(x)
                    times.append(1e3 * (time.process_time() - begun) / count)
            ratio = statistics.median(a / b for a, b in zip(*taken, strict=True))
            layer, hand = map(statistics.median, taken)
            rows.append({"estimator": name, "compiled": compiled, "layer": layer, "hand": hand, "ratio": ratio})
            print(rows[-1], flush=True)
    return rows


def imports(repeats: int) -> dict[str, float]:
    """Seconds for ``import torch``, and for `Latent` after it: the least of several new processes."""
    times = []
    for _ in range(repeats):
        done = subprocess.run([sys.executable, "-c", IMPORT], check=True, capture_output=True, text=True)
        times.append([float(t) for t in done.stdout.split()])
    return {"torch": min(t for t, _ in times), "Latent": min(t for _, t in times)}


def trained(steps: int, seeds: int, foreign: dict[str, str]) -> list[dict]:
    """Final bounds and milliseconds a step of every way to train the same model on digits."""
    images = data.load("digits")
    digits = {"train": images.train.float(), "valid": images.valid.float()}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "digits.pt")
        torch.save(digits, path)
        for name, make in OWN.items():
            rows.append(summary(name, [train(make, digits, steps, seed) for seed in range(seeds)]))
        for library, python in foreign.items():
            found = []
            for seed in range(seeds):
                command = [python, "-W", "ignore", str(ROOT / "scripts/library_models.py"), library, str(path)]
                done = subprocess.run(
                    [*command, str(steps), str(seed)],
                    capture_output=True,
                    text=True,
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                )
                if done.returncode:
                    raise SystemExit(f"{library}: {done.stderr}")
                found.append(json.loads(done.stdout.splitlines()[-1]))
            rows.append(summary(FOREIGN[library][0], found))
    return rows


def summary(name: str, found: list[dict]) -> dict:
    """Mean bounds with the standard deviation over seeds, the least time, and what was proved."""
    row = {"name": name, "seeds": len(found), "ms": min(r["ms"] for r in found)}
    for key in ("train", "valid"):
        values = [r[key] for r in found]
        row[key], row[f"{key}_std"] = statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0
    row |= next(({"proof": r["proof"]} for r in found if "proof" in r), {})
    print(row, flush=True)
    return row


def page(found: dict) -> str:
    """results/bench/library.md."""
    steps, machine = found["steps"], found["hardware"]
    ways = [
        [r["name"], *(f"{r[k]:.2f} ± {r[f'{k}_std']:.2f}" for k in ("train", "valid")), f"{r['ms']:.2f}"]
        for r in found["trained"]
    ]
    costs = [
        [r["estimator"], "compiled" if r["compiled"] else "eager", *(f"{r[k]:.2f}" for k in ("layer", "hand", "ratio"))]
        for r in found["cost"]
    ]
    proofs = [f"{r['name']}: {r['proof']}." for r in found["trained"] if "proof" in r]
    parts = [
        "# The library, beside other ways",
        f"Made by `make bench-library`; {machine.get('cpu', 'a CPU')}, torch {torch.__version__}, one thread, "
        "processor time. What is timed is in `scripts/library_models.py` and `scripts/bench_library.py`."
        + found.get("note", ""),
        "## The same small VAE",
        f"64 pixels (digits), 32 Bernoulli latents, linear maps, batches of 24, Adam 0.003, {steps:,} steps, the same "
        f"initial weights and batches, {found['trained'][0]['seeds']} seeds. ELBO of the discrete model in nats an "
        "image, higher is better, mean ± standard deviation over seeds.",
        tabulate(ways, ["", "train ELBO", "valid ELBO", "ms a step"], tablefmt="github", disable_numparse=True),
        "`relax_exp.testing.bias` on three Bernoulli variables and a linear f says: " + " ".join(proofs)
        if proofs
        else "",
        "## Against the same step by hand",
        f"{PIXELS} pixels, {LATENTS} latents, batches of {BATCH}: `Latent`, and the estimator with its gradients "
        "handed around by hand. The ratio is the median of alternating repetitions.",
        tabulate(
            costs, ["estimator", "", "Latent, ms", "by hand, ms", "ratio"], tablefmt="github", disable_numparse=True
        ),
        "## Import",
        f"`import torch` takes {found['imports']['torch']:.2f} s; `import relax_exp; relax_exp.Latent` after it "
        f"{found['imports']['Latent']:.3f} s (least of several new processes).",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storchastic", metavar="PYTHON", help="an interpreter that has storchastic and relax-exp")
    parser.add_argument("--pyro", metavar="PYTHON", help="an interpreter that has pyro-ppl and relax-exp")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "bench")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    foreign = {k: v for k in FOREIGN if (v := getattr(options, k))}
    found = {
        "hardware": hardware(),
        "steps": options.steps,
        "imports": imports(options.repeats),
        "trained": trained(options.steps, options.seeds, foreign),
        "cost": cost(options.repeats),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "library.json").write_text(json.dumps(found, indent=1) + "\n")
    (options.out / "library.md").write_text(page(found))
    print(page(found))


if __name__ == "__main__":
    main()
