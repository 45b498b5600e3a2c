"""The link checker finds what is broken, and nothing else."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests import links

GUIDE = """# The guide

## Set-up: `make test`, & more

```sh
# not a heading
[not](a/link.md)
```

## What's [next](guide.md)?

## Set-up: `make test`, & more

<a id="By-hand"></a>
"""
GOOD = {
    "a file": "[guide](docs/guide.md)",
    "a folder": "[docs](docs)",
    "from the root": "[guide](/docs/guide.md)",
    "a picture": "![what it shows](docs/picture.svg)",
    "a picture in a link": "[![what it shows](docs/picture.svg)](docs/guide.md)",
    "a title": '[guide](docs/guide.md "The guide")',
    "an anchor": "[set-up](docs/guide.md#set-up-make-test--more)",
    "the second of its name": "[set-up](docs/guide.md#set-up-make-test--more-1)",
    "a heading with a link": "[next](docs/guide.md#whats-next)",
    "an anchor by hand": "[by hand](docs/guide.md#By-hand)",
    "an anchor here": "[here](#start)",
    "another site": "[there](https://example.com/none.md#none)",
    "mail": "[mail](mailto:none@example.com)",
    "code": "`[no](none.md)` and ``[no](none.md) ` ``",
    "a block of code": "```md\n[no](none.md)\n```",
}
BROKEN = {
    "a file": "[guide](docs/none.md)",
    "a file by reference": "[guide][1]\n\n[1]: docs/none.md",
    "a picture": "![what it shows](docs/none.svg)",
    "a picture in a link": "[![what it shows](docs/none.svg)](docs/guide.md)",
    "HTML": '<img alt="x" src="docs/none.svg">',
    "an anchor": "[set-up](docs/guide.md#set-up)",
    "an anchor in a block of code": "[no](docs/guide.md#not-a-heading)",
    "an anchor here": "[here](#Start)",
    "an anchor of a picture": "[picture](docs/picture.svg#top)",
    "outside the repository": "[outside](../outside.md)",
    "after a block of code": "```sh\ntrue\n```\n[guide](none.md)",
}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "outside.md").touch()
    repository = tmp_path / "repository"
    (repository / "docs").mkdir(parents=True)
    (repository / "docs" / "guide.md").write_text(GUIDE, encoding="utf-8")
    (repository / "docs" / "picture.svg").touch()
    subprocess.run(["git", "init", "--quiet", str(repository)], check=True)
    return repository


def write(repository: Path, link: str) -> None:
    (repository / "README.md").write_text(f"# Start\n\n{link}\n", encoding="utf-8")


@pytest.mark.parametrize("link", GOOD.values(), ids=GOOD.keys())
def test_a_good_link_is_accepted(repository: Path, link: str) -> None:
    write(repository, link)
    assert links.broken_links(repository / "README.md", repository) == []


@pytest.mark.parametrize("link", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_link_is_found(repository: Path, link: str) -> None:
    write(repository, link)
    (line,) = links.broken_links(repository / "README.md", repository)
    assert line.startswith("README.md: (")


def test_the_check_fails_for_one_broken_link_among_all_files(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(repository, GOOD["a file"])
    assert links.main(repository) == 0
    (repository / "docs" / "more.md").write_text("[up](../none.md)", encoding="utf-8")
    assert links.main(repository) == 1
    assert "docs/more.md: (../none.md) there is no ../none.md" in capsys.readouterr().out


def test_a_check_of_nothing_fails(repository: Path) -> None:
    (repository / "docs" / "guide.md").unlink()
    assert links.main(repository) == 1
