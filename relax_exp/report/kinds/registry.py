"""Columns of the tables, by kind of cell: what is averaged over seeds, and how it is written."""

from __future__ import annotations

from relax_exp.report.groups import FIXED_THETA
from relax_exp.report.kinds.control import solved
from relax_exp.report.kinds.toy import NEAR, found, theta
from relax_exp.report.kinds.vae import relaxed, validation
from relax_exp.report.statistics import LOG_VARIANCE, MEAN_LOG_VARIANCE, TIME, Column, final, first, last, log_variance

TITLES = {
    "toy": "Toy problem",
    FIXED_THETA: "Toy problem at fixed θ",
    "vae": "Binary VAE",
    "categorical_toy": "Categorical toy problem",
    "lax_toy": "Continuous toy problem",
    "categorical_vae": "Categorical VAE",
    "sequence": "Text with latents over time",
    "cartpole": "Control with few actions",
    "continuous": "Control with continuous actions",
    "atari": "Atari games",
}
COLUMNS: dict[str, list[Column]] = {
    "toy": [
        final("excess loss × 10⁴", "excess", 1e4),
        Column("median θ", theta),
        Column("seeds at optimum", found),
        MEAN_LOG_VARIANCE,
        TIME,
    ],
    FIXED_THETA: [
        log_variance("first log-variance", "first log-variance", first(LOG_VARIANCE)),
        log_variance("last log-variance", "last log-variance", last(LOG_VARIANCE)),
        TIME,
    ],
    "categorical_toy": [
        final("excess loss × 10³", "excess", 1e3),
        final("exact loss", "loss", decimals=4),
        final("p(best)", "p_best", decimals=3),
        MEAN_LOG_VARIANCE,
        TIME,
    ],
    "vae": [
        final("train ELBO", "train/elbo"),
        validation("valid ELBO", "valid/elbo"),
        validation("valid 100-sample bound", "valid/bound100"),
        log_variance("log-variance", LOG_VARIANCE, last(LOG_VARIANCE)),
        TIME,
    ],
}
COLUMNS["categorical_vae"] = [
    COLUMNS["vae"][0],
    Column("train relaxed", relaxed),
    *COLUMNS["vae"][1:3],
    final("valid KL form †", "valid/relaxed_kl"),
    final("valid density form †", "valid/relaxed_density"),
    *COLUMNS["vae"][3:],
]
COLUMNS["sequence"] = [
    final("train bpc", "train/bpc", decimals=3),
    final("held-out bpc", "valid/bpc", decimals=3),
    final("held-out bpc, 100 samples", "valid/bpc100", decimals=3),
    final("order-2 counts", "valid/bpc_counts", decimals=3),
    log_variance("log-variance", LOG_VARIANCE, last(LOG_VARIANCE)),
    TIME,
]
COLUMNS["lax_toy"] = [
    final("excess loss × 10³", "excess", 1e3),
    final("mean", "mean", decimals=3),
    final("std", "std", decimals=3),
    MEAN_LOG_VARIANCE,
    TIME,
]
COLUMNS["cartpole"] = [
    final("episodes to solve", "solved_episodes", decimals=0),
    final("frames to solve", "solved_frames", decimals=0),
    Column("seeds that solve it", solved),
    final("mean return of the last 100", "return100", decimals=1),
    MEAN_LOG_VARIANCE,
    TIME,
]
COLUMNS["continuous"] = COLUMNS["cartpole"]
COLUMNS["atari"] = [
    final("million frames", "frames", 1e-6),
    final("score", "eval/return", decimals=1),
    final("human-normalised score", "eval/human_normalised"),
    final("training score", "return100", decimals=1),
    log_variance("log-variance", LOG_VARIANCE, last(LOG_VARIANCE)),
    final("frames/s", "time/frames_per_second", decimals=0),
    TIME,
]
OTHER = [
    final("loss", "loss"),
    log_variance("log-variance", LOG_VARIANCE, last(LOG_VARIANCE)),
    TIME,
]  # a task that has no columns of its own
COMMON = "Mean over seeds ± 95% t interval at the last step."
LOG = "Log-variance: natural log of the variance of the gradient"
RUN = (
    'mean over the run; "none in n%": in so many evaluations all draws gave the same gradient, and these are left out.'
)
NOTES = {
    "toy": f"{COMMON} Excess loss: exact expected loss above its minimum. Seeds at optimum: every θ within {NEAR:g} of "
    f"the best. {LOG}, {RUN}",
    FIXED_THETA: f"{COMMON} Only the control variate is tuned. {LOG}, at the first and the last evaluation.",
    "vae": f"{COMMON} Nats per example, higher is better; the train ELBO is the mean since the evaluation before. "
    f"{LOG}. †: on the first 1,000 validation images.",
}
NOTES["categorical_toy"] = (
    f"{COMMON} Exact loss, its excess over the minimum, and the probability of the best category: all exact. {LOG}, "
    f"{RUN}"
)
NOTES["lax_toy"] = (
    f"{COMMON} Excess loss: exact expected loss above its infimum; mean and standard deviation of the Gaussian. {LOG}, "
    f"{RUN}"
)
NOTES["categorical_vae"] = (
    f"{NOTES['vae']} Bounds are those of the discrete model at hard samples. Train relaxed: minus the objective that "
    "was trained at relaxed samples, in the form that is named; KL and density form: what these objectives say of the "
    "same model, of which the KL form bounds no likelihood."
)
NOTES["sequence"] = (
    f"{COMMON} Bits per character of the discrete bound, lower is better; with one category the model has no latents. "
    f"Counts: an order-2 count model on the same held-out characters. {LOG}."
)
NOTES["cartpole"] = (
    f"{COMMON} Solved: the mean return of the last 100 episodes, of a full hundred, has reached the threshold, where "
    "the environment has one; "
    f"episodes and frames until then are means over the seeds that get there. {LOG} of an update, {RUN}"
)
NOTES["continuous"] = NOTES["cartpole"]
NOTES["atari"] = (
    f"{COMMON} Score: of the evaluation's episodes; human-normalised: 0 is an agent that acts at random, 1 a human "
    "(Wang et al. 2016), – where nobody measured; training score: of the last 100 episodes. "
    f"{LOG} on the last rollout."
)
SHARED = "Wall time: of the whole run, all its seeds and learning rates."
