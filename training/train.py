"""Train a network: ``python3 -m training.train ssd_mobilenet_v2 --data DIR``.

Stops and goes on: run the same command again after a kill and it continues from the last checkpoint
in ``--out``, to the same weights. The learning rate is constant after the warm-up and falls to zero
over the last part, so a run may be lengthened with another ``--epochs`` as long as it has not begun
to fall. On several GPUs: ``torchrun --nproc-per-node N -m training.train ...``.
"""

import argparse
import json
import os
import time
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Sequence, Tuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from edge_app import boxes
from edge_app.errors import ConfigError
from training import augment, command, data, loss, match, model, protocol, resident


class Recipe(NamedTuple):
    """How to train; ``paper`` is SSD's own, ``face`` is ours."""

    matching: str  # "overlap" or "adaptive"
    loss: str  # "multibox" or "quality"
    windows: augment.Recipe
    optimiser: str  # "sgd" or "adamw"
    rate: float  # learning rate at batch 16
    weight_decay: float
    backbone_rate: float  # times rate
    frozen_blocks: int  # of the backbone, where it has such
    is_norm_frozen: bool  # of the backbone
    falling: float  # share of the run over which the rate falls to zero


RECIPES = {
    # Section 3: SGD with momentum 0.9, weight decay 5e-4, batch 32 at 1e-3, falling at two thirds.
    # Unlike there the rate falls along a line, not by tenths. Unlike there, as in every recipe here:
    # the rate rises at first, gradients are clipped, norms and biases not decayed, faces too small
    # or half hidden left out of the loss. Windows and light: see ``augment``. SSD-VGG16's fc6 and
    # fc7 start from random numbers, and SSD-MobileNetV2 keeps the boxes and maps that are ours.
    "paper": Recipe(
        "overlap", "multibox", augment.PAPER, "sgd", 5e-4, 5e-4, 1.0, 0, False, falling=1 / 3
    ),
    "face": Recipe(
        "adaptive", "quality", augment.FACES, "adamw", 1e-3, 1e-2, 0.5, 4, True, falling=0.28
    ),
}
WINDOWS = {
    "paper": augment.PAPER,
    "faces": augment.FACES,
    "whole": augment.WHOLE,
    "close": augment.CLOSE,
}
NAMED = {  # fields of a recipe that choose among names
    "matching": ("overlap", "adaptive"),
    "loss": ("multibox", "quality"),
    "optimiser": ("sgd", "adamw"),
    "windows": tuple(WINDOWS),
}
WARM_UP_STEPS = 300
EMA_DECAY = 0.998
VALIDATION_BATCH = 16
SCORE_FLOOR = 0.02  # detections under it are not counted in validation


def changed(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """A recipe with fields set otherwise, each as "field=value".

    Raises:
        ConfigError: there is no such field or value.
    """
    for change in changes:
        name, _, text = change.partition("=")
        if name not in Recipe._fields:
            raise ConfigError(
                "--change {}: a recipe has {}.".format(change, ", ".join(Recipe._fields))
            )
        if name not in NAMED:
            value = _number(change, text, getattr(recipe, name))
        elif text in NAMED[name]:
            value = WINDOWS[text] if name == "windows" else text
        else:
            raise ConfigError("--change {}: one of {}.".format(change, ", ".join(NAMED[name])))
        recipe = recipe._replace(**{name: value})
    return recipe


def _number(change: str, text: str, now: Any) -> Any:
    """The number or truth that ``text`` says, of the type of ``now``."""
    try:
        value = json.loads(text.lower())
    except ValueError:
        value = text
    if type(now) is float and type(value) is int:
        value = float(value)
    if type(value) is not type(now):
        raise ConfigError(
            "--change {}: it is {!r} now; the value must be of that kind.".format(change, now)
        )
    return value


class Views(Dataset):
    """Augmented pictures; the key is (epoch, index, input's size), all that enters the chance."""

    def __init__(self, pictures: data.Pictures, windows: augment.Recipe, seed: int) -> None:
        self.pictures, self.windows, self.seed = pictures, windows, seed

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, key: Tuple[int, int, Tuple[int, int]]) -> augment.Example:
        epoch, index, input_wh = key
        rng = np.random.default_rng((self.seed, epoch, index))
        return augment.example(*self.pictures[index], input_wh, self.windows, rng)


