"What comes with the package is found from anywhere; that it travels with it is tested in test_package.py."

import pytest

from icdrat.resources import NoResource, resource


def test_what_is_not_there_is_said_with_what_is():
    with pytest.raises(NoResource, match="quotes.txt"):
        resource("prompts/nothing.txt")
