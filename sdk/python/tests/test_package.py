"""What the package promises about itself."""

import ast
import pathlib
import sys

import zipline_sdk
from world import REPOSITORY

SOURCES = sorted((REPOSITORY / "sdk/python/src/zipline_sdk").glob("*.py"))


def test_the_sources_are_python_3_9():
    assert SOURCES
    for path in SOURCES:
        ast.parse(path.read_text(), feature_version=(3, 9))


def test_nothing_but_the_standard_library_is_imported():
    if not hasattr(sys, "stdlib_module_names"):
        return  # Before Python 3.10 nobody tells which modules those are.
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            assert all(name.split(".")[0] in sys.stdlib_module_names for name in names), f"{path}: {names}"


def test_every_error_of_the_table_is_a_class_of_that_name():
    page = (REPOSITORY / "docs/reference/errors.md").read_text()
    assert page.count('<a id="') == len(zipline_sdk.ERRORS_BY_NAME)
    for name, error in zipline_sdk.ERRORS_BY_NAME.items():
        assert f'<a id="{name}"></a>`{name}` | {error.status} |' in page
        assert error.name == name and issubclass(error, zipline_sdk.Refused)
        assert getattr(zipline_sdk, "".join(word.capitalize() for word in name.split("-"))) is error


def test_the_version_is_that_of_the_package():
    declared = pathlib.Path(REPOSITORY / "sdk/python/pyproject.toml").read_text()
    assert f'version = "{zipline_sdk.__version__}"' in declared
