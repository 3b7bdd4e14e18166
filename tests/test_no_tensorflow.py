"""The runtime and the page work in a process where importing tensorflow fails."""

import subprocess
import sys

from tests.conftest import ROOT

SCRIPT = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "tf_keras", "keras", "sklearn", "training", "export"):
            raise ImportError(f"{name} is not part of the runtime")

sys.meta_path.insert(0, Refuse())
import cxr
assert "streamlit" not in sys.modules
from streamlit.testing.v1 import AppTest

page = AppTest.from_file("streamlit_app/app.py", default_timeout=60)
page.query_params["sample"] = "pneumonia_1"
page.run()
assert not page.exception, page.exception
assert page.subheader[0].value.startswith("Pneumonia likely"), page.subheader
"""


def test_app_without_tensorflow():
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
