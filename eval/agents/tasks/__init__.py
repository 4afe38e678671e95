"""The known tasks, one a file."""

from eval.agents.task import Task
from eval.agents.tasks.accesslog import ACCESSLOG
from eval.agents.tasks.calculator import CALCULATOR
from eval.agents.tasks.durations import DURATIONS
from eval.agents.tasks.hashtable import HASHTABLE
from eval.agents.tasks.intervals import INTERVALS
from eval.agents.tasks.invoices import INVOICES
from eval.agents.tasks.orbits import ORBITS
from eval.agents.tasks.regression import REGRESSION
from eval.agents.tasks.release import RELEASE
from eval.agents.tasks.renaming import RENAMING
from eval.agents.tasks.schemas import SCHEMAS
from eval.agents.tasks.settings import SETTINGS
from eval.agents.tasks.similar import SIMILAR
from eval.agents.tasks.warehouse import WAREHOUSE

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        ACCESSLOG,
        CALCULATOR,
        DURATIONS,
        HASHTABLE,
        INTERVALS,
        INVOICES,
        ORBITS,
        REGRESSION,
        RELEASE,
        RENAMING,
        SCHEMAS,
        SETTINGS,
        SIMILAR,
        WAREHOUSE,
    )
}