class Batches:
    """Keys of a run's batches from one step on, each epoch in its own order; shared by ranks.

    With several sizes of the input the batches take turns.
    """

    def __init__(
        self, count: int, batch: int, sizes: Sequence[Tuple[int, int]],
        seed: int, first: int, last: int,
    ) -> None:  # fmt: skip
        self.count, self.batch, self.sizes = count, batch, sizes
        self.seed, self.first, self.last = seed, first, last
        self.rank, self.ranks = rank_and_ranks()

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[List[Tuple[int, int, Tuple[int, int]]]]:
        an_epoch = steps_of_epoch(self.count, self.batch)
        order, ordered = None, -1
        for step in range(self.first, self.last):
            epoch, place = divmod(step, an_epoch)
            if epoch != ordered:
                order, ordered = (
                    np.random.default_rng((self.seed, epoch)).permutation(self.count),
                    epoch,
                )
            chosen = order[place * self.batch : (place + 1) * self.batch][self.rank :: self.ranks]
            input_wh = self.sizes[step % len(self.sizes)]
            yield [(epoch, int(index), input_wh) for index in chosen]


def rank_and_ranks() -> Tuple[int, int]:
    """This process's number and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def steps_of_epoch(count: int, batch: int) -> int:
    """Whole batches only; what is left over comes in another epoch, the order being another."""
    return max(1, count // batch)


Batch = Tuple[Tensor, match.Boxes, match.Boxes]


def collate(examples: Sequence[augment.Example]) -> Batch:
    """(B, H, W, 3) uint8 BGR, the faces, and what to ignore."""
    pixels = torch.from_numpy(np.stack([e.pixels for e in examples]))
    faces = match.Boxes.of([torch.from_numpy(e.faces) for e in examples])
    return pixels, faces, match.Boxes.of([torch.from_numpy(e.ignored) for e in examples])


class Teacher:
    """A network and what it is held to at one size of the input: matching, loss, default boxes."""

    def __init__(
        self, network: model.SSD, recipe: Recipe, input_wh: Tuple[int, int], device: torch.device
    ) -> None:
        self.network, self.recipe = network, recipe
        layers = network.layers(input_wh)
        table = boxes.default_boxes(layers, input_wh) * np.tile(np.float32(input_wh), 2)
        self.defaults = torch.from_numpy(table.astype(np.float32)).to(device)
        self.per_cell = [len(layer.sizes_px) for layer in layers]
        self.per_level = [
            layer.grid_wh[0] * layer.grid_wh[1] * len(layer.sizes_px) for layer in layers
        ]

    def owners(self, faces: match.Boxes, ignored: match.Boxes, pictures: int) -> Tensor:
        """(B, N) owners as ``match`` gives them."""
        if self.recipe.matching == "overlap":
            return match.match_by_overlap(faces, ignored, self.defaults, pictures)
        return match.match_adaptively(
            faces, ignored, self.defaults, pictures, self.per_level, self.per_cell
        )

    def losses(
        self, answer: Tuple[Tensor, Tensor], faces: match.Boxes, ignored: match.Boxes
    ) -> Tuple[Tensor, Tensor]:
        """Score loss and box loss of a batch, float32 scalars.

        Args:
            answer: offsets (B, N, 4) and logits (B, N, 2) as the network gives them.
            faces, ignored: in pixels of the input.
        """
        offsets, logits = (part.float() for part in answer)
        owners = self.owners(faces, ignored, len(offsets))
        owned = faces.xyxy[owners[owners >= 0]]
        judge = loss.multibox_loss if self.recipe.loss == "multibox" else loss.quality_loss
        score, box = judge(offsets, logits, owners, owned, self.defaults, model.VARIANCES)
        weight = weight_of(owners)
        return score * weight, box * weight


def weight_of(owners: Tensor) -> Tensor:
    """What a process's losses count, so that the processes' mean is the loss of the whole batch.

    Each has divided by the default boxes matched in its own pictures; equation 1 has those of all.
    """
    ranks = rank_and_ranks()[1]
    matched = (owners >= 0).sum().float()
    everywhere = matched.clone()
    if ranks > 1:
        dist.all_reduce(everywhere)
    return matched.clamp(min=1) * ranks / everywhere.clamp(min=1)


def make_optimiser(network: model.SSD, recipe: Recipe, rate: float) -> torch.optim.Optimizer:
    """Norms and biases are not decayed; the backbone, which knows something, goes slower."""
    groups: Dict[Tuple[bool, bool], List[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            key = (name.startswith("body.backbone."), parameter.ndim > 1)
            groups.setdefault(key, []).append(parameter)
    settings = [
        {
            "params": parameters,
            "rate": rate * (recipe.backbone_rate if is_backbone else 1.0),
            "weight_decay": recipe.weight_decay if is_decayed else 0.0,
        }
        for (is_backbone, is_decayed), parameters in sorted(groups.items())
    ]
    is_cuda = all(parameter.is_cuda for parameter in network.parameters())
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(settings, lr=rate, momentum=0.9, fused=is_cuda)
    return torch.optim.AdamW(settings, lr=rate, fused=is_cuda)


def rate_of(recipe: Recipe, batch: int) -> float:
    """Learning rate for a batch of another size.

    In proportion for SGD (Goyal et al., "Accurate, large minibatch SGD", 2017), by the square root
    for AdamW (Malladi et al., "On the SDEs and scaling rules for adaptive gradient algorithms",
    NeurIPS 2022).
    """
    ratio = batch / 16
    return recipe.rate * (ratio if recipe.optimiser == "sgd" else ratio**0.5)


def rate_at(step: int, steps: int, falling: float) -> float:
    """Share of the full learning rate: rises, stays, and falls linearly to zero at ``steps``."""
    rise = (step + 1) / max(1.0, min(WARM_UP_STEPS, steps / 10))
    fall = (steps - step) / max(1.0, falling * steps)
    return max(0.0, min(rise, fall, 1.0))


def to_order(pixels: Tensor, order: str) -> Tensor:
    """(B, H, W, 3) BGR to the network's channel order."""
    return pixels.flip(3) if order == "RGB" else pixels


