"""The ServerApp that Flower starts from the bundle: ``flwr run`` on Flower's own simulation runtime.

The bundle itself is data, the study files; this code is what is installed.
"""

import threading
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from hansa_common.plan import read_plan
from hansa_server.app import GridExchange
from hansa_server.conduct import conduct
from hansa_server.left_out import taking_part
from hansa_server.progress import Quiet
from hansa_server.simulation import check, new_folder
from hansa_server.study import Study

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the study that the run configuration names as ``study``, into ``out`` or a new folder under ``runs``.

    Raises:
        HansaError: As ``hansa simulate`` says.
    """
    plan = read_plan(Path(str(context.run_config["study"])))
    names = check(plan)
    out = context.run_config.get("out")
    folder = new_folder(plan, Path(str(out)) if out else None)
    folder.save_plan(plan)
    study = Study(plan=plan, folder=folder, engine="ray", observer=Quiet(), names=taking_part(plan, names))
    exchange = GridExchange(grid, threading.Event(), expected=len(names))
    try:
        conduct(study, folder, lambda: study.run(exchange))
    finally:
        folder.close()
