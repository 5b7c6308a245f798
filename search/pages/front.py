"""The page's chart of a search for two objectives: which trials are the best of both."""

from search.answers import worth
from search.objectives import SECOND
from search.pages.charts import Axis, Chart, legend
from search.pages.result import Result

_BETTER = {"maximize": "More coverage is better", "minimize": "Less time is better"}


def front_figure(result: Result) -> str:
    """Score and second objective of the complete trials; empty where the search had none, or there are none yet."""
    second = result.config.second_objective
    if not second or not (values := worth(result.rows, result.histories, second)):
        return ""
    name, front = second.replace("_", " "), set(result.answers["front"])
    y = Axis.over([value.second for value in values.values()], label=name)
    chart = Chart(Axis.over([value.score for value in values.values()], log=True, label="score"), y)
    for trial_id in sorted(values, key=front.__contains__):
        kind = "complete best" if trial_id in front else "complete"
        chart.dot(*values[trial_id], kind, trial_id)
    remark = (
        f"Best of both: no other complete trial is better in one and as good in the other. {_BETTER[SECOND[second]]}."
    )
    return chart.figure(f"Score and {name}", remark, legend({"complete": "complete", "best": "best of both"}))
