"""The model card: made from the run and its records, whatever is written in them."""

import json
import re

import ml_collections
import pytest
from fake_records import record

from jaxpt import export
from jaxpt.export import card
from jaxpt.export.counterparts import Counterpart

HOSTILE = "<script>alert(1)</script> [x](javascript:y) ![i](http://e.test/i) `c` | *b* _u_ # h\n# H"


def plan_of(backbone, **changes):
    return card.Plan(
        backbone, "jaxpt", Counterpart(), ("safetensors",), False, (8, 8, 1), [], ""
    )._replace(**changes)


def config_of(text):
    (found,) = re.findall(r"(?s)<details>.*?(`{3,})json\n(.*?)\n\1\n\n</details>", text)
    return json.loads(found[1])


def test_it_says_how_the_run_was_made(run, opened, tmp_path):
    text = (export.run(run, tmp_path / "out", classifier=True).folder / "README.md").read_text()
    for row in (
        r"| method | cross\_entropy |",
        r"| network | small\_cnn, 1,272 parameters |",
        "| features | 16 |",
        "| classifier | 2 classes (first five, last five) |",
        "| images | 8 × 8 × 1, normalisation unit |",
        "| trained on | digits: 300 images, 2 classes (first five, last five) |",
        "| duration | 2 steps (2 steps of 120 images) |",
        "| seed | 3 |",
        f"| weights | in the names of jaxpt, fingerprint {opened.checkpoint} |",
    ):
        assert row in text
    assert (
        "the backbone together with a linear classifier" in text
    )  # the method's own first sentence
    assert config_of(text)["duration"] == "2 steps"
    assert "No records were given" in text and "paper" not in text
    for name, version in opened.made["packages"].items():
        assert f"{name} {version}" in text


def test_the_front_matter(run, resnet18, tmp_path):
    def front(source, **options):
        made = export.run(source, tmp_path / str(len(list(tmp_path.iterdir()))), **options)
        return (made.folder / "README.md").read_text().split("---\n")[1]

    own = front(run)
    assert "library_name: jaxpt\n" in own and "pipeline_tag: image-feature-extraction\n" in own
    assert '- "cross_entropy"\n' in own and "timm" not in own
    assert "\n# license: choose" in own and "\nlicense:" not in own
    timm = front(resnet18, classifier=True)
    assert "library_name: timm\n" in timm and "pipeline_tag: image-classification\n" in timm
    assert '- "resnet18"\n' in timm


def test_looks_constants_are_never_said_to_be_the_papers(opened):
    opened.config.method = "look"
    text = card.write(plan_of(opened.__class__(**vars(opened) | {"method": "look"})))
    assert "this run's own, never the paper's, which we could not read." in text


def test_tables_are_made_from_the_records_of_this_backbone(run, opened, tmp_path):
    mine = record("cross_entropy", 3, (0.9, 0.8, 0.7, 0.6, 0.5), checkpoint=opened.checkpoint)
    other = record("look", 3, (0.1, 0.1, 0.1, 0.1, 0.1), checkpoint="another")
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(r) + "\n" for r in (mine, other)))
    made = export.run(run, tmp_path / "out", record_files=[tmp_path / "r.jsonl"])
    text = (made.folder / "README.md").read_text()
    assert "No records were given" not in text
    assert "\n### digits, test part\n" in text and "| cross-entropy | 90.0 | 80.0 |" in text
    assert "| LOOK |" not in text


def test_names_that_are_markup_stay_text(opened):
    data = {"name": HOSTILE, "images": 3, "shape": [8, 8, 1], "classes": [HOSTILE, "b"]}
    opened.made["data"] = data
    opened.config.data.update(path=f"/x/{HOSTILE.replace('/', '')} ``` ````")
    evil = record(HOSTILE, 3, (0.9, 0.8, 0.7, 0.6, 0.5), checkpoint=opened.checkpoint, data=HOSTILE)
    text = card.write(plan_of(opened, records=[evil]))
    config_of(text)  # still one block of JSON
    shown = re.sub(r"(?s)<details>.*?</details>", "", text)
    for markup in "<script", "[x](", "![i](", "`c`", "*b*", "\n# H":
        assert not re.search(rf"(?<!\\){re.escape(markup)}", shown.partition("## Results")[0])
    assert not re.search(r"(?<!\\)<script", shown) and "\n# H" not in shown


def test_headers_of_others_do_not_break_it(opened):
    bare = ml_collections.ConfigDict({"data": {}})
    backbone = opened.__class__(**vars(opened) | {"config": bare, "made": {}, "method": HOSTILE})
    text = card.write(plan_of(backbone))
    assert "| trained on | not recorded |" in text
    assert not re.search(r"(?<!\\)<script", text.split("---\n", 2)[2])


@pytest.mark.parametrize(
    ("classifier", "torchvision"),
    [(False, "network.fc = torch.nn.Identity()\n"), (True, "resnet18(num_classes=3)")],
)
def test_how_it_is_loaded(classifier, torchvision, resnet18, tmp_path):
    made = export.run(resnet18, tmp_path / "out", classifier=classifier)
    text = (made.folder / "README.md").read_text()
    assert 'timm.create_model("local-dir:FOLDER", pretrained=True)' in text
    assert torchvision in text and "(0.485, 0.456, 0.406), divided by (0.229, 0.224, 0.225)" in text
    for code in re.findall("```python\n(.*?)```", text, re.DOTALL):
        compile(code, "card", "exec")
    own = export.run(resnet18, tmp_path / "own", layout="jaxpt")
    text = (own.folder / "README.md").read_text()
    assert "jaxpt's own names" in text and "timm.create_model" not in text
