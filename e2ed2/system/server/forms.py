"""The fields of a form that a page sent."""

from typing import Annotated
from urllib.parse import parse_qs

from fastapi import Depends
from starlette.requests import Request

MOST_FIELDS = 40


async def fields_of(request: Request) -> dict[str, str]:
    """Each once; none of what is no form."""
    try:
        found = parse_qs((await request.body()).decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        return {}
    return {name: values[0] for name, values in found.items()}


Fields = Annotated[dict[str, str], Depends(fields_of)]
