"""The environment becomes settings; secrets are not shown."""

from pathlib import Path

import pytest

from pipelines.settings import load_settings


def test_without_variables_everything_is_under_one_folder(tmp_path: Path) -> None:
    settings = load_settings({"PLUMBLINE_STATE_DIR": str(tmp_path)})
    assert settings.store_uri == (tmp_path / "store").as_uri()
    assert settings.tracking_uri == f"sqlite:///{tmp_path}/mlflow/mlflow.db"
    assert (settings.signing_key, settings.verify_key) == (None, None)


def test_the_cache_limit_is_a_number(tmp_path: Path) -> None:
    assert load_settings({}).cache_gib is None
    assert load_settings({"PLUMBLINE_CACHE_GIB": "1.5"}).cache_gib == 1.5
    for wrong in ("50GB", "0", "-1"):
        with pytest.raises(ValueError, match=r"PLUMBLINE_CACHE_GIB|greater than 0"):
            load_settings({"PLUMBLINE_CACHE_GIB": wrong})


def test_the_airflow_password_is_not_shown() -> None:
    settings = load_settings({"PLUMBLINE_AIRFLOW_USER": "ada", "PLUMBLINE_AIRFLOW_PASSWORD": "open sesame"})
    assert settings.airflow_user == "ada"
    assert settings.airflow_password.get_secret_value() == "open sesame"
    assert "sesame" not in repr(settings) + settings.model_dump_json()


def test_the_token_of_the_hub_is_not_shown() -> None:
    settings = load_settings({"HF_TOKEN": "hf_open_sesame", "HF_ENDPOINT": "https://hub.example/"})
    assert settings.hub_token.get_secret_value() == "hf_open_sesame"
    assert settings.hub_endpoint == "https://hub.example"
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


@pytest.mark.parametrize("login", ["ada:open%20sesame@", "ada:open/sesame@", "ada@"])
def test_a_log_in_in_a_servers_address_is_refused_without_showing_it(login: str) -> None:
    with pytest.raises(
        ValueError, match=r"Set it to https://mlflow\.example/x, and set MLFLOW_TRACKING_USER"
    ) as raised:
        load_settings({"MLFLOW_TRACKING_URI": f"https://{login}mlflow.example/x"})
    assert "sesame" not in str(raised.value)


def test_the_password_of_a_tracking_database_is_not_shown() -> None:
    uri = "postgresql://plumbline:sesame@db/mlflow"
    settings = load_settings({"MLFLOW_TRACKING_URI": uri})
    assert settings.tracking_uri == uri
    assert "sesame" not in repr(settings) + str(settings)
