"""Label files as people have them: every separator, encoding and heading; what is refused, and the
words for it."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from label_lists import BITS, CATS, NAMES, NUMBER, PLAIN, account, keys, labels, read, rows

from beit.config import LabelFileConfig
from beit.config.data import Division
from beit.data.dataset import Dataset, open_source
from beit.data.label_file import read_label_file
from beit.data.labelled import divide
from beit.errors import BeitError, ConfigError, DataError

Draw = Callable[..., Path]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (rows("id_code,diagnosis", "p{n},{b}"), BITS),
        (rows("image_id,label", "p{n}.png,{b}"), BITS),
        (rows("lesion_id,image_id,dx", "H{n},p{n},{c}"), CATS),
        (rows("filename,split,label", "p{n}.png,train,{c}"), CATS),
        (rows("filename,width,height,class", "p{n}.png,48,40,{c}"), CATS),
        (rows("file,age,sex,dx", "p{n}.png,4{b},f,{c}"), CATS),
        (rows(",image,label", "{n},p{n}.png,{b}"), BITS),
        (rows("Unnamed: 0,image,label", "{n},p{n}.png,{b}"), BITS),
        (rows("label,image", "{b},p{n}.png"), BITS),
        (rows("image;label", "p{n}.png;{b}"), BITS),
        (rows("image|label", "p{n}.png|{b}"), BITS),
        (rows("", "p{n}.png {b}"), BITS),
        (rows("", "p{n}.png   {b} "), BITS),
        (rows("image label", "p{n}.png {b}"), BITS),
        (rows("# image label", "p{n}.png {b}"), BITS),
        (rows("Image,Label", '"p{n}.png","{c}"', end="\r\n"), CATS),
        (rows("Image,Label", '"p{n}.png","{c}"', end="\r"), CATS),
        (rows("File Name,Label", "p{n}.png,{c}"), CATS),
        (rows("FILENAME, CLASS", "p{n}.png, {c}"), CATS),
        (rows("Image Index,Finding Labels", "p{n}.png,{c}"), CATS),
        (rows("image,label", ".\\p{n}.png,{b}"), BITS),
        (rows("image,label", "./p{n}.png,{b}"), BITS),
        ("sep=;\n" + rows("image;label", "p{n}.png;{b}"), BITS),
        (rows("image,label,,", "p{n}.png,{b},,"), BITS),
        (rows("image,label", "p{n}.png,{b},"), BITS),
        ("# made by hand\n" + rows("image,label", "p{n}.png,{c}") + "# the end\n", CATS),
        (rows("image,class_id,class_name", "p{n}.png,{b},{c}"), CATS),
        (rows("image,label", "p{n}.png,{b}.0"), BITS),
        (rows("Foto,Art", "p{n}.png,{c}"), CATS),
        (rows("image,x,y,class", "p{n}.png,{n},{n},{c}"), CATS),
        (rows("path,y", "p{n}.png,{c}"), CATS),
        (rows("path,label", "/kaggle/input/p{n}.png,{c}"), CATS),
        (rows("", "C:\\data\\p{n}.png,{c}"), CATS),
        (rows("", "{c},p{n}.png"), CATS),
    ],
)  # fmt: skip
def test_columns_are_found(root: Path, text: str, expected: list[tuple[str, str]]) -> None:
    found = read(root, text)
    assert found.problem is None
    assert labels(found, *found.splits) == expected


@pytest.mark.parametrize("seed", range(40))
def test_any_separator_encoding_and_quoting(draw: Draw, seed: int) -> None:
    """What one tool writes is read as it was meant: names and labels with foreign letters, spaces,
    separators and quotes, where the writer quotes them."""
    chance = random.Random(seed)
    separator = chance.choice("\t;|, ")
    encoding = chance.choice(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
    quoting = chance.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    words = ["Löwe", "grand écart", "a,b", "x;y", 'he said "no"', "p|q", "0", "Ñandú", "#1"]
    classes = chance.sample(words, 3)
    names = [f"im {n}.png" if chance.random() < 0.3 else f"im{n}é.png" for n in range(9)]
    root = draw(*names)
    order = chance.choice([("image", "label"), ("label", "image"), ("x", "image", "label")])
    text = io.StringIO()
    writer = csv.writer(
        text, delimiter=separator, quoting=quoting, lineterminator=chance.choice(["\n", "\r\n"])
    )
    writer.writerow(order)
    for number, name in enumerate(names):
        row = {"image": name, "label": classes[number % 3], "x": str(number % 4)}
        writer.writerow([row[heading] for heading in order])
    (root / "list.csv").write_bytes(text.getvalue().encode(encoding))
    found = read_label_file(str(root / "list.csv"), LabelFileConfig(label_separator="none"))
    assert labels(found) == [(name, classes[at % 3]) for at, name in enumerate(names)]
    assert ("Windows-1252" in str(account(found).notes)) == (
        encoding == "cp1252" and not "".join(classes).isascii()
    )


@pytest.mark.parametrize("values", [("0", "1"), ("0.0", "1.0"), ("-1", "1"), ("False", "True")])
def test_columns_of_zeros_and_ones(root: Path, values: tuple[str, str]) -> None:
    def text(*flags: Iterable[int]) -> str:
        lines = [f"p{at}.png, {', '.join(values[each] for each in row)}"
                 for at, row in enumerate(flags)]  # fmt: skip
        return "\n".join(["filename, b10, b2, a", *lines])

    found = read(root, text((1, 0, 0), (0, 1, 0), (1, 0, 0)))
    assert labels(found) == [("p0.png", "b10"), ("p1.png", "b2"), ("p2.png", "b10")]
    assert found.splits[""].classes == ("b2", "b10")
    assert "no image is of 'a'" in account(found).notes
    assert "one of them for every image" in account(found).layout
    found = read(root, text((1, 0, 1), (0, 1, 0), (0, 0, 0)))
    assert labels(found) == [("p0.png", ("b10", "a")[::-1]), ("p1.png", ("b2",)), ("p2.png", ())]
    assert found.splits[""].targets is not None
    assert found.splits[""].targets.dtype == bool


@pytest.mark.parametrize(
    ("heading", "cells", "mark"),
    [
        ("tags", ["haze primary", "clear", "clear primary"], " "),
        ("Tags", ["big cat,dog", "dog", "big cat"], ","),
        ("labels", ["big cat;dog", "dog", "big cat"], ";"),
        ("Finding Labels", ["Mass|No Finding", "Mass", "Edema"], "|"),
        ("labels", ["scab rust", "rust", "scab"], " "),
        ("labels", ["['scab', 'rust']", "['rust']", "['scab']"], ","),
        ("label", ["['scab', 'rust']", "['rust']", "['scab']"], ","),
        ("diagnosis", ['["scab", "rust"]', '["rust"]', '["scab"]'], ","),
        ("labels", ["['scab' 'rust']", "['rust']", "['scab']"], "' '"),
        ("labels", ["0|1", "1", "0"], "|"),
    ],
)
def test_tags(root: Path, heading: str, cells: list[str], mark: str) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([["image_name", heading], *zip(NAMES, cells, strict=False)])
    found = read(root, text.getvalue())
    tags = [{tag.strip("'[] \"") for tag in cell.split(mark)} for cell in cells]
    assert [set(each) for _, each in labels(found)] == tags
    assert list(found.splits[""].classes) == sorted(found.splits[""].classes)


@pytest.mark.parametrize(
    ("heading", "cells", "separator"),
    [
        ("labels", ["golden retriever", "great dane", "great dane"], "space"),
        ("label", ["cat|dog", "cat", "dog"], "pipe"),
    ],
)
def test_one_label_or_several_is_settled_by_an_option(
    root: Path, heading: str, cells: list[str], separator: str
) -> None:
    lines = [f"{name},{cell}" for name, cell in zip(NAMES, cells, strict=False)]
    text = "\n".join([f"file,{heading}", *lines])
    found = read(root, text)
    assert found.problem is not None
    assert found.problem.remedy.startswith(f"say with --label-separator {separator}")
    whole = read(root, text, label_separator="none")
    assert [label for _, label in labels(whole)] == cells
    several = read(root, text, label_separator=separator)
    assert [len(each) for _, each in labels(several)] == [len(cell.replace("|", " ").split())
                                                          for cell in cells]  # fmt: skip


def test_names_with_spaces_are_no_tags(root: Path) -> None:
    cells = ["big cat", "cat", "New York"]
    text = "\n".join(["file,label", *map(",".join, zip(NAMES, cells, strict=False))])
    assert [label for _, label in labels(read(root, text))] == cells


def test_options_name_columns(root: Path) -> None:
    text = rows("image,site,sort,good", "p{n}.png,s,{c},{b}")
    found = read(root, text)
    assert found.problem is not None
    assert "'image', 'site', 'sort', 'good'" in found.problem.problem
    assert "--label-column" in found.problem.remedy
    [note] = [note for note in account(found).notes if "labels are not used" in note]
    assert "--label-column" in note
    assert labels(read(root, text, label_column="sort")) == CATS
    assert labels(read(root, text, label_column="SORT")) == CATS
    assert "'site', 'good'" in str(account(read(root, text, label_column="sort")).notes)
    with pytest.raises(ConfigError, match="label_column is sorts") as caught:
        read(root, text, label_column="sorts")
    assert "sort" in caught.value.remedy
    with pytest.raises(ConfigError, match="which names the images"):
        read(root, text, label_column="image")
    text = rows("", "{b},p{n}.png,s")
    assert labels(read(root, text, image_column="2", label_column="1")) == BITS
    with pytest.raises(ConfigError, match="3 columns without headings"):
        read(root, text, label_column="4")
    text = rows("a,b,image,note", "{b},1,p{n}.png,x")
    assert labels(read(root, text, label_column="a,b"))[1] == ("p1.png", ("a", "b"))


def test_a_column_of_images_is_found_or_asked_for(draw: Draw) -> None:
    root = draw("a.png", "b.png", "m1.png", "m2.png")
    text = "image,path,label\na.png,m1.png,x\nb.png,m2.png,y\n"
    with pytest.raises(DataError, match="column 'image', column 'path'") as caught:
        read(root, text)
    assert "--image-column" in caught.value.remedy
    assert labels(read(root, text, image_column="path")) == [("m1.png", "x"), ("m2.png", "y")]
    both = read(root, "id,path,label\na,a.png,x\nb,b.png,y\n")
    assert labels(both) == [("a.png", "x"), ("b.png", "y")]
    with pytest.raises(DataError, match=r"no column of .* clearly names the images"):
        read(root, "who,where,what\nx,y,z\n")
    with pytest.raises(DataError, match=r"2 of the 2 images .* do not exist"):
        read(root, "id,label\n1.0,a\n2.0,b\n")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("image,label\n", "its only line is the headings 'image', 'label'"),
        ("\n\n", "names no images"),
        (b"PK\x03\x04rest", "an Excel workbook"),
        (b"\xff\xfeimage", "begins as UTF-16-LE, and breaks its rules"),
        (b"image,label\np0.png,\0\n", "zero byte in line 2"),
        ('image,label\n"p0.png,cat\np1.png,dog\n', "cannot be read from line 2 on"),
        ("image,label\np0.png,cat\np1.png,dog, brown\n", r"more than 2 cells: line 3 \('brown'\)"),
        ("image,label\np9.png,cat\np1.png,dog\n", r"1 of the 2 .* do not exist: line 2 \('p9.png'"),
        ("image,label\n,cat\np1.png,dog\n", "line 2 .'an empty cell'"),
        ("image,label\nhttps://host/a.png,cat\n", "do not exist: line 2"),
        ("image,split,label\np0.png,train,a\np0.png,val,a\n", r"two splits: lines 2 and 3"),
        ("image,split,label\np0.png,train,a\np1.png,extra,a\n", r"line 3 .*'extra'.* no split"),
        ("image,split,label\np0.png,train,a\np1.png,,a\n", "line 3 .* has nothing in"),
        ("image,split,fold,label\np0.png,train,0,a\n", "may be the split: .*'split'.*'fold'"),
        ("p0.png,cat,1\np1.png,dog,2\nhalf", "do not exist: line 3"),
    ],
)  # fmt: skip
def test_what_is_refused(root: Path, text: str | bytes, match: str) -> None:
    with pytest.raises(DataError, match=match) as caught:
        read(root, text)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (rows("file,score", "p{n}.png,0.{n}7"), "6 different numbers, from 0.07 to 0.57"),
        (rows("image,label", "p{n}.png,c{n}"), "each of the 6 training images .* has a label"),
        (rows("image,text", "p{n}.png,c{n}"), "6 of the 6 cells of column 'text' .* are diff"),
        (rows("", "p{n}.png,{c},1"), "holds the labels: it has 3 columns without headings"),
        (rows("image,label,class", "p{n}.png,{c},{n}"), "may hold the labels: .*label.*class"),
        (rows("image,label", "p{n}.png,{c}") + "p0.png,dog\n", "two different .*lines 2 and 8"),
        (rows("image,label", "p{n}.png,{c}", range(5)) + "p5.png,\n", r"no label: line 7 \('p5"),
        (rows("image,label", "p{n}.png,{c}", range(5)) + "p5.png\n", r"no label: line 7"),
        (rows("image,label", "p{n}.png,{c}", range(5)) + "p5.png,nan\n", r"no label: line 7"),
        (rows("image,a,b", "p{n}.png,{b},{b}").replace("5.png,1,1", "5.png,1,-1"), "holds the lab"),
        (rows("image", "p{n}.png"), "has no labels"),
        (rows("image,label", 'p{n}.png,"[0, {b}]"'), "lists of 0 and 1, such as '.0, 0.'"),
        (rows("image,tags", 'p{n}.png,"[{b}. 0.]"'), "lists of 0 and 1"),
        (rows("image,tags", "p{n}.png,{b}|0|1"), "lists of 0 and 1"),
        (rows("image,tags", "p{n}.png,['{c}']", range(5)) + "p5.png,['']\n", "no label: line 7"),
        (rows("image,label,answer", "p{n}.png,{c},reject"), "'answer' .* 'reject' in 6 of 6 rows"),
        (rows("image,label,Confidence", "p{n}.png,{c},{b}"), "'Confidence' .* '0' in 3 of 6 rows"),
        (rows("image,set,label", "p{n}.png,val,{c}"), "no split for training"),
        ("image,set,label\np0.png,train,a\np1.png,train,b\np2.png,val,c\n", "training image .*'c'"),
    ],
)  # fmt: skip
def test_what_is_refused_for_labels_only(root: Path, text: str, match: str) -> None:
    """Training without labels reads the same files, and says that labels are not used."""
    (root / "list.csv").write_text(text)
    with pytest.raises(DataError, match=match) as caught:
        divide(Dataset(str(root / "list.csv")), Division(split=0.5, seed=0))
    assert caught.value.remedy
    if "val," not in text:
        assert len(open_source(str(root / "list.csv"))) == NUMBER


def test_numbers_that_are_classes(root: Path) -> None:
    found = read(root, rows("", "p{n}.png,1{b}"))
    assert found.splits[""].classes == ("10", "11")
    found = read(root, "\n".join(f"p{at}.png,{value}" for at, value in enumerate([10, 2, 10, 9])))
    assert found.splits[""].classes == ("2", "9", "10")
    found = read(root, rows("image,label", "p{n}.png,{b}", range(5)) + "p5.png,1.0\n")
    assert labels(found) == BITS
    assert "labels such as 1.0 are read as 1" in account(found).notes


def test_lists_of_zeros_and_ones_and_denied_labels_by_option(root: Path) -> None:
    text = rows("image,label,confidence", 'p{n}.png,"[0, {b}]",{b}')
    whole = read(root, text, label_column="label", label_separator="none")
    assert [label for _, label in labels(whole)] == ["[0, 0]", "[0, 1]"] * 3
    numbers = read(root, text, label_column="label", label_separator="comma")
    assert [label for _, label in labels(numbers)] == [("0",), ("0", "1")] * 3


def test_lists_of_other_splits_are_named(root: Path) -> None:
    read(root, rows("image,label", "p{n}.png,{c}", [5]), "val.csv")
    read(root, rows("image,label", "p{n}.png,{c}", [4]), "test.csv")
    note = "lists of other splits are not read: 'test.csv', 'val.csv'"
    text = rows("image,label", "p{n}.png,{c}", range(4))
    assert note in account(read(root, text, "train.csv")).notes
    assert note not in account(read(root, text, "all.csv")).notes


def test_signs_that_are_classes(root: Path) -> None:
    found = read(
        root, "\n".join(f"{name}\t{sign}" for name, sign in zip(NAMES, "|,[];|", strict=True))
    )
    assert found.splits[""].classes == tuple(sorted("|,[];"))


def test_many_numbers_with_gaps_are_no_classes_until_they_are_named(draw: Draw) -> None:
    root = draw(*(f"{number}.png" for number in range(50)))
    text = "\n".join(["image,label", *(f"{at}.png,{7 * (at // 2)}" for at in range(50))])
    found = read(root, text)
    assert found.problem is not None
    assert "25 different numbers, from 0 to 168" in found.problem.problem
    assert len(read(root, text, label_column="label").splits[""].classes) == 25
    counted = "\n".join(["image,label", *(f"{at}.png,{at // 2 + 1}" for at in range(50))])
    assert len(read(root, counted).splits[""].classes) == 25


def test_an_image_with_several_rows(root: Path) -> None:
    text = "image,label\np0.png,cat\np1.png,dog\np0.png,dog\np1.png,dog\n"
    assert "--multi-label" in str(read(root, text).problem)
    found = read_label_file(str(root / "list.csv"), PLAIN, multi_label=True)
    assert labels(found) == [("p0.png", ("cat", "dog")), ("p1.png", ("dog",))]
    assert account(found).layout.endswith("the rows of an image taken together")
    (root / "list.csv").write_text("image,label\np0.png,cat\np1.png,dog\n")
    once = read_label_file(str(root / "list.csv"), PLAIN, multi_label=True)
    assert "taken together" not in account(once).layout
    again = read(root, "image,label\np0.png,cat\np1.png,dog\np0.png,cat\n")
    assert labels(again) == [("p0.png", "cat"), ("p1.png", "dog")]
    assert [(one.reason, one.count, one.examples) for one in account(again).skipped] == [
        ("listed twice", 1, ("p0.png",))
    ]


def test_json_lines(root: Path) -> None:
    text = '{{"file_name": "p{n}.png", "label": "{c}", "extra": null}}'
    assert labels(read(root, rows("", text), "metadata.jsonl")) == CATS
    tags = '{"file_name": "p0.png", "tags": ["a b", "c"]}\n{"file_name": "p1.png", "tags": ["c"]}\n'
    assert labels(read(root, tags, "m.jsonl")) == [("p0.png", ("a b", "c")), ("p1.png", ("c",))]
    for wrong, match in (
        ("{", "line 1 .* not JSON"),
        ('{"file_name": "\\ud800"}', "line 1 .* not JSON"),
        ("[1]", "not a JSON object"),
        ("", "no images"),
    ):
        with pytest.raises(DataError, match=match):
            read(root, wrong, "wrong.jsonl")


def test_a_json_list(root: Path) -> None:
    every = [{"file_name": name, "label": label} for name, label in CATS]
    assert labels(read(root, json.dumps(every), "labels.json")) == CATS
    twice = json.dumps([*every, every[0] | {"label": "dog"}], indent=1)
    problem = read(root, twice, "labels.json").problem
    assert problem is not None
    assert "lines 2 and 26 ('p0.png': 'cat' and 'dog')" in problem.problem
    for wrong, match in (
        ('{"images": []}', "holds no JSON list: it is no list"),
        ("[", "holds no JSON list"),
        ("[{},\n\n1]", "line 3 of .* is not a JSON object: 1"),
        ("[]", "names no images"),
    ):
        with pytest.raises(DataError, match=match):
            read(root, wrong, "wrong.json")


@pytest.mark.parametrize("seed", range(60))
def test_rubbish_ends_in_an_error_of_ours(root: Path, seed: int) -> None:
    chance = random.Random(seed)
    good = rows("image,split,label", "p{n}.png,train,{c}")
    data = bytearray(good.encode())
    for _ in range(chance.randrange(1, 30)):
        data[chance.randrange(len(data))] = chance.choice(b"\0\xff\xfe\"',;|\t\n\r #[]{}p.-0123")
    try:
        found = read(root, bytes(data))
    except BeitError as error:
        assert error.remedy  # noqa: PT017
    else:
        assert all(set(keys(source)) <= set(NAMES) for source in found.splits.values())


@pytest.mark.parametrize("missing", ["N/A", "?", "NULL"])
def test_cells_that_are_no_label(root: Path, missing: str) -> None:
    found = read(root, rows("file,label", "p{n}.png,{c}", range(5)) + f"p5.png,{missing}\n")
    assert found.problem is not None
    assert "line 7 ('p5.png')" in found.problem.problem
    found = read(root, rows("file,label", "p{n}.png,{c}", range(5)) + "p5.png,none\n")
    assert found.splits[""].classes == ("cat", "dog", "none")


def test_minus_one_beside_numbers_may_be_no_label(root: Path) -> None:
    found = read(root, rows("file,label", "p{n}.png,{b}", range(5)) + "p5.png,-1\n")
    assert found.problem is not None
    assert "holds -1 beside the numbers of 2 classes" in found.problem.problem
    found = read(root, rows("file,label", "p{n}.png,{b}").replace(",0", ",-1"))
    assert set(found.splits[""].classes) == {"-1", "1"}


@pytest.mark.parametrize(("name", "words"), [("a.xml", "export other"), ("a.xlsx", "as .csv")])
def test_other_tables_are_to_be_exported(root: Path, name: str, words: str) -> None:
    (root / name).write_bytes(b"PK\x03\x04")
    for use in (open_source, lambda path: divide(Dataset(path), Division(split=0.5, seed=0))):
        with pytest.raises(DataError, match="neither a folder nor a list file") as caught:
            use(str(root / name))
        assert words in caught.value.remedy
