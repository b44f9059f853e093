"""How large must a model be? Thresholds, where to place the next runs, times to learn, and laws across tasks.

Everything here takes plain arrays, one entry a run or a task, and knows nothing of how the runs were made.
"""
