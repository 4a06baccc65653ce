"""What the server and the sites both stand on: the plan, the messages, the metrics and the models."""

from importlib.metadata import version

__version__ = version("hansa")
