"""Modal: one app a study, one function a cell; what a function returns is unpacked into the study. Torch-free.

Only the three calls that are marked reach Modal's servers.
"""

from __future__ import annotations

import io
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import yaml

from worldsize.config.load import Loaded, from_dict
from worldsize.config.schema import Config
from worldsize.errors import RunError, UserError
from worldsize.launch.cost import time_limit_s
from worldsize.launch.engine import Status
from worldsize.launch.jobs import Job
from worldsize.launch.records import JobRecord
from worldsize.launch.ship import REMOTE_DATA, rebased, requirements, shipped_files
from worldsize.records import Origin
from worldsize.study.grid import Planned

LONGEST_S = 24 * 3600
"""Modal's own limit for one call."""


class CellOutput(TypedDict):
    """What a cell's function returns."""

    runs: dict[str, bytes]
    """Run folder → the folder, as a gzipped tar."""
    failures: dict[str, str]
    """Run folder → why it did not finish."""


def train_cell(cell: dict[str, Any]) -> CellOutput:
    """Run a cell's repeats on this machine's devices and return their folders: the body of each function.

    `cell` is what `payload` makes. A run that fails is told of, and the next one goes on.
    """
    from worldsize.launch.local import launch

    origins = {key: Origin.model_validate(origin) for key, origin in cell["origins"].items()}
    loaded = Loaded(from_dict(cell["config"]), origins)
    output: CellOutput = {"runs": {}, "failures": {}}
    for folder in cell["runs"]:
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / "run"
            try:
                launch(loaded, world_size=cell["world_size"], out=out, command=cell["command"])
                output["runs"][folder] = packed(out)
            except UserError as error:
                output["failures"][folder] = str(error)
    return output


def packed(folder: Path) -> bytes:
    """Return a run's folder as a gzipped tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.name != ".lock":
                tar.add(path, arcname=str(path.relative_to(folder)))
    return buffer.getvalue()


def unpack(archive: bytes, folder: Path) -> None:
    """Lay a returned run into the study; result.json comes last, since its presence means that the run is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        for member in sorted(tar.getmembers(), key=lambda member: member.name == "result.json"):
            tar.extract(member, folder, filter="data")


