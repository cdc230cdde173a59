"""A picture that notebooks show, whether or not they have set up matplotlib."""

import io

from matplotlib.figure import Figure


class Picture(Figure):
    """A figure of matplotlib, without a window."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=100)
        return file.getvalue()
