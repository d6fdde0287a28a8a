"""What figures use of matplotlib, which an extra brings."""

from scstore.errors import MissingExtraError

try:
    from matplotlib import colormaps as colormaps
    from matplotlib import rc_context as rc_context
    from matplotlib.axes import Axes as Axes
    from matplotlib.colors import ListedColormap as ListedColormap
    from matplotlib.figure import Figure as Figure
    from matplotlib.lines import Line2D as Line2D
    from matplotlib.text import Annotation as Annotation
    from matplotlib.text import Text as Text
except ImportError as error:
    raise MissingExtraError("Drawing figures", "plot") from error
