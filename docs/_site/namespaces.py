"""Takes the frame of namespace datasparse from around what Breathe shows of a header."""

from sphinx import addnodes
from sphinx.transforms import SphinxTransform


class Unwrap(SphinxTransform):
    default_priority = 840  # before the index is made, which is at 850

    def apply(self):
        for frame in list(self.document.findall(addnodes.desc)):
            signature, *rest = frame.children
            if signature.astext().strip() != "namespace datasparse":
                continue
            place = frame.parent.index(frame)
            entry = frame.parent[place - 1]
            frame.replace_self([child for part in rest for child in part.children])
            if isinstance(entry, addnodes.index):
                entry.parent.remove(entry)
        for link in list(self.document.findall(addnodes.pending_xref)):
            if link.get("refdomain") == "cpp" and link["reftarget"] == "datasparse":
                link.replace_self(link.children)


def setup(app):
    app.add_transform(Unwrap)
    return {"parallel_read_safe": True}
