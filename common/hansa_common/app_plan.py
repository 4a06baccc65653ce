"""The plan of a study that is another Flower app: what is installed at both ends, by name; approved like any plan.

Such an app has no rounds of Hansa's: no checkpoint, no resume, no report and no release step of its own kind. Whoever
approves it reads that.
"""

import json
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from hansa_common.canonical import digest
from hansa_common.errors import PlanError
from hansa_common.plan import StudyPlan, plan_from_json
from hansa_common.plan_names import SiteName, StudyName
from hansa_common.plan_options import Scalar
from hansa_common.settings import Strict

Reference = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]{0,199}:[A-Za-z_][A-Za-z0-9_.]{0,99}$")]
"""``package.module:attribute``."""


class AppPlan(Strict):
    """Another Flower app as a study."""

    format: Literal[1] = 1
    kind: Literal["flower-app"] = "flower-app"
    name: StudyName
    server_app: Reference
    client_app: Reference
    run_config: Annotated[dict[str, Scalar], Field(max_length=1_000, default_factory=dict)]
    sites: Annotated[tuple[SiteName, ...], Field(max_length=10_000)] = ()
    """Members that are asked to take part; all, where it is left out at the proposal."""

    def digest(self) -> str:
        """Return the SHA-256 of the canonical bytes, in hexadecimal digits."""
        return digest(self.model_dump(mode="json"))


def _read_app_plan(text: str) -> AppPlan | None:
    """Return the app's plan in this JSON, or ``None`` where it is a study's.

    Raises:
        PlanError: It says that it is an app's plan and is not valid.
    """
    try:
        values = json.loads(text)
        if not isinstance(values, dict) or values.get("kind") != AppPlan.model_fields["kind"].default:
            return None
        return AppPlan.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise PlanError(f"The app's plan is not valid at '{'.'.join(map(str, first['loc']))}'.") from None
    except (ValueError, RecursionError):
        raise PlanError("The plan is not valid JSON.") from None


def read_any(text: str) -> StudyPlan | AppPlan:
    """Read a proposal's plan, whichever kind it is.

    Raises:
        PlanError: It is neither.
    """
    app = _read_app_plan(text)
    return app if app is not None else plan_from_json(text)