@torch.no_grad()
def validate(network: model.SSD, pictures: data.Pictures, input_wh: Tuple[int, int]) -> float:
    """Average precision (0..1) by WIDER's protocol, in bfloat16, stretched to ``input_wh`` pixels.

    Faces under 6 px at the input do not count, and neither does what is found on them.
    """
    import cv2

    was_training = network.training
    network.eval()
    device = network.mean.device
    defaults = boxes.default_boxes(network.layers(input_wh), input_wh)
    found, truths, answers = [], [], []
    for index in range(len(pictures)):
        if not answers:
            some = range(index, min(index + VALIDATION_BATCH, len(pictures)))
            small = np.stack([cv2.resize(pictures[one][0], input_wh) for one in some])
            small = to_order(torch.from_numpy(small).to(device), network.preparation.order)
            with torch.autocast(device.type, torch.bfloat16):
                offsets, logits = (part.float() for part in network(network.prepare(small)))
            answers = list(zip(offsets.cpu().numpy(), logits.softmax(2)[..., 1].cpu().numpy()))
        pixels, faces, ignored = pictures[index]
        size_wh = (pixels.shape[1], pixels.shape[0])
        chosen = boxes.select(
            *answers.pop(0), defaults, model.VARIANCES, SCORE_FLOOR, 0.45, 1000, 300
        )
        found.append(protocol.Found(boxes.to_pixels(chosen.boxes, size_wh), chosen.scores))
        scale = input_wh[0] * input_wh[1] / (size_wh[0] * size_wh[1])
        counts = np.sqrt(boxes.areas(faces) * scale) >= 6
        counts = np.concatenate([counts, np.zeros(len(ignored), bool)])
        truths.append(protocol.Truth(np.concatenate([faces, ignored]), counts))
    network.train(was_training)
    return protocol.score(found, truths).average


