"""The pages' templates: escaping, and an error where a page names what it was not given, are the same for all."""

from jinja2 import Environment, PackageLoader, StrictUndefined


def make_environment() -> Environment:
    """Return where a page finds its template; its filters are its own."""
    return Environment(
        loader=PackageLoader("hansa_server", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
