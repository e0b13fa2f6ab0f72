"""How the service is seen: metrics and logs."""
