"""``[model]`` of a plan: which architecture a study trains."""

from typing import Any

from pydantic import Field, model_validator

from hansa_common.contract import Text
from hansa_common.plan_options import Options, collect_options
from hansa_common.settings import Strict


class ModelPlan(Strict):
    """``[model]``: a name from ``hansa_common.models``, and its options beside it."""

    name: Text
    options: Options = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, values: Any) -> Any:
        return collect_options(values, "name")
