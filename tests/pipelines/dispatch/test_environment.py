from pathlib import Path

from pipelines.dispatch.environment import alignment_environment, worker_environment
from pipelines.settings import load_settings

ENVIRON = {
    "PATH": "/bin",
    "HOME": "/home/u",
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "MLFLOW_TRACKING_PASSWORD": "password",
    "AIRFLOW__CORE__FERNET_KEY": "fernet",
    "POSTGRES_PASSWORD": "postgres",
    "PLUMBLINE_ANNOTATOR_SALT": "salt",
    "CUDA_VISIBLE_DEVICES": "1",
    "PYTHONPATH": "/elsewhere",
    "PLUMBLINE_JOB_DIR": "/jobs/1",
}


def test_the_worker_gets_store_and_tracking_but_no_other_secret(tmp_path: Path) -> None:
    settings = load_settings({"PLUMBLINE_STATE_DIR": str(tmp_path), "AWS_ENDPOINT_URL": "http://s3"})
    env = worker_environment(settings, tmp_path / "job", ENVIRON)
    assert env["AWS_SECRET_ACCESS_KEY"] == "secret"
    assert env["MLFLOW_TRACKING_PASSWORD"] == "password"
    assert not {"fernet", "postgres", "salt"} & set(env.values())
    assert env["PLUMBLINE_JOB_DIR"] == str(tmp_path / "job")
    assert env["PYTHONPATH"].split(":") == [str(Path(__file__).parents[3]), "/elsewhere"]


def test_a_training_host_cannot_sign(tmp_path: Path) -> None:
    keys = {"PLUMBLINE_SIGNING_KEY": "/keys/ours.pem", "PLUMBLINE_SIGNING_KEY_PASSWORD": "open sesame"}
    env = worker_environment(load_settings({"PLUMBLINE_STATE_DIR": str(tmp_path)}), tmp_path / "job", keys)
    assert not set(keys) & set(env)


def test_a_training_host_cannot_log_in_to_airflow(tmp_path: Path) -> None:
    login = {"PLUMBLINE_AIRFLOW_USER": "ada", "PLUMBLINE_AIRFLOW_PASSWORD": "open sesame"}
    env = worker_environment(load_settings({"PLUMBLINE_STATE_DIR": str(tmp_path)}), tmp_path / "job", login)
    assert not set(login) & set(env)


def test_the_worker_reads_back_the_same_settings(tmp_path: Path) -> None:
    environ = {
        "PLUMBLINE_STATE_DIR": str(tmp_path),
        "PLUMBLINE_STORE_URI": "s3://bucket/root",
        "MLFLOW_TRACKING_URI": "http://mlflow",
        "AWS_ENDPOINT_URL": "http://s3",
    }
    settings = load_settings(environ)
    again = load_settings(worker_environment(settings, tmp_path / "job", {}))
    assert again == settings.model_copy(update={"projects_dir": again.projects_dir})


def test_the_alignment_job_gets_neither_store_nor_hub() -> None:
    env = alignment_environment(2, cpu=True, environ=ENVIRON)
    assert not {"key", "secret", "password", "fernet", "postgres", "salt"} & set(env.values())
    assert (env["PATH"], env["CUDA_VISIBLE_DEVICES"], env["PLUMBLINE_JOB_DIR"]) == ("/bin", "1", "/jobs/1")
    assert (env["OMP_NUM_THREADS"], env["HF_HUB_OFFLINE"], env["ACCELERATE_USE_CPU"]) == ("2", "1", "true")
    assert "ACCELERATE_USE_CPU" not in alignment_environment(2, cpu=False, environ=ENVIRON)


def test_jobs_of_a_host_share_the_compiled_programs() -> None:
    env = alignment_environment(1, cpu=False, environ=ENVIRON | {"PLUMBLINE_STATE_DIR": "/state"})
    assert env["TORCHINDUCTOR_CACHE_DIR"] == "/state/compiled"
    assert env["TRITON_CACHE_DIR"] == "/state/compiled/triton"
    assert "TORCHINDUCTOR_CACHE_DIR" not in alignment_environment(1, cpu=False, environ=ENVIRON)


def test_no_job_gets_the_token_of_the_cluster(tmp_path: Path) -> None:
    environ = {"RAY_AUTH_TOKEN": "open sesame", "RAY_ADDRESS": "ray-head:6379"}
    settings = load_settings({"PLUMBLINE_STATE_DIR": str(tmp_path), **environ})
    assert settings.ray_token.get_secret_value() == "open sesame"
    assert not set(environ) & set(worker_environment(settings, tmp_path / "job", environ))
    assert not set(environ) & set(alignment_environment(1, cpu=True, environ=environ))
