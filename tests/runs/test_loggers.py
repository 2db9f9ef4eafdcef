"""What is printed while a run goes on."""

from relax_exp.runs.loggers import JOB, Console


def test_lines_of_jobs_that_run_at_once_name_their_job(monkeypatch, capfd):
    console = Console(10, 0, ("loss",))
    console.rows([{"step": 5, "loss": 1.5}])
    monkeypatch.setenv(JOB, "3")
    console.rows([{"step": 10, "loss": 0.5}])
    console.close()
    assert capfd.readouterr().err.splitlines() == ["step 5: loss 1.5", "[job 3] step 10: loss 0.5"]
