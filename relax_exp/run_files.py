"""Names of the files in a run's folder, and the words for its status: what runs write and reports read."""

CONFIG = "config.yaml"  # the resolved configuration
META = "meta.json"  # command, commit, versions, hardware, status of every replica
METRICS = "metrics.jsonl"  # one line for each replica and evaluation
CHECKPOINT = "checkpoint.pt"
RELAXATION = "curves.json"  # of the toy: c(z(u)) beside f
TABLE = "table.json"  # rows of a run that measures and does not train
M_SAMPLE_LAW = "m_sample_law.json"  # of task=verify: rows of its second table
TUNED = "tuned.json"  # of task=verify: rows of what it trained on the side
VERDICTS = "measured.jsonl"  # of task=verify: cells that are done, so that a stopped run goes on behind them
LOCK = "lock"  # held by the process that writes
ERROR = "error.txt"  # the traceback of a job of a sweep; the next attempt removes it

RUNNING, INTERRUPTED, DONE, FAILED = "running", "interrupted", "done", "failed"
