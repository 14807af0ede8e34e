"""Environments of a job's processes: each contains only what the process needs, so that nothing else can leak into a
log.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import pipelines
from pipelines.host import JOB_MARK
from pipelines.settings import CONTROL_PLANE_ONLY, Settings

_SYSTEM = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV"),
    *("PYTHON", "XDG_", "CUDA_", "NVIDIA_", "NCCL_", "GLOO_", "TORCH_", "OMP_", "MKL_", "PYTORCH_", "HF_HOME"),
)
RENDEZVOUS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables by which the ranks of a job on several hosts find each other."""
_NETWORK = (
    *("AWS_", "MLFLOW_", "PLUMBLINE_", "HF_", "SSL_CERT_", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
)


def worker_environment(settings: Settings, job_dir: Path, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Build the environment of supervisor and worker: system, store and tracking access, our settings, and the job's
    mark.

    It leaves out the annotators' salt, the signing key, Airflow's secrets and everything else unnamed.
    """
    env = _pick(os.environ if environ is None else environ, _SYSTEM + _NETWORK)
    for name in CONTROL_PLANE_ONLY:
        env.pop(name, None)
    env |= {
        "PLUMBLINE_STATE_DIR": str(settings.state_dir),
        "PLUMBLINE_STORE_URI": settings.store_uri,
        "PLUMBLINE_PROJECTS_DIR": str(settings.projects_dir),
        "MLFLOW_TRACKING_URI": settings.tracking_uri,
        "PYTHONPATH": _with_our_code(env.get("PYTHONPATH", "")),
        "PYTHONUNBUFFERED": "1",
        JOB_MARK: str(job_dir),
    }
    if settings.s3_endpoint_url:
        env["AWS_ENDPOINT_URL"] = settings.s3_endpoint_url
    return env


def alignment_environment(threads: int, cpu: bool, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Build the environment of the alignment job: no store, no tracking, no hub; it sees local folders only.

    `cpu` makes accelerate use the CPU, also with several processes, for which its launcher has no switch.
    """
    source = os.environ if environ is None else environ
    env = _pick(source, _SYSTEM + RENDEZVOUS)
    env |= {
        JOB_MARK: source.get(JOB_MARK, ""),
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # A store shared between torchrun's restarts makes ranks connect to a dead port.
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if "PLUMBLINE_STATE_DIR" in source:
        # Programs that torch.compile made, for the next job of this host; they are looked up by their content.
        compiled = Path(source["PLUMBLINE_STATE_DIR"]) / "compiled"
        env |= {"TORCHINDUCTOR_CACHE_DIR": str(compiled), "TRITON_CACHE_DIR": str(compiled / "triton")}
    return env | ({"ACCELERATE_USE_CPU": "true"} if cpu else {})


def _pick(environ: Mapping[str, str], names: tuple[str, ...]) -> dict[str, str]:
    """Select variables of these names; a name that ends in an underscore, and PYTHON, select all with that prefix."""
    return {key: value for key, value in environ.items() if any(_stands_for(name, key) for name in names)}


def _stands_for(name: str, key: str) -> bool:
    return key.startswith(name) if name.endswith("_") or name == "PYTHON" else key == name


def _with_our_code(python_path: str) -> str:
    """Return the PYTHONPATH with which a process started anywhere finds this code, installed or not."""
    root = str(Path(pipelines.__file__).parent.parent)
    parts = [part for part in python_path.split(os.pathsep) if part and part != root]
    return os.pathsep.join([root, *parts])
