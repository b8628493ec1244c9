"""Mesh presets: how many devices of which kind, and how they are shared between the four axes.

Axes, outermost first: `replica` copies the weights (gradients are summed over it once a step: the only axis that may
cross slices), `fsdp` shares out weights and batch, `expert` shares out experts and batch, `tensor` cuts each matmul.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypereyes_jax.errors import SettingError

AXES = ("replica", "fsdp", "expert", "tensor")
# A sampler shares out experts and rows likewise, but keeps all other weights whole: gathering them takes longer than a
# token does.
SAMPLER_AXES = ("replica", "fsdp", "expert_only", "tensor")


@dataclass(frozen=True)
class MeshConfig:
    """A mesh, and what compiling for it without its devices takes."""

    name: str
    platform: str  # "cpu", "tpu" or "gpu"
    replica: int = 1
    fsdp: int = 1
    expert: int = 1
    tensor: int = 1
    slices: int = 1  # groups of devices joined by the data-center network
    hosts: int = 1
    device: str = ""  # key of `DEVICES`
    topology: str = ""  # of one slice, as the compiler names it
    sampler: bool = False  # a rollout replica

    @property
    def axes(self) -> tuple[str, str, str, str]:
        return SAMPLER_AXES if self.sampler else AXES

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.replica, self.fsdp, self.expert, self.tensor

    @property
    def data_shards(self) -> int:
        """Parts that a batch is cut into."""
        return self.replica * self.fsdp * self.expert

    @property
    def size(self) -> int:
        return self.replica * self.fsdp * self.expert * self.tensor

    def sampler_replica(self, expert: int, tensor: int) -> MeshConfig:
        """`expert * tensor` of these devices that lie next to each other. Raises ValueError for a size there is not."""
        count = expert * tensor
        a_host = self.size // self.hosts
        if self.platform == "tpu":
            cube = self.topology.count("x") == 2
            shapes = {1: "1x1x1", 4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4"} if cube else {
                1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8"}  # fmt: skip
            if count not in shapes:
                raise ValueError(f"there is no {self.device} slice of {count} devices; there are {list(shapes)}")
            topology = f"{self.device}:{shapes[count]}"
        else:
            topology = f"1x{max(1, count // a_host)}x{min(count, a_host)}"
        hosts = max(1, count // a_host)
        return replace(
            self, name=f"{self.name} replica", replica=1, fsdp=1, expert=expert, tensor=tensor, slices=1, hosts=hosts,
            topology=topology, sampler=True,
        )  # fmt: skip

    def __post_init__(self) -> None:
        if self.replica % self.slices:
            raise SettingError(f"mesh {self.name}: replica={self.replica} must be a multiple of slices={self.slices}")


@dataclass(frozen=True)
class DeviceKind:
    """Published figures of one device, for rooflines."""

    memory_gib: float
    bf16_tflops: float
    memory_gbps: float  # GB/s, device memory
    link_gbps: float  # GB/s out of a device to its slice or node, one direction
    network_gbps: float  # GB/s a device to other slices or nodes
    float8_tflops: float = 0.0  # without sparsity; 0 = its matmuls have no 8-bit floating point
    int8_tops: float = 0.0  # without sparsity


DEVICES = {
    # Google Cloud documentation, page of each generation. Links: its "bidirectional ICI bandwidth per chip" (400, 1,200
    # and 800 GB/s) / 2; an older page of v6e has 3,584 Gb/s one way, 448 GB/s. Network: its data-center bandwidth, 50
    # Gb/s a chip of v5p, else a pod's 6.4 and 25.6 Tb/s / 256 chips.
    "v5e": DeviceKind(16, 197, 819, 200, 3.125, int8_tops=393),
    "v5p": DeviceKind(95, 459, 2765, 600, 6.25, int8_tops=918),
    "v6e": DeviceKind(32, 918, 1640, 400, 12.5, int8_tops=1836),
    # NVIDIA data sheets; NVLink both ways / 2; one 400 Gb/s network card a GPU.
    "h20": DeviceKind(140, 148, 4000, 450, 50, 296, 296),
    "h100": DeviceKind(79, 989, 3350, 450, 50, 1979, 1979),
    "h200": DeviceKind(140, 989, 4800, 450, 50, 1979, 1979),
    # The card of 24 GB; no NVLink: PCIe 4.0 x16 one way, and what a workstation has for a network.
    "rtx4090": DeviceKind(24, 165, 1008, 32, 1.25, 330, 661),
}


def _presets(*meshes: MeshConfig) -> dict[str, MeshConfig]:
    return {mesh.name: mesh for mesh in meshes}


MESHES = _presets(
    MeshConfig("cpu", "cpu"),
    MeshConfig("cpu_8", "cpu", fsdp=2, expert=2, tensor=2),
    MeshConfig("gpu", "gpu", device="h100", topology="1x1x1"),
    MeshConfig("gpu_24g", "gpu", device="rtx4090", topology="1x1x1"),
    MeshConfig("gpu_141g", "gpu", device="h200", topology="1x1x1"),
    MeshConfig("gpu_8", "gpu", fsdp=8, device="h100", topology="1x1x8"),
    MeshConfig("gpu_141g_8", "gpu", fsdp=8, device="h200", topology="1x1x8"),
    # The paper trains with TP 4, EP 8 and pipeline 8 on 8 nodes x 8 H20. Pipelining exists there to fit the weights;
    # here FSDP shares them out. `h20_8x8_paper` keeps TP 4 (one KV head a device) and EP 8.
    MeshConfig("h20_8x8", "gpu", fsdp=8, expert=8, tensor=1, hosts=8, device="h20", topology="1x8x8"),
    MeshConfig("h20_8x8_paper", "gpu", fsdp=2, expert=8, tensor=4, hosts=8, device="h20", topology="1x8x8"),
    MeshConfig("h100_8x8", "gpu", fsdp=8, expert=8, hosts=8, device="h100", topology="1x8x8"),
    MeshConfig("h200_8x8", "gpu", fsdp=8, expert=8, hosts=8, device="h200", topology="1x8x8"),
    # Eight chips count as two hosts of four, as the compiler has them; a cloud may put them on one.
    MeshConfig("v5e_8", "tpu", fsdp=8, hosts=2, device="v5e", topology="v5e:2x4"),
    MeshConfig("v6e_8", "tpu", fsdp=8, hosts=2, device="v6e", topology="v6e:2x4"),
    MeshConfig("v5p_8", "tpu", fsdp=8, hosts=2, device="v5p", topology="v5p:2x2x2"),
    MeshConfig("v5e_16", "tpu", fsdp=4, expert=4, hosts=4, device="v5e", topology="v5e:4x4"),
    MeshConfig("v5p_64", "tpu", fsdp=8, expert=8, hosts=16, device="v5p", topology="v5p:4x4x4"),
    MeshConfig("v5p_256", "tpu", fsdp=32, expert=8, hosts=64, device="v5p", topology="v5p:4x8x8"),
    # A v6e has a third of a v5p's memory: tensor parallelism halves or quarters what passes between layers, and fewer
    # devices share the experts, because each holds all tokens of its group (docs/plan.md compares).
    MeshConfig("v6e_64", "tpu", fsdp=8, expert=4, tensor=2, hosts=16, device="v6e", topology="v6e:8x8"),
    MeshConfig("v6e_256", "tpu", fsdp=32, expert=2, tensor=4, hosts=64, device="v6e", topology="v6e:16x16"),
    MeshConfig("v5p_2x64", "tpu", replica=2, fsdp=8, expert=8, slices=2, hosts=32, device="v5p", topology="v5p:4x4x4"),
)
