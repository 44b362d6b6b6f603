import subprocess
import sys

BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "torchvision", "worker", "expunge"}:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Block())
import service.app
service.app.openapi
import service.report.page
"""


def test_the_service_imports_neither_torch_nor_the_worker() -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
