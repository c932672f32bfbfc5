import os

# Only the process that test_ultralytics.py starts may load PyTorch.
collect_ignore = [] if "MEDUDA_OWN_PROCESS" in os.environ else ["in_own_process.py"]
