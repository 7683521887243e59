"""Stands in for wandb: what it is given is a line of wandb.jsonl."""

import contextlib
import json


class Run:
    def __init__(self, file):
        self.file = file

    def log(self, data, step=None):
        self.file.write(json.dumps([data, step]) + "\n")


@contextlib.contextmanager
def init(project=None, config=None):
    with open("wandb.jsonl", "w") as file:
        yield Run(file)
