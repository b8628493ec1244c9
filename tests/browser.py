"""A headless Chromium: a page's document as scripts left it, what it complained of, and what does not fit a width."""

import json
import re
import shutil
import subprocess
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
PHONE, DESKTOP = 390, 1366  # px

# Elements that reach beyond the page, but for those that lie in one that scrolls by itself or is cut off.
_MEASURE = """<script>
addEventListener("load", () => setTimeout(() => {
  for (const folded of document.querySelectorAll("details")) folded.open = true;
  const page = document.documentElement, wide = [];
  const inside = (node) => {
    for (let up = node.parentElement; up && up !== document.body; up = up.parentElement) {
      if (getComputedStyle(up).overflowX !== "visible") return true;
    }
    return false;
  };
  for (const node of document.body.querySelectorAll("*")) {
    const box = node.getBoundingClientRect(), name = `${node.tagName} ${node.getAttribute("class") || ""}`;
    if (box.width && box.right > innerWidth + 1 && !inside(node)) wide.push(name.trim());
  }
  const seen = {width: innerWidth, scroll: page.scrollWidth, wide: wide.slice(0, 8)};
  document.title = "MEASURED" + JSON.stringify(seen) + "END";
  parent.postMessage(document.title, "*");
}, 500));
</script>"""

_FRAME = """<!doctype html><title></title><body style="margin:0">
<iframe src="shown.html" width="{width}" height="1000" style="border:0"></iframe>
<script>addEventListener("message", (event) => {{ document.title = event.data; }});</script>"""


def dump(page: Path, profile: Path, *options: str) -> tuple[str, str]:
    """(the document once scripts have run, what the browser wrote to its log)."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
               "--disable-background-networking", "--disable-component-update", "--disable-sync",
               f"--user-data-dir={profile}", "--virtual-time-budget=3000", "--enable-logging=stderr",
               *options, "--dump-dom", page.as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr


def measure(page: Path, width: int, folder: Path) -> dict:
    """How a page fits a window of `width` px: {"width", "scroll", "wide"}, the last what reaches beyond it.

    The page is shown in a frame of that width, since a window can't be as narrow as a phone's, with everything that is
    folded unfolded. The policy that forbids other scripts than the page's own is left out of the copy that is shown.
    """
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    (folder / "shown.html").write_text(text + _MEASURE)
    frame = folder / "frame.html"
    frame.write_text(_FRAME.format(width=width))
    document, _ = dump(frame, folder / "profile", f"--window-size={max(width, 800)},1000")
    return json.loads(re.search(r"MEASURED(.*)END", document)[1].replace("&quot;", '"'))
