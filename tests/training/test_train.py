"""The loop: it learns, it goes on where it was, and it says what it left out."""

import json
import os
import socket
import subprocess
import sys
import time

import made_faces
import numpy as np
import pytest
import torch

from edge_app import boxes
from edge_app.errors import ConfigError
from training import augment, match, model, protocol, train

THREADS = min(2, os.cpu_count() or 1)


def arguments(root, out, *more, name="ssd_mobilenet_v2", size="64x64"):
    return [
        name, "--data", str(root), "--out", str(out), "--size", size, "--batch", "4",
        "--epochs", "3",
        "--validation", "0.2", "--workers", "0", "--threads", "1", "--log-steps", "2",
        "--save-s", "1000", "--device", "cpu", "--no-bf16", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def wider(tmp_path_factory):
    root = tmp_path_factory.mktemp("wider")
    made_faces.write_wider(root, 11, size_wh=(96, 96), faces=2, sizes_px=(16, 40))
    with open(str(root / "wider_face_split" / "wider_face_train_bbx_gt.txt"), "a") as file:
        file.write("0--Made/lost.png\n1\n1 1 9 9 0 0 0 0 0 0\n")
    return root


@pytest.mark.parametrize("recipe", sorted(train.RECIPES))
def test_a_broken_run_ends_with_the_weights_of_an_unbroken_one(wider, tmp_path, recipe, capsys):
    more = ["--recipe", recipe]
    train.main(arguments(wider, tmp_path / "whole", *more))
    out = capsys.readouterr().out
    assert "skipped 0--Made/lost.png: the picture is missing" in out
    assert "the backbone learns from nothing" in out
    train.main(arguments(wider, tmp_path / "broken", *more, "--stop-at", "3"))
    train.main(arguments(wider, tmp_path / "broken", *more))
    whole, broken = (
        torch.load(str(tmp_path / name / "last.pt"), weights_only=True)
        for name in ("whole", "broken")
    )
    assert whole["step"] == broken["step"] == 6
    for name, value in whole["model"].items():
        assert torch.equal(value, broken["model"][name]), name
    with open(str(tmp_path / "whole" / "log.jsonl"), encoding="utf-8") as file:
        entries = [json.loads(line) for line in file]
    assert entries[-1]["step"] == 6 and 0 <= entries[-1]["validation_ap"] <= 1


def test_a_checkpoint_of_another_run_is_refused(wider, tmp_path):
    train.main(arguments(wider, tmp_path, "--stop-at", "1", name="blazeface"))
    with pytest.raises(ConfigError, match="--seed 1, not 2"):
        train.main(arguments(wider, tmp_path, "--seed", "2", name="blazeface"))


    with pytest.raises(ConfigError, match="--validation 0.2, not 0.1"):  # else learns what judges
        train.main(arguments(wider, tmp_path, "--validation", "0.1", name="blazeface"))
    last = str(tmp_path / "last.pt")
    with pytest.raises(ConfigError, match="--backbone None --init None"):
        train.main(arguments(wider, tmp_path, "--init", last, name="blazeface"))


def test_a_run_that_has_come_further_is_not_called_done(wider, tmp_path):
    train.main(arguments(wider, tmp_path, "--stop-at", "3", name="blazeface"))
    for less in (["--epochs", "1"], ["--stop-at", "2"]):
        with pytest.raises(ConfigError, match="at step 3 already, past the 2"):
            train.main(arguments(wider, tmp_path, *less, name="blazeface"))


def test_a_run_is_made_longer_only_before_its_rate_falls(wider, tmp_path):
    """Two steps an epoch; of 3 epochs the rate falls from the fifth step on."""

    def run(*more):
        train.main(arguments(wider, tmp_path, *more, name="blazeface"))

    run("--epochs", "2", "--stop-at", "2")
    run("--epochs", "3", "--stop-at", "6")
    with pytest.raises(ConfigError, match="at step 5 of its 3 epochs .*stable.pt and another"):
        run("--epochs", "4")


def test_a_killed_run_ends_with_the_weights_of_an_unbroken_one(wider, tmp_path):
    def options(name):
        more = ("--save-s", "0", "--epochs", "1000")
        return arguments(wider, tmp_path / name, *more, name="blazeface")

    process = subprocess.Popen(
        [sys.executable, "-m", "training.train", *options("killed")],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (tmp_path / "killed" / "last.pt").exists() and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    step = train.read_checkpoint(str(tmp_path / "killed" / "last.pt"))["step"]
    for name in ("killed", "whole"):
        train.main([*options(name), "--stop-at", str(step + 3)])
    whole, killed = (
        train.read_checkpoint(str(tmp_path / name / "last.pt")) for name in ("whole", "killed")
    )
    assert whole["step"] == killed["step"] == step + 3
    for name, value in whole["model"].items():
        assert torch.equal(value, killed["model"][name]), name


def test_weights_of_another_network_are_refused(wider, tmp_path):
    path = str(tmp_path / "odd.npz")
    np.savez(path, nothing=np.zeros(3, np.float32))
    network = model.blazeface()
    count = len(network.state_dict()) + 1
    with pytest.raises(ConfigError, match="odd.npz does not fit blazeface: {} arr".format(count)):
        train.load_weights(network, path)
    arrays = {name: value.numpy() for name, value in network.state_dict().items()}
    name = next(name for name, value in arrays.items() if value.ndim == 4)
    np.savez(path, **dict(arrays, **{name: arrays[name][:1]}))
    with pytest.raises(ConfigError, match="odd.npz .*: 1 arrays.*first " + name):
        train.load_weights(network, path)


def test_a_file_that_is_no_checkpoint_is_refused_by_name(tmp_path):
    (tmp_path / "junk.pt").write_text("junk")
    torch.save({"model": {}}, str(tmp_path / "other.pt"))
    for name, reason in (("junk", "damaged"), ("other", "no checkpoint"), ("none", "no such file")):
        with pytest.raises(ConfigError, match=name + ".pt.*" + reason):
            train.load_weights(model.blazeface(), str(tmp_path / (name + ".pt")))


@pytest.mark.parametrize(
    "option",
    [["--size", "300"], ["--size", "0x64"], ["--batch", "0"], ["--epochs", "-1"],
     ["--validation", "1"], ["--validate-every", "0"]],
)  # fmt: skip
def test_impossible_numbers_are_refused_before_anything_is_read(tmp_path, option, capsys):
    with pytest.raises(SystemExit):
        train.main(arguments(tmp_path / "none", tmp_path / "out", *option))
    assert option[0] in capsys.readouterr().err


def test_a_set_of_missing_pictures_is_refused_after_they_are_named(tmp_path, capsys):
    made_faces.write_wider(tmp_path, 1)
    (tmp_path / "WIDER_train" / "images" / "0--Made" / "made_0.png").unlink()
    with pytest.raises(ConfigError, match="0 pictures"):
        train.main(arguments(tmp_path, tmp_path / "out", name="blazeface"))
    assert "skipped 0--Made/made_0.png" in capsys.readouterr().out


def test_fields_of_a_recipe_are_set_otherwise_and_nonsense_is_refused():
    face = train.RECIPES["face"]
    changes = ["matching=overlap", "windows=paper", "frozen_blocks=0", "is_norm_frozen=false"]
    recipe = train.changed(face, changes + ["rate=0.5"])
    assert recipe == face._replace(
        matching="overlap", windows=augment.PAPER, frozen_blocks=0, is_norm_frozen=False, rate=0.5
    )
    assert train.changed(face, ["rate=1", "optimiser=sgd"]).rate == 1.0
    wrong = ["speed=1", "rate=fast", "frozen_blocks=", "windows=4", "matching=1.5"]
    for change in [*wrong, "optimiser=SGD", "loss=focal"]:
        with pytest.raises(ConfigError, match="--change " + change.split("=")[0]):
            train.changed(face, [change])


def test_a_larger_batch_takes_larger_steps():
    paper, face = train.RECIPES["paper"], train.RECIPES["face"]
    assert train.rate_of(paper, 32) == pytest.approx(1e-3)  # the paper's own, section 3
    assert train.rate_of(face, 64) == pytest.approx(2 * face.rate)


def test_the_rate_rises_stays_and_falls_to_zero():
    rates = [train.rate_at(step, 4000, 0.25) for step in range(4001)]
    assert rates[0] == pytest.approx(1 / train.WARM_UP_STEPS)
    assert rates[train.WARM_UP_STEPS] == rates[3000] == 1
    assert rates[3500] == pytest.approx(0.5) and rates[4000] == 0
    assert train.rate_at(9, 100, 0.25) == 1  # a short run does not spend itself rising


def test_each_epoch_shows_every_picture_once_in_another_order():
    sizes = [(64, 64)]
    keys = list(train.Batches(8, 4, sizes, seed=1, first=0, last=4))
    first, second = ([i for batch in keys[n : n + 2] for _, i, _ in batch] for n in (0, 2))
    assert sorted(first) == sorted(second) == list(range(8)) and first != second
    assert list(train.Batches(8, 4, sizes, seed=1, first=3, last=4)) == keys[3:]


def test_batches_of_several_sizes_take_turns(wider, tmp_path):
    keys = train.Batches(8, 4, [(64, 64), (96, 64)], seed=1, first=1, last=4)
    assert [{size for _, _, size in batch} for batch in keys] == [{(96, 64)}, {(64, 64)}, {(96, 64)}]
    train.main(arguments(wider, tmp_path, "--size", "64x64", "96x64"))
    state = torch.load(str(tmp_path / "final.pt"), weights_only=True)
    assert state["step"] == 6 and state["options"]["size"] == [[64, 64], [96, 64]]


def test_two_processes_learn_together_and_one_goes_on(wider, tmp_path):
    """torchrun: both see their share of each batch, one of them writes."""
    port = free_port()
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-addr", "127.0.0.1", "--master-port", str(port), "-m", "training.train"]
    more = ["--stop-at", "4"]
    done = subprocess.run(
        command + arguments(wider, tmp_path, *more, name="blazeface"),
        env=dict(os.environ, OMP_NUM_THREADS="1"), timeout=120,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    entries = [json.loads(line) for line in open(str(tmp_path / "log.jsonl"), encoding="utf-8")]
    assert [entry["step"] for entry in entries] == [2, 4]
    train.main(arguments(wider, tmp_path, name="blazeface"))
    assert torch.load(str(tmp_path / "final.pt"), weights_only=True)["step"] == 6


def learn_a_half(rank, port, batch, out):
    """One of two processes: its losses and their gradient for every second picture of the batch."""
    address = "tcp://127.0.0.1:{}".format(port)
    torch.distributed.init_process_group("gloo", address, rank=rank, world_size=2)
    losses_and_gradients(batch, slice(rank, None, 2), "{}/{}.pt".format(out, rank))
    torch.distributed.destroy_process_group()


def losses_and_gradients(batch, pictures, path):
    faces, offsets, logits = batch
    teacher = train.Teacher(
        model.blazeface(), train.RECIPES["paper"], (128, 128), torch.device("cpu")
    )
    answer = [part[pictures].clone().requires_grad_() for part in (offsets, logits)]
    nothing = match.Boxes.of([torch.zeros(0, 4)] * len(answer[0]))
    parts = torch.stack(teacher.losses(answer, match.Boxes.of(faces[pictures]), nothing))
    parts.sum().backward()
    torch.save([parts.detach()] + [part.grad for part in answer], path)


def test_two_processes_have_the_loss_of_one(tmp_path):
    """Many faces in the one's pictures, few or none in the other's: all count alike."""
    some = torch.tensor([[4.0, 4.0, 30.0, 36.0], [60.0, 60.0, 120.0, 124.0], [80.0, 4.0, 99.0, 25.0]])
    faces = [some, some[:1], some[:2], torch.zeros(0, 4)]
    generator = torch.Generator().manual_seed(5)
    offsets, logits = (torch.randn(4, 896, last, generator=generator) for last in (4, 2))
    batch = (faces, offsets, logits)
    arguments = (free_port(), batch, str(tmp_path))
    torch.multiprocessing.spawn(learn_a_half, arguments, nprocs=2)
    losses_and_gradients(batch, slice(None), str(tmp_path / "whole.pt"))
    whole, first, second = (torch.load(str(tmp_path / (name + ".pt"))) for name in ("whole", "0", "1"))
    torch.testing.assert_close((first[0] + second[0]) / 2, whole[0])
    for part in (1, 2):  # what each hands in is averaged over the two processes
        both = torch.zeros_like(whole[part])
        both[0::2], both[1::2] = first[part] / 2, second[part] / 2
        torch.testing.assert_close(both, whole[part])


def free_port():
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def overfit(network, input_wh, pictures, steps, rate, recipe):
    """Teach the pictures by heart; gives the average precision on them."""
    torch.set_num_threads(THREADS)
    width, height = input_wh
    pixels = torch.from_numpy(np.stack([p for p, _ in pictures]))
    pixels = train.to_order(pixels, network.preparation.order)
    faces = match.Boxes.of([torch.from_numpy(f) for _, f in pictures])
    nothing = match.Boxes.of([torch.zeros(0, 4)] * len(pictures))
    teacher = train.Teacher(network, recipe, input_wh, torch.device("cpu"))
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate)
    network.to(memory_format=torch.channels_last).train()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 10, (steps - step) / (0.4 * steps))
        with torch.autocast("cpu", torch.bfloat16):
            answer = network(network.prepare(pixels))
        optimiser.zero_grad()
        sum(teacher.losses(answer, faces, nothing)).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimiser.step()
    network.eval()
    with torch.no_grad():
        offsets, logits = network(network.prepare(pixels))
    table = boxes.default_boxes(network.layers(input_wh), input_wh)
    found = []
    for one, scores in zip(offsets.numpy(), logits.softmax(2)[..., 1].numpy()):
        kept = boxes.select(one, scores, table, model.VARIANCES, 0.05, 0.45, 500, 50)
        found.append(protocol.Found(boxes.to_pixels(kept.boxes, input_wh), kept.scores))
    truths = [protocol.Truth(f, np.ones(len(f), bool)) for _, f in pictures]
    return protocol.score(found, truths).average


@pytest.mark.slow
def test_ssd_mobilenet_v2_learns_8_pictures_by_heart():
    torch.manual_seed(0)
    network = model.ssd_mobilenet_v2()
    model.set_prior(network, 0.01)
    pictures = [made_faces.picture(seed) for seed in range(8)]
    assert overfit(network, (160, 160), pictures, 90, 3e-3, train.RECIPES["face"]) > 0.95


@pytest.mark.slow
def test_ssd_vgg16_learns_8_pictures_by_heart():
    """From nothing, with the paper's matching and loss."""
    torch.manual_seed(0)
    network = model.ssd_vgg16()
    pictures = [made_faces.picture(seed, (300, 300), sizes_px=(60, 140)) for seed in range(8)]
    assert overfit(network, (300, 300), pictures, 45, 2e-4, train.RECIPES["paper"]) > 0.95
