"""The only code that moves the champion alias: promotion, approval, rollback, reconcile, verification."""
