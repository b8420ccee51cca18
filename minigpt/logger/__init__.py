"""Where metrics.jsonl is shown as well; no logger can stop or change a run."""
