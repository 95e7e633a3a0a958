"""The card: what is written is read back, and what is wrong is said."""

import json

import pytest
from models import make_bright

from edge_app.card import card_path, halvings, load_card, save_card, verify_model
from edge_app.errors import CardError


@pytest.fixture
def model(tmp_path):
    return make_bright(tmp_path)


def test_a_card_comes_back_as_it_was_written(model, tmp_path):
    card = load_card(card_path(model))
    save_card(card, str(tmp_path / "again.json"))
    assert load_card(str(tmp_path / "again.json")) == card


def test_the_default_boxes_come_from_the_card(model):
    assert load_card(card_path(model)).default_boxes().shape == (12, 4)


@pytest.mark.parametrize(
    "size_wh,times",
    [
        ((1280, 720), 1),
        ((1920, 1080), 2),
        ((640, 640), 1),
        ((640, 639), 0),
        ((640, 480), 0),
        ((320, 320), 0),
        ((1, 1), 0),
        ((100000, 319), 0),
        ((100000, 320), 1),
        ((7680, 4320), 4),
        ((655.5, 655.5), 1),
    ],
)
def test_a_picture_is_halved_until_it_has_less_than_four_times_the_input_s_pixels(size_wh, times):
    assert halvings(size_wh, (320, 320)) == times


def test_a_model_of_another_export_is_refused(model):
    card = load_card(card_path(model))
    with open(model, "ab") as file:
        file.write(b"\0")
    with pytest.raises(CardError, match="does not match its card"):
        verify_model(card, model)


def test_a_missing_model_is_named(model, tmp_path):
    with pytest.raises(CardError, match="no model at .*nowhere.onnx"):
        verify_model(load_card(card_path(model)), str(tmp_path / "nowhere.onnx"))


def test_a_missing_card_is_named(tmp_path):
    with pytest.raises(CardError, match="no model card at"):
        load_card(str(tmp_path / "none.json"))


def test_a_card_that_is_not_json(tmp_path):
    (tmp_path / "card.json").write_text("hello")
    with pytest.raises(CardError, match="is not a model card"):
        load_card(str(tmp_path / "card.json"))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda tree: tree.pop("variances"), "field 'variances' is missing"),
        (lambda tree: tree.update(format=99), "card format 99"),
        (lambda tree: tree["input"].update(order="GBR"), "input.order is 'GBR'"),
        (lambda tree: tree["input"].update(mean=[1, 2]), "input.mean must be 3 finite numbers"),
        (lambda tree: tree["input"].update(width_px=0), "input size 0x48 is impossible"),
        (lambda tree: tree.update(layers=[]), "there are no default boxes"),
        (lambda tree: tree["layers"][0].update(step_px=[8, 0]), "a layer of default boxes is impossible"),
        (lambda tree: tree.update(variances=[0.1, -1]), "variances must be positive"),
        (lambda tree: tree.update(input=3), "card.json"),
    ],
)
def test_what_is_wrong_with_a_card_is_said(model, change, message, tmp_path):
    with open(card_path(model)) as file:
        tree = json.load(file)
    change(tree)
    path = tmp_path / "card.json"
    path.write_text(json.dumps(tree))
    with pytest.raises(CardError, match=message):
        load_card(str(path))
