"""``task=cartpole`` as runs: records, budgets, replicas, variances, films, resuming, and what it refuses."""

import json
import math

import gymnasium
import pytest
import torch
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from processes import Command, kill, save_always
from running import check_complete, execute, meta, resolve, whole
from torch.utils._pytree import tree_leaves

from relax_exp.envs import environments
from relax_exp.errors import ConfigError, RunError
from relax_exp.runs.build import build_task, build_trainer
from relax_exp.training.episodes import Episodes
from relax_exp.training.returns import LAST, Records

RUN = "task=cartpole out=run task.max_steps=30 "


def trainer(line):
    resolved = resolve(RUN + line)
    device = torch.device("cpu")
    return build_trainer(build_task(resolved, device), resolved["seeds"], resolved["lrs"], device, False)


def rows(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_solved_needs_a_full_hundred():
    records = Records.empty(2)
    both, one = torch.tensor([True, True]), torch.tensor([False, True])
    for _ in range(LAST - 1):
        records = records.add(torch.tensor([[10.0], [9.0]]).double(), torch.tensor([[10], [9]]), both, 9.5)
    assert records.row(0)["solved_episodes"] is None and records.row(0)["return100"] == 10
    records = records.add(torch.tensor([[10.0], [9.0]]).double(), torch.tensor([[10], [9]]), both, 9.5)
    assert records.row(0)["solved_episodes"] == 100 and records.row(0)["solved_frames"] == 1000
    for _ in range(50):
        records = records.add(torch.tensor([[0.0], [10.0]]).double(), torch.tensor([[1], [10]]), one, 9.5)
    first, second = records.row(0), records.row(1)
    assert first["episodes"] == 100 and first["return100"] == 10, "it rested"
    assert second["solved_episodes"] == 150 and second["solved_frames"] == 900 + 500
    assert second["return100"] == 9.5 and second["return"] == pytest.approx((900 + 500) / 150)
    records = records.add(torch.tensor([[-500.0], [-500.0]]).double(), torch.tensor([[1], [1]]), both, 9.5)
    assert records.row(1)["solved_episodes"] == 150, "the first time counts"


def test_several_episodes_of_an_update_count_one_by_one():
    records = Records.empty(1)
    returns, frames = torch.arange(60.0).view(1, 60).double(), torch.full((1, 60), 3)
    for _ in range(2):
        records = records.add(returns, frames, torch.tensor([True]), 30.0)
    row = records.row(0)
    assert row["episodes"] == 120 and row["frames"] == 360
    last = [*range(20, 60), *range(60)]
    assert row["return100"] == pytest.approx(sum(last) / 100)
    # The mean over the last hundred grows by what enters minus what leaves.
    mean = {n: sum([*range(60), *range(60)][n - 100 : n]) / 100 for n in range(100, 121)}
    solved = next((n for n, value in mean.items() if value >= 30.0), None)
    assert row["solved_episodes"] == solved


def test_a_replica_sees_what_it_sees_alone():
    line = "estimator=relax estimator.width=4 "
    many = trainer(line + "seeds=[0,1] lrs=[0.01,0.003]")
    alone = trainer(line + "seed=1 lr=0.003")
    for _, _ in zip(many.advance(25), alone.advance(25), strict=True):
        pass
    assert many.records.row(3) == alone.records.row(0)
    for name, value in alone.state.model.params.items():
        assert torch.allclose(many.state.model.params[name][3], value[0], atol=1e-5)
    assert many.records.row(0) != many.records.row(2)


def test_a_budget_of_frames_freezes_a_replica_and_ends_the_run(here):
    replicas = trainer("estimator=a2c seeds=[0,1,2] task.frames=250")
    for _ in replicas.advance(1000):
        active = replicas.active
        if not active.all() and active.any():
            break
    rest = int((~active).nonzero()[0])
    before = {k: v[rest].clone() for k, v in replicas.state.model.params.items()}
    row = replicas.records.row(rest)
    assert 250 <= row["frames"] < 280
    assert not replicas.finished
    steps = [*replicas.advance(1000)]
    assert replicas.finished and 0 < len(steps) < 100 and not [*replicas.advance(5)]
    assert replicas.records.row(rest) == row
    for name, value in before.items():
        assert torch.equal(replicas.state.model.params[name][rest], value)

    assert execute(RUN + "estimator=a2c 'seeds=[0,1,2]' task.frames=250 steps=1000 eval_every=8") == 0
    written = rows(here / "run")
    final = [row for row in written if row["step"] == written[-1]["step"]]
    assert [row["frames"] for row in final] == [replicas.records.row(i)["frames"] for i in range(3)]
    about = meta(here / "run")
    assert about["status"] == "done" and all(r["status"] == "done" for r in about["replicas"])
    idle = next(row for row in final if row["episodes"] < max(row["episodes"] for row in final))
    assert "seeds that solve it" in (here / "run" / "table.md").read_text()
    assert idle["return100"] is not None


RELAX = "estimator=relax estimator.width=4 estimator.warmup=3 task.frames=260"


@pytest.mark.parametrize("options", [RELAX, "estimator=arsm task.pseudo_rollouts=4 task.frames=1500"])
def test_killed_and_continued(here, options):
    line = RUN + f"{options} 'seeds=[0,1]' steps=14 eval_every=5 batch_size=2 task.variance_every=5 "
    line += "task.variance_draws=3 "
    for setup in ([save_always, kill("step", 2)], [save_always, kill("step", 5)], [kill("append", 1, after=True)]):
        code, output = Command(line, here, *setup).wait()
        assert code == -9, output
    code, output = Command(line, here).wait()
    assert code == 0, output
    check_complete(here / "run", whole(line))


def test_episodes_with_fewer_choices_than_pseudo_rollouts(here):
    assert execute(RUN + "estimator=arsm task.max_steps=7 steps=2 eval_every=2") == 0
    assert (here / "run" / "table.md").exists()


def test_the_variance_is_that_of_fresh_updates(here):
    line = "estimator=reinforce seed=3 task.variance_every=4 task.variance_draws=40 eval_every=2 steps=8"
    assert execute(RUN + line) == 0
    measured = {row["step"]: row.get("grad/log_variance") for row in rows(here / "run")}
    assert [step for step, value in measured.items() if value is not None] == [4, 8]
    replicas = trainer(line)
    for _ in replicas.advance(4):
        pass
    (again,) = replicas.variance(4)
    assert again["grad/log_variance"] == measured[4]
    assert again["grad/mean_log_variance"] < again["grad/log_variance"]
    other = replicas.variance(5)[0]["grad/log_variance"]
    assert other != measured[4] and math.isclose(other, measured[4], abs_tol=1.5)


def test_a_film_of_an_episode(here, monkeypatch, capfd):
    def make(*args, **kwargs):
        env = original(*args, **kwargs)
        if "render_mode" in kwargs:
            env.envs[0].render = lambda: torch.zeros((40, 60, 3), dtype=torch.uint8).numpy()
        return env

    original = environments.make
    monkeypatch.setattr(environments, "make", make)
    assert execute(RUN + "estimator=reinforce steps=2 eval_every=2 'seeds=[0,1]'") == 0
    assert [path.name for path in (here / "run").glob("*.gif")] == ["episode_seed-0_lr-0.01.gif"]


def test_without_the_package_that_draws_there_is_no_film(here, monkeypatch, capfd):
    def make(*args, **kwargs):
        if "render_mode" in kwargs:
            raise RunError("CartPole-v0 needs a package")
        return original(*args, **kwargs)

    original = environments.make
    monkeypatch.setattr(environments, "make", make)
    assert execute(RUN + "estimator=reinforce steps=2 eval_every=2 'seeds=[0,1]'") == 0
    assert capfd.readouterr().err.count("no film of an episode: CartPole-v0 needs a package") == 1


@pytest.mark.parametrize(
    "line, message",
    [
        ("estimator=vimco", "vimco is not for task=cartpole: use .*reinforce.*arsm"),
        ("estimator=disarm", "disarm is not for categorical variables"),
        ("estimator=relax estimator.surrogate=relaxed", "relax differentiates f, which an environment forbids"),
        ("estimator=a2c track=[reinforce]", "track=.* follows an estimator on minibatches"),
        ("estimator=a2c task.variance_every=30", "must be a multiple of eval_every=50"),
        ("estimator=a2c task.variance_every=1 eval_every=1", "1500 measurements .* limit: use at least 30"),
        ("estimator=a2c task.gamma=1.5", "task.gamma=1.5: must be .* from 0 to 1"),
        ("estimator=a2c task.optimizer=lbfgs", "task.optimizer=lbfgs: must be"),
    ],
)
def test_what_is_refused(line, message):
    with pytest.raises(ConfigError, match=message):
        resolve("task=cartpole " + line)


def test_an_environment_without_a_limit_or_a_threshold():
    if "tests/Endless-v0" not in gymnasium.registry:
        gymnasium.register("tests/Endless-v0", CartPoleEnv)
    line = "task=cartpole estimator=a2c task.env=tests/Endless-v0 "
    with pytest.raises(RunError, match=r"have no time limit: set one, as task\.max_steps=1000"):
        build_task(resolve(line), torch.device("cpu"))
    with pytest.raises(RunError, match=r"does not say which return solves it: set task\.threshold"):
        build_task(resolve(line + "task.max_steps=30"), torch.device("cpu"))


def test_compiled_is_the_same():
    """Also where the compiled step, which overwrites its state, finds replicas that rest."""
    resolved = resolve(RUN + "estimator=relax estimator.width=4 seeds=[0,1] task.frames=250 task.max_steps=12")
    task = build_task(resolved, torch.device("cpu"))
    plain, compiled = (Episodes(task, [0, 1], [0.01], compiled=c, backend="aot_eager") for c in (False, True))
    for _, _ in zip(plain.advance(100), compiled.advance(100), strict=True):
        pass
    assert plain.finished and compiled.finished
    assert [plain.records.row(i) for i in (0, 1)] == [compiled.records.row(i) for i in (0, 1)]
    for one, other in zip(tree_leaves(plain.state.model), tree_leaves(compiled.state.model), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "sgd"])
def test_every_optimizer_moves_the_policy(optimizer):
    replicas = trainer(f"estimator=a2c task.optimizer={optimizer}")
    before = {k: v.clone() for k, v in replicas.state.model.params.items()}
    for _ in replicas.advance(2):
        pass
    assert all(not torch.equal(before[k], v) for k, v in replicas.state.model.params.items())


def test_it_learns(here):
    """Full episodes within 250 updates, from 22 steps at the start."""
    line = "task=cartpole estimator=a2c 'seeds=[0,1,2]' steps=250 eval_every=50 out=run"
    assert execute(line) == 0
    written = rows(here / "run")
    first, last = ([row["return"] for row in written if row["step"] == step] for step in (50, 250))
    assert sum(first) / 3 < 60 and sum(last) / 3 > 110


def test_a_replica_stops_when_it_has_solved_the_environment():
    one = trainer("estimator=reinforce task.until_solved=true task.threshold=5 seeds=[0,1]")
    steps = [*one.advance(150)]
    assert steps[-1] == LAST and one.finished, "any policy returns more than 5"
    assert one.records.episodes.tolist() == [LAST, LAST] == one.records.solved_episodes.tolist()
