"""What people type by habit, and what cannot be held: a sentence each, exit code 2, and no folder."""

import sys

import pytest

from relax_exp.cli import main as cli
from relax_exp.cli.typed import readable
from relax_exp.errors import ConfigError, RunError, SettingError
from relax_exp.runs import out_of_memory


@pytest.fixture
def run(monkeypatch, tmp_path, capfd):
    """Runs the command in an empty folder: its exit code and what it said."""

    def typed(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["relax-exp", *arguments])
        code = cli.main()
        assert not list(tmp_path.iterdir()), "it left something behind"
        return code, capfd.readouterr().err

    return typed


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("", "choose a task and an estimator: relax-exp task=NAME estimator=NAME (--help lists them)"),
        ("experiment=tabel1 budget=cpu", "did you mean table1?"),
        ("task=toy estimator=relax learning_rate=1", "unknown key learning_rate; did you mean lr?"),
        ("task=toy estimator=relax --steps=10", "type steps=10"),
        (
            "task=toy estimator=relax --verbose",
            "--verbose: there is no such flag; there are --help, --version, --dry-run",
        ),
        ("task=cartpole estimator=relax task.env=ALE/Pong-v5", "type task=atari task.env=ALE/Pong-v5"),
        ("task=verify estimator.name=", "type estimator=NAME"),
        ("experiment=arsm_vae task=toy", "experiment=arsm_vae is a preset of task=categorical_vae: leave task=toy out"),
        ("task=toy estimator=relax threads=1000000", "must be a whole number from 1 to 512"),
        ("task=toy estimator=relax batch_size=1000000000000", "must be a whole number from 1 to 100,000,000"),
        ("task=toy estimator=relax task.latents=1000000000", "lower task.latents=1000000000"),
        ("task=vae estimator=relax batch_size=2000000", "lower batch_size=2000000"),
        ("task=toy estimator=relax device=cuda steps=1", "torch sees no CUDA device here"),
        ("task=cartpole estimator=relax task.env=CartPol-v0", "there is no environment CartPol-v0"),
    ],
)
def test_a_sentence_and_exit_code_2(run, typed, said):
    code, error = run(*typed.split())
    assert code == 2
    assert said in error and error.startswith("relax-exp: error: ") and error.count("\n") == 1


def test_paths_may_hold_any_letter():
    assert readable(["task=toy", "out=läufe/eins", "data_root='schön'"]) == [
        "task=toy",
        'out="läufe/eins"',
        "data_root='schön'",
    ]
    assert readable(["out=my runs"]) == ['out="my runs"']
    assert readable(["--cfg=job", "-m"]) == ["--cfg=job", "-m"]
    with pytest.raises(ConfigError, match="type task"):
        readable(["--task.t=0.4"])


def test_out_of_memory_is_a_sentence_with_what_to_lower():
    error = RuntimeError(
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000000 bytes."
    )
    assert out_of_memory.blame(error).startswith("out of memory for 4.0 GB: lower batch_size")
    assert out_of_memory.blame(MemoryError())
    assert out_of_memory.blame(RuntimeError("shapes differ")) is None
    assert cli._message(error)[1] == 1


def test_settings_found_wrong_late_have_the_exit_code_of_those_found_early():
    assert cli._message(SettingError("type this"))[1] == 2
    assert cli._message(RunError("it stopped"))[1] == 1
