"""The computed table, against figures worked out by hand."""

import small_ssd

from edge_app.card import card_path, load_card
from edge_app.nvidia import budget


def test_the_floor_is_the_slower_of_memory_and_arithmetic():
    assert budget.Cost("k", 25.6e3, 0).floor_us == 1.0
    assert budget.Cost("k", 0, 236e3).floor_us == 1.0
    assert budget.Cost("k", 25.6e3, 472e3).floor_us == 2.0


def test_preprocessing_reads_every_pixel_once_and_two_rows_for_each_of_the_tensor(tmp_path):
    card = load_card(card_path(small_ssd.write(tmp_path)))  # 96x96
    first, second, third, last = budget.preprocess_costs(card, (1280, 720))
    assert first == ("halve", 3 * (1280 * 720 + 640 * 360), 15 * 640 * 360)
    assert second == ("halve", 3 * (640 * 360 + 320 * 180), 15 * 320 * 180)
    assert third.kernel == "halve" and third.bytes_moved == 3 * (320 * 180 + 160 * 90)
    assert last.bytes_moved == 90 * 480 + 12 * 96 * 96 + 16 * 192
    (small,) = budget.preprocess_costs(card, (96, 96))
    assert small.bytes_moved == 96 * 288 + 12 * 96 * 96 + 16 * 192
    (thin,) = budget.preprocess_costs(card, (10000, 95))
    assert thin.bytes_moved == 95 * 96 * 32 + 12 * 96 * 96 + 16 * 192


def test_post_processing_grows_with_the_candidates():
    few, many = budget.post_costs(10659, 50, 10), budget.post_costs(10659, 4096, 750)
    assert [cost.kernel for cost in few][0] == "collect"
    assert few[2].operations == 64 * 64 * 20
    assert many[2].operations == 64 * 65 / 2 * 64 * 64 * 20
    assert sum(cost.floor_us for cost in few) < sum(cost.floor_us for cost in many)


def test_the_table_names_every_kernel(tmp_path, capsysbinary):
    budget.main([small_ssd.write(tmp_path)])
    text = capsysbinary.readouterr().out.decode("utf-8")
    for name in ("halve", "preprocess", "collect", "rank_and_decode", "overlap_mask", "suppress"):
        assert "| {} |".format(name) in text
    assert "computed" in text
