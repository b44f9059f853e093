"""What models are trained on: the contract of a task (`task`), and ListOps, the built-in one."""
