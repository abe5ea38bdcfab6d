"""What a workdir is on the disk: layout, checkpoints, tables, lock."""
