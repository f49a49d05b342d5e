"""Frames of explorers that wait: a page fetches them when the reader comes near the figure they belong to.

An explorer is one piece of HTML with all its frames in it, which is what a notebook needs. A page would have to
transfer the frames of all its explorers before its last line is there. So they go into a file each, a script (a page
that is opened from disk may load scripts but not read other files), and `explorers.js` asks for it in time. Until then,
and without JavaScript, the figure shows the frame it starts with.
"""

import hashlib
import json
import re
from pathlib import Path

FOLDER = "_static/explorers"
EXPLORER = re.compile(
    r'<div class="explore">(?P<shown>(?:(?!<div class="explore">).)*?)'
    r'<script type="application/json">(?P<frames>.*?)</script>'
    r"(?P<style><style>.*?</style>)\s*<script>(?P<script>.*?)</script>\s*</div>",
    re.DOTALL,
)
#: What a file of frames does: it puts them where the explorer's own script looks for them, and then lets it run.
FILE = """\
for (const box of document.querySelectorAll('[data-frames$="%s"]')) {
  const frames = document.createElement("script");
  frames.type = "application/json";
  frames.textContent = %s;
  box.append(frames);
  delete box.dataset.ready;
}
"""


def put_apart(app, page, template, context, doctree):
    """Move the frames of each explorer of a page into a file of its own."""
    if "body" not in context or app.builder.name != "html":
        return
    folder = Path(app.outdir) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)

    def apart(explorer):
        content = explorer["frames"] + explorer["script"]
        name = f"{hashlib.sha256(content.encode()).hexdigest()[:16]}.js"
        text = FILE % (name, json.dumps(explorer["frames"])) + explorer["script"]
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
        address = context["pathto"](f"{FOLDER}/{name}", resource=True)
        # Its script takes no explorer that is ready; this one is once the frames are there.
        start = f'<div class="explore" data-ready="later" data-frames="{address}">'
        return f"{start}{explorer['shown']}{explorer['style']}</div>"

    context["body"] = EXPLORER.sub(apart, context["body"])


def remove_unused(app, exception):
    """Remove what an earlier build has left and no page asks for any more."""
    site = Path(app.outdir)
    if exception or app.builder.name != "html" or not (site / FOLDER).is_dir():
        return
    pages = (path.read_text(encoding="utf-8") for path in site.rglob("*.html"))
    used = {name for page in pages for name in re.findall(r'data-frames="[^"]*?([^"/]+)"', page)}
    for path in (site / FOLDER).iterdir():
        if path.name not in used:
            path.unlink()


def setup(app):
    app.add_js_file("explorers.js")
    app.connect("html-page-context", put_apart)
    app.connect("build-finished", remove_unused)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
