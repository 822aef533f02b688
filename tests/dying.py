"""Work that ends its process, in a module of its own, so that a new process imports nothing else."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Mortal:
    """What `cohort._rows` asks of a task."""

    name: str

    def blank(self, status: str, **known: str) -> dict[str, str]:
        return {"subject": self.name, "status": status, **known}


def die(task: Mortal, devices: object = None) -> dict[str, str]:
    """`bad` ends the process it is in, as the kernel does when memory is short."""
    if task.name == "bad":
        os._exit(9)
    return task.blank("done")
