"""`make chaos`: faults under load, audited."""
