"""Workers for tests of the Ray engine, which note every photo they compute, and may die of one."""

import os
import time
from pathlib import Path

from mrda.upscale.ray_engine import Worker
from mrda.upscale.stored_files import StoredFiles

DEADLY = "deadly.png"


class NotingFiles(StoredFiles):
    """Notes each result that is written; reading takes a moment."""

    def read(self, job, max_pixels):
        time.sleep(0.1)
        if Path(job.source).name == DEADLY:
            os._exit(137)  # as the kernel ends a process when memory runs out
        return super().read(job, max_pixels)

    def write(self, job, *arguments, **options):
        told = super().write(job, *arguments, **options)
        with open(job.output.parent / "written.txt", "a") as file:
            file.write(f"{job.name}\n")
        return told


class NotingWorker(Worker):
    def __init__(self, task):
        super().__init__(task)
        self._files = NotingFiles(task.places, task.store)