class Run:
    """A training run in a folder: network, optimiser, and how far it has come."""

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        self.options, self.device = options, device
        torch.manual_seed(options.seed)
        self.recipe = changed(RECIPES[options.recipe], options.change)
        self.network = model.MODELS[options.model]()
        options.size = options.size or [list(self.network.input_wh)]
        self.sizes = [tuple(one) for one in options.size]
        if self.recipe.loss == "quality":  # hard negative mining needs no prior
            model.set_prior(self.network, 0.01)
        self.network.to(device, memory_format=torch.channels_last)
        if options.backbone:
            model.load_backbone(self.network, options.backbone)
        if options.init:
            load_weights(self.network, options.init)
        self.is_taught = bool(options.backbone or options.init)
        if self.is_taught:
            self.keep_backbone()
        ranks = rank_and_ranks()[1]
        rate = rate_of(self.recipe, options.batch)
        self.optimiser = make_optimiser(self.network, self.recipe, rate)
        self.replica = self.network
        if ranks > 1:
            self.replica = nn.parallel.DistributedDataParallel(self.network)
        self.teachers = {
            input_wh: Teacher(self.network, self.recipe, input_wh, device)
            for input_wh in self.sizes
        }
        self.step = 0
        self.epochs_before = options.epochs  # of what is resumed

    def keep_backbone(self) -> None:
        """What a backbone knows already and the recipe leaves as it is."""
        backbone = getattr(self.network.body, "backbone", None)
        if backbone is not None:
            self.network.norm_frozen = self.recipe.is_norm_frozen
            backbone.freeze(self.recipe.frozen_blocks)

    @property
    def checkpoint(self) -> str:
        """Where the run goes on from."""
        return os.path.join(self.options.out, "last.pt")

    def save(self, path: str) -> None:
        """Everything the run needs to go on, whole or not at all."""
        state = {
            "model": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "options": vars(self.options),
            "recipe": repr(self.recipe),
        }
        torch.save(state, path + ".tmp")
        os.replace(path + ".tmp", path)

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one.

        Raises:
            ConfigError: it is of another model, recipe, seed, size or validation part, or damaged.
        """
        if not os.path.exists(self.checkpoint):
            return
        state = read_checkpoint(self.checkpoint, self.device)
        before = state["options"]
        for key in ("model", "recipe", "change", "seed", "size", "batch", "validation"):
            mine, theirs = getattr(self.options, key), before.get(key)
            if mine != theirs:
                raise ConfigError(
                    "{} was trained with --{} {}, not {}; choose another --out.".format(
                        self.checkpoint, key, theirs, mine
                    )
                )
        if bool(before["backbone"] or before["init"]) != self.is_taught:
            raise ConfigError(
                "{} began with --backbone {} --init {}; name them again, or choose another "
                "--out.".format(self.checkpoint, before["backbone"], before["init"])
            )
        self.network.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]
        self.epochs_before = before["epochs"]

    def falls_at(self, steps: int) -> int:
        """The step of a run of so many steps at which the learning rate begins to fall."""
        return int(np.ceil(steps * (1 - self.recipe.falling)))

    def learn(self, batch: Batch, steps: int) -> Tensor:
        """One step; gives (score loss, box loss) as a (2,) tensor on the device."""
        share = rate_at(self.step, steps, self.recipe.falling)
        for group in self.optimiser.param_groups:
            group["lr"] = group["rate"] * share
        pixels, faces, ignored = batch
        pixels = to_order(pixels.to(self.device, non_blocking=True), self.network.preparation.order)
        faces, ignored = faces.to(self.device), ignored.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.bf16):
            answer = self.replica(self.network.prepare(pixels))
        teacher = self.teachers[pixels.shape[2], pixels.shape[1]]
        parts = torch.stack(teacher.losses(answer, faces, ignored))
        self.optimiser.zero_grad(set_to_none=True)
        parts.sum().backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 10.0)
        self.optimiser.step()
        self.step += 1
        return parts.detach()


def read_checkpoint(path: str, device: torch.device = torch.device("cpu")) -> Dict[str, Any]:
    """What ``Run.save`` wrote.

    Raises:
        ConfigError: the file is missing, damaged or something else.
    """
    if not os.path.isfile(path):
        raise ConfigError(
            "{}: no such file; training leaves last.pt and final.pt in its --out.".format(path)
        )
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        is_ours = {"model", "optimiser", "step", "options"} <= set(state)
    except Exception as error:  # zip's, pickle's and PyTorch's own for a damaged file
        raise ConfigError("{} is damaged or no checkpoint at all.".format(path)) from error
    if not is_ours:
        raise ConfigError("{} is no checkpoint of a training run.".format(path))
    return state


def load_weights(network: model.SSD, path: str) -> None:
    """Weights of a whole network: an ``.npz`` of ``training.export`` or a checkpoint.

    Raises:
        ConfigError: the file is not of this network.
    """
    if path.endswith(".npz"):
        arrays = model.read_arrays(path)
        state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    else:
        state = read_checkpoint(path)["model"]
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        own = network.state_dict()
        odd = [name for name in own if name in state and own[name].shape != state[name].shape]
        odd += sorted(set(own) ^ set(state))
        raise ConfigError(
            "{} does not fit {}: {} arrays are missing, too many or of another shape, first {}; "
            "it is another network's.".format(path, network.name, len(odd), odd[0])
        ) from error


def write_log(path: str, entry: Dict[str, Any]) -> None:
    """Append a line of JSON."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def batches(views: Views, keys: Batches, run: Run) -> Iterable[Any]:
    """Batches as ``collate`` gives them: made on the device where the set fits, else by processes."""
    options, device = run.options, run.device
    if options.resident is None and device.type == "cuda":
        half = torch.cuda.mem_get_info(device)[0] // 2
        options.resident = resident.bytes_of(views.pictures) < half
    if options.resident:
        made = resident.Resident(views.pictures, device)
        chosen = resident.Chosen(views.pictures, views.windows, views.seed)
        plans = DataLoader(
            chosen, batch_sampler=keys, num_workers=options.workers, collate_fn=chosen.collate
        )
        return (made.make(plan) for plan in plans)
    return DataLoader(
        views, batch_sampler=keys, num_workers=options.workers, collate_fn=collate,
        pin_memory=device.type == "cuda",
    )  # fmt: skip


