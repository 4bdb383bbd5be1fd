__version__ = "0.1.0"

from icdrat.front import __all__, __dir__, __getattr__  # noqa: F401  what works from the top: nbs/50_front.ipynb
