"""A pytest plugin that shows how far the benches are, and keeps what failed."""

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar


class Progress:
    def __init__(self, console):
        self.bar = Bar(
            BarColumn(30),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=console,
            transient=True,
            redirect_stdout=False,  # pytest's go to the log
            redirect_stderr=False,
            refresh_per_second=4,
        )
        self.task = self.bar.add_task("starting", total=None)
        self.failures = {}

    def __enter__(self):
        self.bar.start()
        return self

    def __exit__(self, *exception):
        self.bar.stop()

    def pytest_collection_finish(self, session):
        self.bar.update(self.task, total=len(session.items))

    def pytest_runtest_setup(self, item):
        self.bar.update(self.task, description=str(item.callspec.params["point"]))

    def pytest_runtest_logreport(self, report):
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            self.failures[report.nodeid] = crash.message if crash else str(report.longrepr)
        if report.when == "teardown":
            self.bar.advance(self.task)
