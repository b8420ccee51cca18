"""Python imports this by itself where this folder is on PYTHONPATH: a process with an injector."""

import json
import os
import shutil  # noqa: F401 (looks at the functions of os: before they are wrapped)
import sys
from pathlib import Path

if "INJECT" in os.environ:
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from injector import Injector

    Injector(**json.loads(os.environ["INJECT"])).install()
