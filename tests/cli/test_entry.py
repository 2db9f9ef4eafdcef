"""The start of the installed commands."""

from relax_exp.cli import entry


def test_ctrl_c_while_modules_load_is_no_traceback(monkeypatch, capsys):
    def interrupted(module):
        raise KeyboardInterrupt

    monkeypatch.setattr(entry.importlib, "import_module", interrupted)
    assert entry.run() == 130
    assert capsys.readouterr().err == "\nstopped\n"