class Modal:
    """The Modal account of this machine."""

    def __init__(
        self, out: Path, config: Config, loaded: Mapping[str, Loaded], jobs: Sequence[Job], *, has_gpus: bool
    ) -> None:
        self.out = out
        self.config = config
        self.loaded = loaded
        self.jobs = jobs
        self.has_gpus = has_gpus
        self._outputs: dict[str, CellOutput] = {}
        self._errors: dict[str, str] = {}
        self._is_deployed = False
        if any(job.shape.num_nodes > 1 for job in jobs):
            raise UserError("--on modal runs a cell in one container: use --nodes 1 and --gpus-per-node 1,2,4,8.")
        if has_gpus and config.launch.gpu is None:
            raise UserError("--on modal needs the kind of GPU: --gpu H100 (or A100-80GB, L4, T4 …).")

    @property
    def app_name(self) -> str:
        return f"worldsize-{self.out.name}"[:60]

    def options(self, job: Job) -> dict[str, Any]:
        """Return what a cell's function asks Modal for, beside its image."""
        limit = self.config.launch.time
        num_ranks = job.shape.ranks_per_node
        asked: dict[str, Any] = {
            "name": job.name,
            "timeout": min(LONGEST_S, int(time_limit_s(limit))) if limit else LONGEST_S,
            "cpu": float(num_ranks * (self.config.launch.cpus_per_rank or self.config.device.threads_per_rank)),
        }
        return asked | ({"gpu": f"{self.config.launch.gpu}:{num_ranks}"} if self.has_gpus else {})

    def payload(self, job: Job, runs: Sequence[Planned]) -> dict[str, Any]:
        """Return the argument of a cell's function."""
        loaded = rebased(self.loaded[job.runs[0].cell.name], f"/root/{REMOTE_DATA}")
        return {
            "config": loaded.config.model_dump(mode="json"),
            "origins": {key: origin.model_dump(mode="json") for key, origin in loaded.origins.items()},
            "runs": [planned.folder for planned in runs],
            "world_size": job.shape.world_size,
            "command": ["worldsize", *sys.argv[1:]],
        }

    def app(self) -> tuple[Any, dict[str, Any]]:
        """Return the app and its functions, one a cell. Nothing has reached Modal yet."""
        modal = _modal()
        image = modal.Image.debian_slim(python_version=_python_version()).uv_pip_install(*requirements())
        for name, path in shipped_files(list(self.loaded.values())).items():
            add = image.add_local_dir if path.is_dir() else image.add_local_file
            image = add(str(path), f"/root/{REMOTE_DATA}/{name}")
        image = image.add_local_python_source("worldsize", ignore=["**/__pycache__"])
        app = modal.App(self.app_name)
        functions = {
            job.name: app.function(image=image, serialized=True, **self.options(job))(train_cell) for job in self.jobs
        }
        return app, functions

    def render(self, job: Job, runs: Sequence[Planned]) -> str:
        """Return what the function asks for and gets, as YAML."""
        described = {
            "app": self.app_name,
            "function": self.options(job),
            "image": {"python": _python_version(), "packages": requirements()},
            "files": {name: str(path) for name, path in shipped_files(list(self.loaded.values())).items()},
            "world_size": job.shape.world_size,
            "runs": [planned.folder for planned in runs],
        }
        return yaml.safe_dump(described, sort_keys=False)

    def submit(self, job: Job, runs: Sequence[Planned]) -> str:
        """Deploy the app once, call the cell's function without waiting, and return the call's id."""
        modal = _modal()
        try:
            if not self._is_deployed:
                app, _ = self.app()
                app.deploy(name=self.app_name)  # reaches Modal
                self._is_deployed = True
            function = modal.Function.from_name(self.app_name, job.name)
            return str(function.spawn(self.payload(job, runs)).object_id)  # reaches Modal
        except modal.exception.Error as error:
            raise RunError(f"Modal refused {job.name}: {error}. `modal setup` stores an account's token.") from error

    def poll(self, records: Sequence[JobRecord]) -> dict[str, Status]:
        """Ask each call whether it has returned; Modal does not say whether one still waits for its GPUs."""
        return {record.name: self._status(record) for record in records}

    def _status(self, record: JobRecord) -> Status:
        modal = _modal()
        call_id = record.id or ""
        try:
            self._outputs[call_id] = modal.FunctionCall.from_id(call_id).get(timeout=0)  # reaches Modal
        except modal.exception.OutputExpiredError:
            self._errors[call_id] = "its results were kept for a week and are gone"
        except modal.exception.FunctionTimeoutError:
            self._errors[call_id] = "it ran past its time limit (launch.time)"
        except TimeoutError:
            return Status("running")
        except modal.exception.ConnectionError as error:
            raise RunError(
                f"Modal cannot be reached ({error}). The calls go on; the same command follows them."
            ) from error
        except Exception as error:  # whatever the function raised there is raised here
            self._errors[call_id] = f"{type(error).__name__}: {error}"
        return Status("ended")

    def collect(self, record: JobRecord) -> None:
        """Unpack the returned run folders into the study."""
        output = self._outputs.get(record.id or "")
        for folder, archive in (output["runs"] if output else {}).items():
            unpack(archive, self.out / folder)

    def explain(self, record: JobRecord) -> str:
        """Return what the function said, or how the call ended."""
        call_id = record.id or ""
        output = self._outputs.get(call_id)
        reasons = [f"{folder}: {why}" for folder, why in (output["failures"] if output else {}).items()]
        return f"Modal call {call_id}: " + ("; ".join(reasons) or self._errors.get(call_id, "it returned nothing"))


def _python_version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _modal() -> Any:
    try:
        import modal
    except ImportError:
        raise UserError("--on modal needs the package modal: pip install 'worldsize[modal]'.") from None
    return modal
