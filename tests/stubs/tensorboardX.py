"""Stands in for tensorboardX: what it is given is a line of tensorboardX.jsonl."""

import json


class SummaryWriter:
    def __init__(self, logdir=None):
        self.path = "tensorboardX.jsonl"

    def add_scalar(self, tag, scalar_value, global_step=None):
        with open(self.path, "a") as file:
            file.write(json.dumps([tag, float(scalar_value), int(global_step)]) + "\n")

    def close(self):
        self.path = None
