"""The known tasks, one a file."""

from eval.agents.task import Task
from eval.agents.tasks.durations import DURATIONS
from eval.agents.tasks.invoices import INVOICES

TASKS: dict[str, Task] = {task.name: task for task in (DURATIONS, INVOICES)}
