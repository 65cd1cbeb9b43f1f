"""What the package promises about itself."""

import ast
import pathlib
import subprocess
import sys

import zipline_sdk
from world import REPOSITORY

SOURCES = sorted((REPOSITORY / "sdk/python/src/zipline_sdk").glob("*.py"))


def test_the_sources_are_python_3_9():
    assert SOURCES
    for path in SOURCES:
        ast.parse(path.read_text(), feature_version=(3, 9))


#: What the extras bring, by the only files that may import it.
EXTRAS = {"_store.py": {"boto3", "redis"}, "_store_s3.py": {"boto3", "botocore"}, "_store_redis.py": {"redis"}}


def test_nothing_but_the_standard_library_is_imported_but_by_the_extras():
    if not hasattr(sys, "stdlib_module_names"):
        return  # Before Python 3.10 nobody tells which modules those are.
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            allowed = sys.stdlib_module_names | EXTRAS.get(path.name, set())
            assert all(name.split(".")[0] in allowed for name in names), f"{path}: {names}"


def test_the_extras_are_loaded_by_their_methods_alone():
    look = "import sys, zipline_sdk; print(sorted({'boto3', 'botocore', 'redis'} & set(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


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
