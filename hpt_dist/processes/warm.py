"""What the server of warm processes does before it forks any: slow imports, once.

Nothing here may start a team of OpenMP or a CUDA context: a fork would copy their locks and not the
threads that hold them.
"""

import importlib
import signal

# A signal to the whole process group is for the trials, which listen; the server outlives them,
# and a child that does not listen yet is asked again.
for _number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(_number, signal.SIG_IGN)

# What every trial needs; MLflow's store is loaded when it is first used, and takes as long again.
for _name in (
    "hpt_dist.stages.runners",
    "mlflow",
    "mlflow.tracking.client",
    "mlflow.store.tracking.sqlalchemy_store",
):
    importlib.import_module(_name)
