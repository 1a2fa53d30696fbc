"""The attention explorer as a Jupyter widget (extra `widget`): the same script, with the selection sent to Python."""

from typing import Any

import anywidget
import traitlets

from interp.plot import packing


class AttentionWidget(anywidget.AnyWidget):
    """What `AttentionExplorer.widget()` returns.

    Attributes:
        selection: what the reader locked, {"layer", "head", "query", "key"}, each a number or None, and the "stack" of
            heads that this is in. Follow it with `widget.observe(fn, names="selection")`.
    """

    _esm = f"""{packing.script()}
export default {{
  render({{ model, el }}) {{
    const host = document.createElement("div");
    el.append(host);
    attentionScripts()(host, model.get("_meta"), (selection) => {{
      model.set("selection", selection);
      model.save_changes();
    }});
  }},
}};
"""
    _meta = traitlets.Dict().tag(sync=True)
    selection = traitlets.Dict({"stack": None, "layer": None, "head": None, "query": None, "key": None}).tag(sync=True)

    def __init__(self, meta: dict[str, Any]):
        super().__init__(_meta=meta)