def train(run: Run, views: Views, validation: data.Pictures) -> None:
    """The loop: learn, log, validate after each epoch, save every few minutes and at the end.

    Raises:
        ConfigError: the run has come further than this time it shall, or is to become longer when
            its learning rate has begun to fall.
    """
    options, log = run.options, os.path.join(run.options.out, "log.jsonl")
    is_first = rank_and_ranks()[0] == 0
    an_epoch = steps_of_epoch(len(views), options.batch)
    steps = max(1, int(round(options.epochs * an_epoch)))
    last = min(steps, options.stop_at) if options.stop_at else steps
    if run.step > last:
        raise ConfigError(
            "{} is at step {} already, past the {} that --epochs and --stop-at allow.".format(
                run.checkpoint, run.step, last
            )
        )
    fell_at = run.falls_at(max(1, int(round(run.epochs_before * an_epoch))))
    if options.epochs > run.epochs_before and run.step > fell_at:
        raise ConfigError(
            "{0} is at step {1}, and at step {2} of its {3:g} epochs the learning rate began to fall; "
            "to train for {4:g} start anew from before: --init {5} and another --out.".format(
                run.checkpoint, run.step, fell_at, run.epochs_before, options.epochs,
                os.path.join(options.out, "stable.pt"),
            )
        )  # fmt: skip
    keys = Batches(len(views), options.batch, run.sizes, options.seed, run.step, last)
    run.network.train()
    falls_at = run.falls_at(steps)
    # A bar on a terminal; in a file the lines of the log are enough.
    bar = tqdm(total=steps, initial=run.step, unit="step", disable=None if is_first else True)
    began = saved_at = logged_at = time.monotonic()
    sums, summed = torch.zeros(2, device=run.device), 0
    for batch in batches(views, keys, run):
        if run.step == falls_at and is_first:
            run.save(os.path.join(options.out, "stable.pt"))
        sums += run.learn(batch, steps)
        summed += 1
        bar.update()
        now = time.monotonic()
        ends_epoch = run.step % an_epoch == 0 or run.step == last
        if is_first and (run.step % options.log_steps == 0 or ends_epoch):
            score_loss, box_loss = (sums / summed).tolist()
            entry = {
                "step": run.step, "epoch": round(run.step / an_epoch, 3),
                "score_loss": round(score_loss, 4), "box_loss": round(box_loss, 4),
                "images_per_s": round(summed * options.batch / (now - logged_at), 1),
                "rate": run.optimiser.param_groups[-1]["lr"],
            }  # fmt: skip
            sums.zero_()
            summed, logged_at = 0, now
            epoch = run.step // an_epoch
            if ends_epoch and len(validation) and (
                epoch % options.validate_every == 0 or run.step == last
            ):
                entry["validation_ap"] = round(validate(run.network, validation, run.sizes[0]), 4)
                logged_at = time.monotonic()
            write_log(log, entry)
            bar.write("step {} of {}: {}".format(run.step, steps, entry))
        is_over = run.step == last or 0 < options.seconds < now - began
        if is_first and (now - saved_at > options.save_s or is_over):
            run.save(run.checkpoint)
            saved_at = now
        if is_over:
            break
    bar.close()
    if is_first and run.step == steps:
        run.save(os.path.join(options.out, "final.pt"))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="training.train", description=__doc__)
    parser.add_argument("model", choices=sorted(model.MODELS))
    parser.add_argument("--data", required=True, help="folder in WIDER FACE's layout")
    parser.add_argument("--out", help="folder of checkpoints and log; default runs/MODEL")
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="face")
    parser.add_argument(
        "--change", nargs="+", default=[], metavar="FIELD=VALUE",
        help="fields of the recipe set otherwise: {}".format(", ".join(Recipe._fields)),
    )  # fmt: skip
    parser.add_argument(
        "--size", type=size, nargs="+",
        help="of the input, as 320x320; default the model's own; batches take turns among several",
    )  # fmt: skip
    parser.add_argument("--epochs", type=positive, default=50)
    parser.add_argument("--batch", type=whole, default=16, help="over all GPUs together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--backbone", help="ImageNet weights of the backbone (.npz)")
    parser.add_argument("--init", help="weights to start from (.npz or .pt)")
    parser.add_argument("--validation", type=share, default=0.05, help="share split off the set")
    parser.add_argument(
        "--validate-every", type=whole, default=1, help="epochs from one validation to the next"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--no-bf16", dest="bf16", action="store_false")
    parser.add_argument("--threads", type=whole, default=2)
    parser.add_argument("--workers", type=int, default=1, help="processes that augment")
    parser.add_argument(
        "--resident", action="store_true", default=None,
        help="keep the set on the device; a GPU with room for it does so anyway",
    )  # fmt: skip
    parser.add_argument("--log-steps", type=whole, default=20)
    parser.add_argument("--save-s", type=float, default=180, help="seconds between checkpoints")
    parser.add_argument(
        "--stop-at", type=int, default=0, help="stop after this step, to go on later"
    )
    parser.add_argument(
        "--seconds", type=float, default=0, help="stop after so long, to go on later"
    )
    options = parser.parse_args(arguments)
    options.out = options.out or os.path.join("runs", options.model)
    return options


def size(text: str) -> List[int]:
    """[320, 240] of "320x240"."""
    width, height = (whole(part) for part in text.split("x"))
    return [width, height]


def whole(text: str) -> int:
    """A whole number of at least 1."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def positive(text: str) -> float:
    """A number over 0."""
    if not 0 < float(text) < float("inf"):
        raise ValueError
    return float(text)


def share(text: str) -> float:
    """A number from 0 up to, but not, 1."""
    if not 0 <= float(text) < 1:
        raise ValueError
    return float(text)


def read_set(options: argparse.Namespace) -> Tuple[data.Pictures, data.Pictures]:
    """Pictures to learn from and to validate on; what is left out is printed by name and counted.

    Raises:
        ConfigError: there are fewer than one for each process.
    """
    samples, skipped = data.wider_split(options.data, "train")
    learning, validating = data.split_validation(samples, options.validation)
    pictures, validation = data.Pictures(learning), data.Pictures(validating)
    skipped += pictures.skipped + validation.skipped
    rank, ranks = rank_and_ranks()
    if rank == 0:
        for name, reason in skipped:
            print("skipped {}: {}".format(name, reason))
        print("{} pictures, {} for validation, {} entries skipped".format(
            len(pictures), len(validation), len(skipped)), flush=True)  # fmt: skip
    if min(len(pictures), options.batch) < ranks:
        raise ConfigError(
            "--data {}: {} pictures in batches of {} are not one for each of {} processes.".format(
                options.data, len(pictures), options.batch, ranks
            )
        )
    return pictures, validation


def main(arguments: Sequence[str] = ()) -> None:
    """Read the set, then train."""
    options = parse(arguments or None)
    torch.set_num_threads(options.threads)
    os.makedirs(options.out, exist_ok=True)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: PyTorch finds no GPU here; try nvidia-smi or cpu.")
    if "RANK" in os.environ:
        if options.seconds:
            raise ConfigError("--seconds: processes would stop at different steps; use --stop-at.")
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
    pictures, validation = read_set(options)
    run = Run(options, device)
    if hasattr(run.network.body, "backbone") and not run.is_taught and rank_and_ranks()[0] == 0:
        print("no --backbone and no --init: the backbone learns from nothing", flush=True)
    run.resume()
    train(run, Views(pictures, run.recipe.windows, options.seed), validation)


if __name__ == "__main__":
    command.run("training.train", main)
