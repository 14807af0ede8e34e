"""The environment becomes settings; secrets are not shown."""

from pathlib import Path

from pipelines.settings import load_settings


def test_without_variables_everything_is_under_one_folder(tmp_path: Path) -> None:
    settings = load_settings({"PLUMBLINE_STATE_DIR": str(tmp_path)})
    assert settings.store_uri == (tmp_path / "store").as_uri()
    assert settings.tracking_uri == f"sqlite:///{tmp_path}/mlflow/mlflow.db"
    assert (settings.signing_key, settings.verify_key) == (None, None)


def test_the_airflow_password_is_not_shown() -> None:
    settings = load_settings({"PLUMBLINE_AIRFLOW_USER": "ada", "PLUMBLINE_AIRFLOW_PASSWORD": "open sesame"})
    assert settings.airflow_user == "ada"
    assert settings.airflow_password.get_secret_value() == "open sesame"
    assert "sesame" not in repr(settings) + settings.model_dump_json()


def test_keys_are_named_by_path_and_the_password_is_not_shown(tmp_path: Path) -> None:
    settings = load_settings(
        {
            "PLUMBLINE_SIGNING_KEY": str(tmp_path / "key.pem"),
            "PLUMBLINE_SIGNING_KEY_PASSWORD": "open sesame",
            "PLUMBLINE_VERIFY_KEY": "key.pub",
        }
    )
    assert settings.signing_key == tmp_path / "key.pem"
    assert settings.verify_key == Path("key.pub").absolute()
    assert settings.signing_key_password.get_secret_value() == "open sesame"
    assert "sesame" not in repr(settings) + settings.model_dump_json()
