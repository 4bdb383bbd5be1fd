__version__ = "0.2.0"

from icdrat.front import __all__, __dir__, __getattr__  # noqa: F401  what works from the top: nbs/50_front.ipynb
