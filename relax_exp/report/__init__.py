"""Tables and figures from run folders: reads files only, and never torch (see `relax_exp.cli.report`)."""
