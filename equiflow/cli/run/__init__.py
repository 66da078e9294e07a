"""Run folders: a training run that survives being killed."""
