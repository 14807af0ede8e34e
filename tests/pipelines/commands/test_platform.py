"""The table of `plumbline doctor` at a terminal."""

from pipelines.commands.platform import check_rows


def test_a_fault_has_its_fix_below_it() -> None:
    checks = [
        {"name": "base_model", "ok": False, "found": "It lacks unet/.", "fix": "Add it."},
        {"name": "gate", "ok": True, "found": "5 prompts; WARNING: no guard", "fix": ""},
        {"name": "store", "ok": True, "found": "good", "fix": ""},
    ]
    assert check_rows(checks) == [
        {"check": "base model", "result": "fault", "found": "It lacks unet/.\nFix: Add it."},
        {"check": "gate", "result": "warning", "found": "5 prompts; WARNING: no guard"},
        {"check": "store", "result": "ok", "found": "good"},
    ]
