import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_readmes_examples_run_one_after_another(tmp_path: Path):
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) == 7
    script = tmp_path / "readme.py"
    script.write_text("\n".join(blocks), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "strict 36/36 ['b', 'a']" in done.stdout
    assert "L0H0 -> L1H0.k" in done.stdout


def test_the_readmes_pictures_are_there_and_small():
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+\.png)\)", README)
    assert len(pictures) == 8
    for picture in pictures:
        assert 0 < (Path(__file__).parent.parent / picture).stat().st_size <= 150_000
