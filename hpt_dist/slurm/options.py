"""Options of sbatch that a profile may add: each value is checked to be the name that it is. Pure.

Those that hpt-dist sets itself are refused with the setting to use instead. A type of GPU stands in
`gres` or `gpus-per-node`, as sbatch has it; how many is what each job gets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from hpt_dist.recipe import Spec
from hpt_dist.slurm.container import matching


def _is_exclusive(value: object) -> object:
    if value is None or isinstance(value, bool) or value in ("user", "mcs", "topo"):
        return value
    raise ValueError("this must be true, user, mcs or topo")


_Name = Annotated[str, matching(r"[A-Za-z0-9_][\w.,@+-]*", "a name of letters, digits and _.,@+-")]
_Nodes = Annotated[
    str, matching(r"[A-Za-z0-9_[][\w.,\[\]-]*", "names of nodes such as n[01-08],x2")
]
_Licenses = Annotated[
    str, matching(r"[A-Za-z0-9_][\w.,:|@+/-]*", "licences such as name:2 or name@server:1,other")
]
_GRES = r"[A-Za-z]\w*(:[A-Za-z_][\w.-]*)?(:\d+[KMGT]?)?"
_Gres = Annotated[
    str,
    matching(rf"none|{_GRES}(,{_GRES})*", "resources such as gpu:a100, gpu:a100:8 or nvme:100G"),
]
_Gpus = Annotated[str, matching(r"[A-Za-z_][\w.-]*(:\d+)?", "a type of GPU such as a100 or a100:8")]
_Features = Annotated[
    str, matching(r"[\w.,:&|!*()\[\]-]+", "names of features joined by the signs & | , ! ( ) [ ] *")
]
_Size = Annotated[str, matching(r"\d+[KMGT]?", "a size such as 100G")]
_Word = Annotated[
    str, matching(r"[A-Za-z0-9_][\w.,:@=/+*-]*", "words of letters, digits and _.,:@=/+*-")
]
_Text = Annotated[
    str, matching(r"[\w.,:;@=/+()* -]+", "a text of letters, digits, spaces and _.,:;@=/+()*-")
]
_Exclusive = Annotated[Any, AfterValidator(_is_exclusive)]
_Number = Annotated[int, Field(ge=0)]


# Options that hpt-dist sets itself, and what to use instead.
OURS = {
    name: instead
    for names, instead in (
        ("account partition qos constraint nodes", "write it at the top of the profile"),
        (
            "ntasks ntasks-per-node ntasks-per-gpu gpus gpus-per-task gpus-per-socket",
            "write `gpus_per_node`: each GPU has one process",
        ),
        ("cpus-per-task cpus-per-gpu", "write `cpus_per_gpu`, for sharding `cpus_per_task`"),
        ("mem mem-per-cpu mem-per-gpu", "write `memory_gb`"),
        ("time time-min", "write `time_min`"),
        ("signal", "write `signal_lead_s`"),
        ("requeue no-requeue", "write `requeue_limit`"),
        ("array", "write `max_parallel_jobs`"),
        ("export export-file get-user-env", "write `env`"),
        ("propagate", "jobs get the limits of the nodes; `ulimit` in `setup` changes them"),
        ("container", "write `container`"),
        ("hold", "launch with --hold"),
        ("dependency kill-on-invalid-dep", "jobs wait for the trials that they start from"),
        (
            "job-name output error input open-mode chdir",
            "write `shared_folder`, where scripts and logs lie",
        ),
        ("distribution", "processes fill one node after the other"),
        ("clusters", "launch where sbatch reaches that cluster"),
        ("wrap wait parsable test-only quiet verbose", "hpt-dist reads what sbatch prints"),
    )
    for name in names.split()
}


class SbatchOptions(Spec):
    """What sbatch gets beside what hpt-dist sets, under the names that sbatch has for it."""

    model_config = ConfigDict(
        alias_generator=lambda name: name.replace("_", "-"), populate_by_name=True
    )

    INSTEAD: ClassVar[Mapping[str, str]] = {
        spelling: instead
        for name, instead in OURS.items()
        for spelling in (name, name.replace("-", "_"))
    }

    # Where.
    reservation: _Name | None = None
    nodelist: _Nodes | None = None
    exclude: _Nodes | None = None
    prefer: _Features | None = None
    exclusive: _Exclusive = None
    contiguous: bool | None = None
    spread_job: bool | None = None
    use_min_nodes: bool | None = None
    oversubscribe: bool | None = None
    switches: _Word | None = None
    reboot: bool | None = None
    # What of it.
    gres: _Gres | None = None
    gpus_per_node: _Gpus | None = None
    gres_flags: _Word | None = None
    gpu_bind: _Word | None = None
    gpu_freq: _Word | None = None
    cpu_freq: _Word | None = None
    licenses: _Licenses | None = None
    tmp: _Size | None = None
    hint: Literal["compute_bound", "memory_bound", "multithread", "nomultithread"] | None = None
    threads_per_core: _Number | None = None
    cores_per_socket: _Number | None = None
    sockets_per_node: _Number | None = None
    ntasks_per_core: _Number | None = None
    ntasks_per_socket: _Number | None = None
    mincpus: _Number | None = None
    core_spec: _Number | None = None
    thread_spec: _Number | None = None
    mem_bind: _Word | None = None
    network: _Word | None = None
    bb: _Text | None = None
    power: _Word | None = None
    # When, and how it is counted.
    nice: int | None = None
    priority: _Number | None = None
    begin: _Word | None = None
    wckey: _Name | None = None
    mcs_label: _Name | None = None
    comment: _Text | None = None
    admin_comment: _Text | None = None
    mail_user: _Word | None = None
    mail_type: _Word | None = None
    profile: _Word | None = None
    acctg_freq: _Word | None = None

    @model_validator(mode="after")
    def _asks_for_gpus_once(self) -> SbatchOptions:
        if self.gpus_per_node and self.gres and _gpu_entries(self.gres):
            raise ValueError("gres and gpus-per-node both name GPUs: leave one of them out")
        if self.gres and len(_gpu_entries(self.gres)) > 1:
            raise ValueError("gres names two types of GPU, and a trial trains on one")
        return self

    @property
    def gpus_named(self) -> int | None:
        """How many GPUs of a node they name; None where they name no number."""
        named = self.gpus_per_node or next(iter(_gpu_entries(self.gres or "")), "")
        count = named.rpartition(":")[2]
        return int(count) if count.isdecimal() else None

    def for_job(self, gpus: int) -> dict[str, str | bool]:
        """Return what the job of some trials gets, by the names of the options.

        Args:
            gpus: of each of its nodes; 0 for none.
        """
        given = self.model_dump(by_alias=True, exclude_none=True)
        options = {
            name: value if isinstance(value, bool) else str(value)
            for name, value in given.items()
            if value is not False
        }
        named = _gpu_entries(str(options.pop("gres", "")))
        kind = str(options.pop("gpus-per-node", "")).partition(":")[0]
        rest = [one for one in (self.gres or "").split(",") if one and one not in (*named, "none")]
        if gpus and named:
            kind = named[0].removeprefix("gpu").strip(":").partition(":")[0]
            rest.insert(0, f"gpu:{gpus}" if kind.isdecimal() or not kind else f"gpu:{kind}:{gpus}")
        elif gpus and self.gres != "none":
            options["gpus-per-node"] = f"{kind}:{gpus}" if kind else str(gpus)
        return options | ({"gres": ",".join(rest)} if rest else {})


def left_out(environment: Mapping[str, str], chosen: Sequence[str | None]) -> str:
    """Return which variables sbatch would read and does not get, in words; empty for none.

    Args:
        environment: of the process that submits.
        chosen: what the profile names, perhaps by these variables.
    """
    job = environment.get("SLURM_JOB_ID")
    begins = ("SBATCH_",) if job else ("SBATCH_", "SLURM_")
    names = [
        name
        for name, value in sorted(environment.items())
        if name.startswith(begins) and name != "SLURM_CONF" and value not in chosen
    ]
    shown = [name + _instead_of(name) for name in names]
    return ", ".join([*shown, *([f"SLURM_* of the job {job} that this runs in"] if job else [])])


def _instead_of(variable: str) -> str:
    option = variable.partition("_")[2].lower().replace("_", "-")
    option = {"timelimit": "time", "mem-per-node": "mem"}.get(option, option)
    known = {field.alias for field in SbatchOptions.model_fields.values()}
    if variable.startswith("SBATCH_") and option in OURS:
        return f" ({option}: {OURS[option]})"
    return f" (write `sbatch: {{{option}: ...}}`)" if option in known else ""


def _gpu_entries(gres: str) -> list[str]:
    return [one for one in gres.split(",") if re.match(r"gpu(:|$)", one)]
