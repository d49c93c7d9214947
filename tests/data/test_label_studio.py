"""What Label Studio exports of images that were labelled as a whole."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from label_lists import keys

from beit.cli.verbs import main
from beit.config.data import LabelFileConfig, Reading
from beit.data.dataset import Dataset
from beit.data.label_studio import choices_in
from beit.data.sources import ImageSource
from beit.errors import DataError

Draw = Callable[..., Path]
NUMBER = 6


@pytest.fixture
def images(draw: Draw) -> Path:
    return draw(*(f"{at:08x}-pet {at}.jpg" for at in range(NUMBER)))


def annotation(*labels: Any, kind: str = "choices", **more: Any) -> dict[str, Any]:
    result = {"type": kind, "from_name": "pet", "to_name": "image", "value": {kind: [*labels]}}
    return {"completed_by": 1, "was_cancelled": False, "ground_truth": False,
            "result": [result]} | more  # fmt: skip


def tasks(annotations: Callable[[int], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [{"id": 7 + at, "annotations": annotations(at), "drafts": [], "predictions": [],
             "data": {"image": f"/data/upload/1/{at:08x}-pet%20{at}.jpg", "site": "A"}}
            for at in range(NUMBER)]  # fmt: skip


def word(at: int) -> str:
    return "Dog" if at % 2 else "Cat"


def opened(
    root: Path, content: object, *, multi_label: bool = False, **options: str
) -> ImageSource:
    place = root / "export.json"
    place.write_text(json.dumps(content))
    reading = Reading(label_file=LabelFileConfig(**options))  # type: ignore[arg-type]
    return Dataset(str(place), reading).labelled(multi_label=multi_label)["train"]


def words(source: ImageSource) -> list[list[str]]:
    """The labels of each image."""
    assert source.targets is not None
    several = source.targets.ndim == 2
    rows = [target.nonzero()[0] if several else [target] for target in source.targets]
    return [[source.classes[number] for number in row] for row in rows]


def test_choices_of_tasks(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = opened(images, tasks(lambda at: [annotation(word(at))]))
    assert words(source) == [[word(at)] for at in range(NUMBER)]
    assert keys(source)[1] == "00000001-pet 1.jpg"
    assert main(["data", "check", str(images / "export.json")]) == 0
    printed = capsys.readouterr().out
    assert "labels in column 'pet'" in printed
    assert "6 images in 2 classes: Cat 3, Dog 3" in printed


def test_several_choices_are_several_labels(images: Path) -> None:
    source = opened(images, tasks(lambda at: [annotation(*["Cat", "Dog"][: 1 + at % 2])]))
    assert words(source) == [["Cat", "Dog"][: 1 + at % 2] for at in range(NUMBER)]


def test_taxonomies_keep_their_paths(images: Path) -> None:
    source = opened(images, tasks(lambda at: [annotation(["Pet", word(at)], kind="taxonomy")]))
    assert source.classes == ("Pet > Cat", "Pet > Dog")


def test_tasks_without_an_answer_are_counted(images: Path) -> None:
    """Nobody annotated one, of another the annotation was cancelled, of a third only a region."""
    box = {"x": 1, "y": 2, "width": 3, "height": 4, "rectanglelabels": ["Eye"]}
    region = {"type": "rectanglelabels", "from_name": "box", "value": box}
    answers = {0: [], 1: [annotation("Cat", was_cancelled=True)], 2: [{"result": [region]}]}
    content = tasks(lambda at: answers.get(at, [annotation(word(at))]))
    source = opened(images, content)
    assert words(source) == [["Dog"], ["Cat"], ["Dog"]]
    (skipped,) = source.account.skipped
    assert (skipped.reason, skipped.count) == ("no label", 3)
    assert "annotations that were cancelled are skipped: 1" in source.account.notes
    assert "results of type 'rectanglelabels' are skipped: 1" in source.account.notes
    with pytest.raises(DataError, match="has no labels") as refused:  # not those of the site
        opened(images, tasks(lambda _: []))
    assert "annotate the tasks" in refused.value.remedy
    assert len(Dataset(str(images / "export.json")).training()) == NUMBER


def test_annotators_who_disagree(images: Path) -> None:
    def answers(at: int, **more: bool) -> list[dict[str, Any]]:
        second = [annotation("Cat", **more)] if at in (2, 3) else []
        return [annotation(word(at)), *second]

    with pytest.raises(
        DataError, match=r"line 1 twice \('00000003-pet 3.jpg': 'Dog' and 'Cat'\)"
    ) as refused:
        opened(images, tasks(answers))
    assert "mark the annotation that is right as ground truth" in refused.value.remedy
    assert len(Dataset(str(images / "export.json")).training()) == NUMBER
    together = opened(images, tasks(answers), multi_label=True)
    assert words(together)[3] == ["Cat", "Dog"]
    decided = opened(images, tasks(lambda at: answers(at, ground_truth=True)))
    assert words(decided)[2:4] == [["Cat"], ["Cat"]]


def test_several_questions_are_several_columns(images: Path) -> None:
    content = tasks(lambda at: [annotation(word(at))])
    for task in content[1:]:
        more = annotation("in" if task["id"] % 2 else "out")["result"]
        task["annotations"][0]["result"] += [one | {"from_name": "where"} for one in more]
    with pytest.raises(DataError, match="clearly holds the labels"):
        opened(images, content)
    assert opened(images, content, label_column="where").classes == ("in", "out")
    assert len(opened(images, content, label_column="where")) == NUMBER - 1


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("suffix", [".json", ".csv"])
def test_its_tables(images: Path, suffix: str, several: bool) -> None:
    """JSON-MIN and CSV, where several choices are an object."""
    both = {"choices": ["Cat", "Dog"]}
    rows: list[dict[str, Any]] = [
        {"image": task["data"]["image"], "id": task["id"],
         "pet": both if several and at == 1 else word(at), "annotator": 1, "annotation_id": at,
         "created_at": f"2024-01-0{at + 1}T00:00:00Z", "updated_at": "2024", "lead_time": 2.5 + at}
        for at, task in enumerate(tasks(lambda _: []))
    ]  # fmt: skip
    place = images / f"export{suffix}"
    if suffix == ".json":
        place.write_text(json.dumps(rows, indent=2))
    else:
        with place.open("w") as file:
            table = csv.writer(file)
            table.writerow(rows[0])
            table.writerows(
                [json.dumps(value) if isinstance(value, dict) else value for value in row.values()]
                for row in rows
            )
    source = Dataset(str(place)).labelled()["train"]
    assert words(source)[:3] == [["Cat"], ["Cat", "Dog"] if several else ["Dog"], ["Cat"]]


@pytest.mark.parametrize(
    "cell",
    ["{", "[{", "{}", '{"choices": 5}', '{"choices": []}', '{"choices": {"a": "b"}}', '[{"a": 1}]',
     '[{"choices": ["a"]}, 3]', '{"choices": ["a"], "x": 4}', '{"choices": [""]}', "Cat"],
)  # fmt: skip
def test_other_cells_hold_no_choices(cell: str) -> None:
    assert choices_in(cell) == []


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize(
    "before", ["/data/upload/1/{0:08x}-a%20{0}.jpg", "/data/local-files/?d=in/a {0}.jpg"]
)
def test_names_that_label_studio_gave(draw: Draw, before: str, stored: bool) -> None:
    uploaded = stored and "upload" in before
    root = draw(*(f"in/{f'{at:08x}-' if uploaded else ''}a {at}.jpg" for at in range(4)))
    rows = (
        f"{before.format(at)},{at},{'Cat' if at % 2 else 'Dog'},{2.5 + at}\n" for at in range(4)
    )
    (root / "list.csv").write_text("image,id,choice,lead_time\n" + "".join(rows))
    source = Dataset(str(root / "list.csv")).labelled()["train"]
    assert source.classes == ("Cat", "Dog")
    assert keys(source)[1] == f"in/{'00000001-' if uploaded else ''}a 1.jpg"
    assert any("what Label Studio added" in note for note in source.account.notes)
