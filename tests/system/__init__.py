"""The whole service through outages, restarts, upgrades and partitions."""
