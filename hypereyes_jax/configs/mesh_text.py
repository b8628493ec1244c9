"""A mesh as it is typed: a preset's name, `auto`, axes like `fsdp=8,expert=2`, or `learner=MESH,sampler=COUNT`."""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import replace

from hypereyes_jax.configs.mesh import AXES, DEVICES, MESHES, MeshConfig
from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.errors import UserError

AUTO = "auto"
_TPU_HOST = 4  # chips of a host
_GPU_HOST = 8
_TPU_SLICES = {
    2: {4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"},
    3: {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8"},
}
_CUBES = ("v5p",)  # generations whose slices have three sides
_SPLITS = (
    r"learner=(?P<learner>.+),sampler=(?P<sampler>[^,=]+)",
    r"sampler=(?P<sampler>[^,=]+),learner=(?P<learner>.+)",
)
_WORDS = (*AXES, "hosts", "device", "devices")


def read_mesh(text: str, model: Qwen3VLConfig | None = None, devices: int = 0, hosts: int = 1) -> MeshConfig:
    """The mesh that `text` names.

    Args:
      text: a preset; or axes like "fsdp=8,expert=2", each 1 unless given; or "auto", which shares out `model` over the
        devices. Behind either, "device=h100" and "hosts=2" say what a plan compiles for, and "devices=8" how many
        devices "auto" has there.
      model: whom "auto" is for.
      devices, hosts: those that there are, for "auto".

    Raises UserError for a name, axis or device that there isn't, a number below 1, or a slice that isn't made.
    """
    if text in MESHES:
        return MESHES[text]
    if is_split(text):
        raise UserError(
            f"--mesh {text}: only `hypereyes rl` and its plan give learner and samplers devices of their own. "
            "Everything else takes one mesh, like --mesh fsdp=4"
        )
    words = [word.strip() for word in text.split(",")]
    automatic = is_auto(text)
    values = _values(text, words[1:] if automatic else words)
    device = str(values.pop("device", ""))
    hosts = int(values.pop("hosts", 0)) or (hosts if device == "" else 0)
    count = int(values.pop("devices", 0)) or devices
    axes = {name: int(value) for name, value in values.items()}
    if automatic:
        if axes:
            raise UserError(f"--mesh {text}: auto chooses the axes itself; leave {next(iter(axes))} out")
        if count < 1 or model is None:
            raise UserError(f"--mesh {text}: say how many devices there are, like auto,device=h100,devices=8")
        axes = auto_axes(model, count, max(1, count // hosts) if hosts else min(count, _a_host(device)))
    elif values.keys() and count and count != math.prod(axes.values()):
        raise UserError(f"--mesh {text}: its axes make {math.prod(axes.values())} devices, not {count}")
    mesh = replace(MeshConfig(text, "cpu", hosts=max(1, hosts)), **axes)  # type: ignore[arg-type]
    return _compiled_for(mesh, device, hosts) if device else mesh


def is_auto(text: str) -> bool:
    """Whether the axes are to be chosen for a model."""
    return text.split(",")[0].strip() == AUTO


def is_split(text: str) -> bool:
    """Whether learner and samplers are given devices of their own, which `read_split` reads."""
    return re.search(r"(^|,)\s*(learner|sampler)=", text) is not None


def read_split(text: str, model: Qwen3VLConfig | None = None) -> tuple[MeshConfig, int]:
    """The learner's mesh and the number of the samplers' devices of `learner=MESH,sampler=COUNT`.

    Args:
      text: the learner's part is a mesh as `read_mesh` takes it, or begins with a number of devices that share out
        weights and batch by FSDP; the sampler's is a number of devices. Both count those of all hosts.

    Raises UserError for something else.
    """
    match = next((match for form in _SPLITS if (match := re.fullmatch(form, text.replace(" ", "")))), None)
    if match is None or is_auto(match["learner"]):
        raise UserError(
            f"--mesh {text} must be learner=MESH,sampler=COUNT, like learner=4,sampler=4 or "
            "learner=fsdp=2,expert=2,sampler=4"
        )
    learner, samplers = match["learner"], match["sampler"]
    if not samplers.isdecimal() or int(samplers) < 1:
        raise UserError(f"--mesh {text}: the sampler's part must be a number of devices, not {samplers!r}")
    return read_mesh(re.sub(r"^(\d+)(?=,|$)", r"fsdp=\1", learner), model), int(samplers)


def planned_split(text: str, model: Qwen3VLConfig) -> tuple[MeshConfig, MeshConfig]:
    """The meshes of learner and samplers that a plan of `learner=MESH,sampler=COUNT` compiles for.

    A host has devices of both. TPUs, whose compiler knows whole slices only, count as two slices.

    Raises UserError as `read_split`, and for hosts that can't share both out evenly.
    """
    learner, count = read_split(text, model)
    if not learner.device:
        raise UserError(f"--mesh {text}: say what a plan compiles for, like learner=4,device=h200,sampler=4")
    hosts = max(1, (learner.size + count) // _a_host(learner.device))
    if learner.platform == "gpu" and "hosts=" in text:
        hosts = learner.hosts
    if learner.size % hosts or count % hosts:
        raise UserError(
            f"--mesh {text}: {learner.size} devices that train and {count} that sample can't be shared out evenly "
            f"among {hosts} hosts, each of which does both: choose multiples of {hosts}, or name others (hosts=2)"
        )
    parts = learner, MeshConfig(f"samplers of {text}", "cpu", fsdp=count)
    compiled = (_compiled_for(part, learner.device, hosts) for part in parts)
    first, second = (replace(part, hosts=hosts) for part in compiled)
    return first, second


def refuse_unknown_mesh(text: str, splits: bool = False) -> None:
    """Raises UserError for a mesh that there isn't. It asks for no devices, so it can be called before all else.

    Args:
      splits: learner and samplers may have devices of their own.
    """
    if text and not is_auto(text) and not (splits and is_split(text)):
        read_mesh(text)


def auto_axes(model: Qwen3VLConfig, devices: int, a_host: int) -> dict[str, int]:
    """Axes that share out a model over any number of devices: experts within a host, weights over as many devices as
    divide them, and copies of that over what is left, like three copies over two of six devices.
    """
    expert = math.gcd(model.text.num_experts, a_host, devices) if model.text.moe else 1
    rest = devices // expert
    # `models.partition.RULES`: what these two axes cut
    width = math.gcd(model.text.hidden_size, model.vision.hidden_size)
    fsdp = max(size for size in range(1, rest + 1) if rest % size == 0 and width % (size * expert) == 0)
    return {"replica": rest // fsdp, "fsdp": fsdp, "expert": expert}


def _values(text: str, words: list[str]) -> dict[str, str | int]:
    numbers: dict[str, str | int] = {}
    for word in words:
        name, equals, value = (part.strip() for part in word.partition("="))
        if not equals:
            close = difflib.get_close_matches(text, [*MESHES, AUTO], n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise UserError(
                f"there is no mesh {text!r}.{hint} Known: {', '.join(MESHES)}; or auto, or axes like fsdp=8,expert=2"
            )
        if name not in _WORDS:
            raise UserError(f"--mesh {text}: there is no {name!r}. Known: {', '.join(_WORDS)}")
        if name in numbers:
            raise UserError(f"--mesh {text} gives {name} twice")
        if name == "device":
            if value not in DEVICES:
                raise UserError(f"--mesh {text}: there is no device {value!r}. Known: {', '.join(DEVICES)}")
            numbers[name] = value
        else:
            if not value.isdecimal() or int(value) < 1:
                raise UserError(f"--mesh {text}: {name} must be a whole number from 1 on, not {value!r}")
            numbers[name] = int(value)
    return numbers


def _a_host(device: str) -> int:
    return _TPU_HOST if device.startswith("v") else _GPU_HOST


def _compiled_for(mesh: MeshConfig, device: str, hosts: int) -> MeshConfig:
    """The mesh with what compiling for its devices takes. `hosts`: 0 = as many as they usually fill."""
    size, tpu = mesh.size, device.startswith("v")
    hosts = hosts or max(1, size // _a_host(device))
    if size % hosts:
        raise UserError(f"--mesh {mesh.name}: {size} devices do not divide among {hosts} hosts")
    if not tpu:
        return replace(mesh, platform="gpu", device=device, hosts=hosts, topology=f"1x{hosts}x{size // hosts}")
    sides = _TPU_SLICES[3 if device in _CUBES else 2]
    if size not in sides:
        raise UserError(f"--mesh {mesh.name}: there is no {device} slice of {size} chips; there are {list(sides)}")
    return replace(mesh, platform="tpu", device=device, hosts=size // _TPU_HOST, topology=f"{device}:{sides[size]}")
